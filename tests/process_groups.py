"""Several processes of a group on this machine, started as torchrun does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "nsff_exp"


def start_together(count: int, *command: str) -> list[subprocess.Popen]:
    """Start processes with the environment that torchrun gives them."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    environment |= {"OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *command], cwd=FOLDER, env=environment | {"RANK": str(rank)}, stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]  # fmt: skip


def run_together(count: int, *command: str) -> list[str]:
    """Run processes as torchrun does; returns the standard error of each."""
    runs = start_together(count, *command)
    errors = [run.communicate(timeout=200)[1] for run in runs]
    assert [run.returncode for run in runs] == [0] * count, errors
    return errors
