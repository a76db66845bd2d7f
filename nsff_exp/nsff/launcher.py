"""Start a script again as several processes of one machine, one for each GPU, with torch's elastic launcher."""

import logging
import os
import sys
from pathlib import Path

import torch

from nsff.config import Config
from nsff.errors import InputError, UsageError

log = logging.getLogger("nsff")


def launch_processes(config: Config, script: str, argv: list[str]) -> bool:
    """Run a script as `--gpus` processes and wait for them, as `torchrun --standalone` does.

    Args:
        config: made of `argv`.
        script: its file.
        argv: arguments without the program's name.

    Returns:
        Whether that was done; False where this process is to do the work, being the only one or one of those started.

    Raises:
        UsageError: `--gpus` is no number and not `all`.
        InputError: the machine has fewer GPUs, or a process failed.
    """
    if "WORLD_SIZE" in os.environ:
        return False
    n_devices = torch.cuda.device_count() if config.device != "cpu" else 0
    if config.gpus is None:
        if n_devices > 1:
            log.info("%d GPUs are here, one is used: --gpus all uses all of them", n_devices)
        return False
    count = count_processes(config.gpus, n_devices, config.device == "cpu")
    if count == 1:
        return False
    _launch(count, [str(Path(script).absolute()), *argv])
    return True


def count_processes(gpus: str, n_devices: int, on_cpu: bool) -> int:
    """Processes that `--gpus` asks for on a machine with `n_devices` GPUs; `on_cpu`: with `--device cpu`.

    Raises:
        UsageError: it is no number and not `all`.
        InputError: the machine has fewer GPUs.
    """
    if gpus == "all" and not on_cpu:
        count = n_devices
    elif gpus.isdecimal() and int(gpus) > 0:
        count = int(gpus)
    else:
        raise UsageError(f"--gpus {gpus} is not a number from 1 on" + ("" if on_cpu else ", nor all"))
    if not on_cpu and (count == 0 or count > max(n_devices, 1)):
        raise InputError(
            f"--gpus {gpus}: torch sees {n_devices} GPUs here; with --device cpu so many processes share the cores"
        )
    return count


def _launch(count: int, command: list[str]) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # a failed process says why itself
    settings = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, max_restarts=0, rdzv_backend="c10d", rdzv_endpoint="localhost:0"
    )
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun; each process then takes its part of the cores
    try:
        elastic_launch(settings, sys.executable)("-u", *command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        text = f"process {rank} of {count} failed with status {failure.exitcode}, its line says why"
        raise (UsageError if failure.exitcode == 2 else InputError)(text) from error
    except SignalException as error:
        raise KeyboardInterrupt from error
