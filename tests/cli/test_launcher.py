"""`--gpus`: the number of processes, their exit status, and the choice of devices."""

import subprocess
import sys

import pytest
import torch
from nsff.distributed import pick_device
from nsff.errors import InputError
from nsff.launcher import count_processes, launch_processes, root_failure
from process_groups import FOLDER


def test_gpus_option_returns_status_of_failed_process(arguments):
    command = [sys.executable, "run_nerf.py", *arguments, "--gpus", "2", "--N_rand", "1"]
    run = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "N_rand = 1 is split between 2 processes" in run.stderr
    assert "of 2 failed with exit status 2" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ({0: (1, 100), 1: (-9, 100)}, (1, -9)),  # killed, and the other process failed because of it
        ({0: (1, 101), 1: (-9, 100)}, (1, -9)),
        ({0: (1, 100), 1: (-15, 100)}, (0, 1)),  # ended by the launcher
        ({0: (1, 100), 1: (-9, 131)}, (0, 1)),  # ended by the launcher, as it did not heed the first signal
        ({0: (1, 101), 1: (2, 100)}, (1, 2)),
        ({0: (-15, 100)}, (0, -15)),
    ],
)
def test_failure_that_is_told_is_the_one_that_caused_the_others(failures, expected):
    assert root_failure(failures) == expected


@pytest.mark.parametrize(
    ("gpus", "n_devices", "on_cpu", "expected"),
    [
        ("all", 4, False, 4), ("2", 4, False, 2), ("3", 0, True, 3), ("all", 1, False, 1), ("1", 0, False, 1),
        ("8", 4, False, "torch sees 4 GPUs on this machine"), ("all", 0, False, "torch sees 0 GPUs"),
        ("2", 0, False, "torch sees 0 GPUs"),
        ("none", 4, False, "choose a number from 1, or all"), ("0", 4, False, "choose a number"),
        ("all", 0, True, "--gpus all: choose a number from 1$"),
    ],
)  # fmt: skip
def test_count_processes_of_gpus_option(gpus, n_devices, on_cpu, expected):
    if isinstance(expected, int):
        assert count_processes(gpus, n_devices, on_cpu) == expected
        return
    with pytest.raises(InputError, match=expected):
        count_processes(gpus, n_devices, on_cpu)


def test_several_gpus_without_gpus_option_are_logged(paper_config, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with caplog.at_level("INFO", logger="nsff"):
        assert launch_processes(paper_config, "run_nerf.py", []) is False
    assert "using one of 4 GPUs; --gpus all uses all" in caplog.text


def test_pick_device_rejects_more_processes_than_gpus(paper_config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="process 2 of this machine has no GPU: torch sees 2"):
        pick_device(paper_config)
