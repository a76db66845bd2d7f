"""pycolmap and cv2 in one process."""

import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "nsff_exp"


def test_png_is_written_after_pycolmap_was_imported_before_cv2():
    """Without the import of zlib in `nsff.prep`, the process aborts."""
    code = (
        "import nsff.prep, pycolmap, cv2, numpy; "
        "print(len(cv2.imencode('.png', numpy.zeros((9, 9, 3), numpy.uint8))[1]))"
    )
    environment = os.environ | {"PYTHONPATH": str(PACKAGE)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert int(run.stdout) > 50
