"""Several processes that share a job: started by torchrun or by `--gpus`, connected by NCCL (GPUs) and gloo (CPU)."""

import contextlib
import dataclasses
import datetime
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nsff.config import Config
from nsff.errors import InputError, UsageError

log = logging.getLogger("nsff")

TIMEOUT = datetime.timedelta(days=2)  # of a collective: the main process may render for hours while others wait


@dataclasses.dataclass(frozen=True)
class ProcessGroup:
    """This process among `size`; the main one, of rank 0, does what must be done once.

    Every collective raises InputError if another process has ended; that one has said why.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all processes have come here."""
        if self.size > 1:
            with _others_alive():
                dist.all_reduce(torch.zeros(1))

    def shard(self, items: list[int]) -> list[int]:
        """Every `size`-th item, from `rank` on; all processes must have the same list."""
        return items[self.rank :: self.size]

    def split(self, total: int) -> int:
        """The part of `total` that this process takes; the parts of all processes add up to it."""
        return total // self.size + (self.rank < total % self.size)

    def all_reduce_mean(self, values: list[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, bit for bit the same in all of them."""
        if self.size > 1:
            with _others_alive():
                for value in values:
                    dist.all_reduce(value)
                    value /= self.size

    def all_reduce_flags(self, seconds: float, stop: bool) -> tuple[float, bool]:
        """The seconds of the main process, and whether any process wants to stop."""
        if self.size == 1:
            return seconds, stop
        flags = torch.tensor([seconds if self.is_main else 0.0, float(stop)], dtype=torch.float64)
        with _others_alive():
            dist.all_reduce(flags)
        return float(flags[0]), bool(flags[1] > 0)

    def all_gather(self, value: Any) -> list[Any]:
        """The value of every process, in order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _others_alive():
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """The value of the main process; the others may give None."""
        if self.size == 1:
            return value
        values = [value if self.is_main else None]
        with _others_alive():
            dist.broadcast_object_list(values)
        return values[0]


SINGLE_PROCESS = ProcessGroup()


@contextlib.contextmanager
def _others_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        log.debug("collective failed: %s", error)
        raise InputError("another of the processes failed, its line says why") from error


@contextlib.contextmanager
def join_process_group() -> Iterator[ProcessGroup]:
    """The processes that torchrun's environment names, connected while the context lasts."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE_PROCESS
        return
    divide_cores()
    store, rank, _ = next(dist.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        # On one machine torchrun keeps its store over a restart, with addresses of processes that are gone.
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(
        backend(torch.cuda.is_available()), store=store, rank=rank, world_size=size, timeout=TIMEOUT
    )
    try:
        group = ProcessGroup(rank, size)
        yield group
        group.barrier()  # the main process serves the store: it must not leave before the others
    finally:
        dist.destroy_process_group()


def divide_cores() -> None:
    """Give each process of a machine its part of the cores; torchrun sets one thread per process unless told."""
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def backend(with_cuda: bool) -> str:
    """The backend of collectives: NCCL for tensors on a GPU, gloo for those on the CPU."""
    return "cpu:gloo,cuda:nccl" if with_cuda else "gloo"


def pick_device(config: Config) -> torch.device:
    """The device of `--device`; `auto` is CUDA where there is one. Each process of a machine has its own GPU.

    Raises:
        InputError: cuda was asked for and there is none, or there are more processes than GPUs.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is available to this torch; use --device cpu")
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        local_rank, n_devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local_rank >= n_devices:
            raise InputError(f"process {local_rank} of this machine has no GPU: there are {n_devices}; start as many")
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    log.debug("computing on %s, torch %s, %d threads", device, torch.__version__, torch.get_num_threads())
    if config.amp and device.type == "cpu":
        log.info("without effect here: amp (CUDA only)")
    return device


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
    size = count_processes(config.gpus, n_devices, config.device == "cpu")
    if size == 1:
        return False
    _launch(size, [str(Path(script).absolute()), *argv])
    return True


def count_processes(gpus: str, n_devices: int, on_cpu: bool) -> int:
    """Processes that `--gpus` asks for on a machine with `n_devices` GPUs; `on_cpu`: with `--device cpu`.

    Raises:
        UsageError: it is no number and not `all`.
        InputError: the machine has fewer GPUs.
    """
    if gpus == "all" and not on_cpu:
        size = n_devices
    elif gpus.isdecimal() and int(gpus) > 0:
        size = int(gpus)
    else:
        raise UsageError(f"--gpus {gpus} is not a number from 1 on" + ("" if on_cpu else ", nor all"))
    if not on_cpu and (size == 0 or size > max(n_devices, 1)):
        raise InputError(
            f"--gpus {gpus}: torch sees {n_devices} GPUs here; with --device cpu, processes share the cores instead"
        )
    return size


def _launch(size: int, command: list[str]) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # a failed process says why itself
    settings = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=size, max_restarts=0, rdzv_backend="c10d", rdzv_endpoint="localhost:0"
    )
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun; each process then takes its part of the cores
    try:
        elastic_launch(settings, sys.executable)("-u", *command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        text = f"process {rank} of {size} failed with status {failure.exitcode}, its line says why"
        raise (UsageError if failure.exitcode == 2 else InputError)(text) from error
    except SignalException as error:
        raise KeyboardInterrupt from error
