"""Start the processes of `--gpus` and say how they ended."""

import logging
import os
import signal
import sys
from pathlib import Path

import torch

from nsff.config import Config
from nsff.errors import InputError, UsageError

log = logging.getLogger("nsff")

SEEN_TOGETHER = 2  # seconds between failures of which one may have caused the other


def launch_processes(config: Config, script: str, argv: list[str]) -> bool:
    """Run a script in `--gpus` processes and wait for them, as `torchrun --standalone` does.

    Args:
        config: options of the command line.
        script: file of the script.
        argv: the command line, without the program's name.

    Returns:
        True if the processes ran; False if this process must do the work, as the only one or as one of a group.

    Raises:
        UsageError: `--gpus` is neither a number nor `all`.
        InputError: the machine has fewer GPUs, or a process failed.
    """
    if "WORLD_SIZE" in os.environ:
        return False
    n_devices = torch.cuda.device_count() if config.device != "cpu" else 0
    if config.gpus is None:
        if n_devices > 1:
            log.info("using one of %d GPUs; --gpus all uses all of them", n_devices)
        return False
    size = count_processes(config.gpus, n_devices, config.device == "cpu")
    if size == 1:
        return False
    _launch(size, [str(Path(script).absolute()), *argv])
    return True


def count_processes(gpus: str, n_devices: int, on_cpu: bool) -> int:
    """Number of processes that `--gpus` asks for.

    Args:
        gpus: value of the option.
        n_devices: GPUs of the machine.
        on_cpu: whether the processes compute on the CPU (`--device cpu`).

    Raises:
        UsageError: `gpus` is neither a number nor `all`, or is `all` on the CPU.
        InputError: the machine has fewer GPUs.
    """
    if gpus == "all" and not on_cpu:
        size = n_devices
    elif gpus.isdecimal() and int(gpus) > 0:
        size = int(gpus)
    else:
        raise UsageError(f"--gpus {gpus}: choose a number from 1" + ("" if on_cpu else ", or all"))
    if not on_cpu and (size == 0 or size > max(n_devices, 1)):
        raise InputError(
            f"--gpus {gpus}: torch sees {n_devices} GPUs on this machine; with --device cpu, processes share its cores"
        )
    return size


def describe_exit(status: int) -> str:
    """How a process ended, by its exit status; a negative one is minus the signal that killed it."""
    if status >= 0:
        return f"failed with exit status {status}; see its error message above"
    name = signal.Signals(-status).name
    hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def root_failure(failures: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """The process whose end ended the others, and its exit status.

    One that is killed says nothing, and is often seen together with those that fail because it is gone. Those that the
    launcher ends in turn die of SIGTERM, or much later of SIGKILL.

    Args:
        failures: exit status and time (whole seconds) of all that failed, by the number of the process.
    """
    begun = min(time for _, time in failures.values())
    at_first = {rank: status for rank, (status, time) in sorted(failures.items()) if time <= begun + SEEN_TOGETHER}
    killed = [rank for rank, status in at_first.items() if status < 0 and status != -signal.SIGTERM]
    rank = killed[0] if killed else min(at_first, key=lambda rank: failures[rank][1])
    return rank, at_first[rank]


def _launch(size: int, command: list[str]) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # a failed process reports itself
    settings = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=size, max_restarts=0, rdzv_backend="c10d", rdzv_endpoint="localhost:0"
    )
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does; see divide_cores
    try:
        elastic_launch(settings, sys.executable)("-u", *command)
    except ChildFailedError as error:
        failures = {rank: (failure.exitcode, failure.timestamp) for rank, failure in error.failures.items()}
        rank, status = root_failure(failures)
        text = f"process {rank} of {size} {describe_exit(status)}"
        raise (UsageError if status == 2 else InputError)(text) from error
    except SignalException as error:
        raise KeyboardInterrupt from error
