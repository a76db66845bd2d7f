"""Several processes that share a job, as `torchrun` starts them; one, if nothing did."""

import contextlib
import dataclasses
import datetime
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nsff.config import Config
from nsff.errors import InputError

log = logging.getLogger("nsff")

PATIENCE = datetime.timedelta(days=2)  # a process may wait so long for the others' frames


@dataclasses.dataclass(frozen=True)
class Workers:
    """This process among `count`; `rank` 0 does what must be done once."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until all have come here.

        Raises:
            InputError: one of them has ended; it has said why.
        """
        if self.count > 1:
            with _others_alive():
                dist.all_reduce(torch.zeros(1))

    def share(self, items: list[int]) -> list[int]:
        """What falls to this process; all must have made the same list."""
        return items[self.rank :: self.count]

    def portion(self, total: int) -> int:
        """How many of `total` this process takes; of all processes together they are `total`."""
        return total // self.count + (self.rank < total % self.count)

    def average(self, values: list[Tensor]) -> None:
        """Replace each tensor by its mean over the processes; all have the same numbers then, bit for bit."""
        if self.count > 1:
            with _others_alive():
                for value in values:
                    dist.all_reduce(value)
                    value /= self.count

    def agree(self, seconds: float, stop: bool) -> tuple[float, bool]:
        """The seconds of the first process, and whether any wants to stop: the same for all."""
        if self.count == 1:
            return seconds, stop
        told = torch.tensor([seconds if self.first else 0.0, float(stop)], dtype=torch.float64)
        with _others_alive():
            dist.all_reduce(told)
        return float(told[0]), bool(told[1] > 0)

    def gather(self, value: Any) -> list[Any]:
        """What each process has, in order of their ranks."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with _others_alive():
            dist.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """What the first process has; others may give None."""
        if self.count == 1:
            return value
        values = [value if self.first else None]
        with _others_alive():
            dist.broadcast_object_list(values)
        return values[0]


@contextlib.contextmanager
def _others_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise InputError("another of the processes failed, its line says why") from error


ALONE = Workers()


@contextlib.contextmanager
def join_workers() -> Iterator[Workers]:
    """The processes that torchrun's environment names, connected while the context lasts."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    share_cores()
    store, rank, _ = next(dist.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        # On one machine torchrun keeps its store over a restart, with addresses of processes that are gone.
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(
        backend(torch.cuda.is_available()), store=store, rank=rank, world_size=count, timeout=PATIENCE
    )
    try:
        workers = Workers(rank, count)
        yield workers
        workers.wait()  # the first process serves the others' store: it must not leave before them
    finally:
        dist.destroy_process_group()


def share_cores() -> None:
    """torchrun gives each process one thread, unless told otherwise: too few where there are more cores."""
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def backend(with_cuda: bool) -> str:
    """Tensors of a GPU go through NCCL, those of the CPU through gloo."""
    return "cpu:gloo,cuda:nccl" if with_cuda else "gloo"


def pick_device(config: Config) -> torch.device:
    """The device of `--device`; `auto` is CUDA where there is one.

    Raises:
        InputError: cuda was asked for and there is none, or there are more processes than GPUs.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is available to this torch; use --device cpu")
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cuda":  # torchrun's processes on a machine have one each
        local_rank, n_devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local_rank >= n_devices:
            raise InputError(f"process {local_rank} of this machine has no GPU: there are {n_devices}; start as many")
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    log.debug("computing on %s, torch %s, %d threads", device, torch.__version__, torch.get_num_threads())
    if config.amp and device.type == "cpu":
        log.info("without effect here: amp (CUDA only)")
    return device
