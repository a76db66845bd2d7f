"""Make the package `nsff` importable in the scripts of this folder, in a fresh clone without an installation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nsff_exp"))
