"""Runs of the scripts of the preparation, in this process or as a user types them, and their errors."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from nsff.errors import InputError

SCRIPTS = Path(__file__).resolve().parents[1] / "nsff_scripts"


def run_as_typed(script: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, timeout=300, check=False)


def run_main(script: str, *arguments: str | Path) -> None:
    importlib.import_module(script.removesuffix(".py")).main([str(argument) for argument in arguments])


def error_of(script: str, *arguments: str | Path) -> str:
    """Run the main function of a script that fails, and return its error message."""
    with pytest.raises(InputError) as caught:
        run_main(script, *arguments)
    return str(caught.value)


def error_line(run: subprocess.CompletedProcess, status: int = 1) -> str:
    """The error of a failed process, checked to be a single line."""
    assert run.returncode == status, run.stderr[-2000:]
    assert "Traceback" not in run.stderr
    errors = [line for line in run.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    return errors[0]
