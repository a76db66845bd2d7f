"""Process groups: several processes, started by torchrun or `--gpus`, that train, render or evaluate together."""

import contextlib
import dataclasses
import datetime
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nsff.config import Config
from nsff.cuda import describe_device
from nsff.errors import InputError, reason_of

CPU = torch.device("cpu")
log = logging.getLogger("nsff")

# In the errors of gloo about other processes: they have no class of their own.
MAX_REASON = 300  # characters of an error of a collective in a message
LOST_CONNECTION = re.compile(r"gloo/transport|Connection (closed|reset|refused)|Broken pipe|pair closure")
TIMEOUT = datetime.timedelta(days=2)  # of collectives on CPUs: others may wait for hours while the main process renders
GPU_TIMEOUT = datetime.timedelta(
    minutes=10
)  # of collectives between GPUs, of gradients alone; then the process is ended
JOIN_TIMEOUT = datetime.timedelta(minutes=10)  # until all processes have started


class LostProcess(InputError):
    """Another process of the group has ended; its own error message names the cause."""


@dataclasses.dataclass(frozen=True)
class ProcessGroup:
    """This process (`rank`) in a group of `size`; rank 0 is the main process, which writes shared files.

    Collectives raise LostProcess if another process has ended. `gpus` connects the GPUs; None on CPUs.
    """

    rank: int = 0
    size: int = 1
    gpus: Any = None  # torch.distributed.ProcessGroup

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all processes have reached this call."""
        if self.size > 1:
            with _translate_errors():
                dist.all_reduce(torch.zeros(1))

    @contextlib.contextmanager
    def share_errors(self) -> Iterator[None]:
        """Wait at the end of the context, and raise an InputError of any process on all of them.

        All processes leave it alike, so that none waits in the collective of a step that another has given up.
        Collectives within the context must be reached by all processes or by none.

        Raises:
            InputError: of this process, else of the first that has one; its message begins with the rank.
        """
        error: InputError | None = None
        try:
            yield
        except InputError as caught:
            if self.size == 1:
                raise
            error = caught
        messages = self.all_gather(None if error is None else str(error))
        if error is not None:
            raise error
        for rank, message in enumerate(messages):
            if message is not None:
                raise InputError(f"process {rank}: {message}")

    def shard(self, items: list[int]) -> list[int]:
        """Take every `size`-th item, starting at `rank`; all processes must pass the same list."""
        return items[self.rank :: self.size]

    def split(self, total: int) -> int:
        """Part of a count that falls to this process; the parts of all processes sum to `total`."""
        return total // self.size + (self.rank < total % self.size)

    def all_reduce_mean(self, values: list[Tensor]) -> None:
        """Replace tensors by their means over the processes, bit for bit the same on all of them; one collective."""
        if self.size > 1:
            bucket = torch.cat([value.flatten() for value in values])
            with _translate_errors():
                dist.all_reduce(bucket, group=self.gpus if bucket.is_cuda else None)
            bucket /= self.size
            for value, mean in zip(values, bucket.split([value.numel() for value in values]), strict=True):
                value.copy_(mean.view_as(value))

    def all_reduce_flags(self, seconds: float, stop: bool) -> tuple[float, bool]:
        """Combine over the processes: seconds of the main process, and whether any process asks to stop."""
        if self.size == 1:
            return seconds, stop
        flags = torch.tensor([seconds if self.is_main else 0.0, float(stop)], dtype=torch.float64)
        with _translate_errors():
            dist.all_reduce(flags)
        return float(flags[0]), bool(flags[1] > 0)

    def all_gather(self, value: Any) -> list[Any]:
        """Values of all processes, in order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _translate_errors():
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """Value of the main process; the others may pass None."""
        if self.size == 1:
            return value
        values = [value if self.is_main else None]
        with _translate_errors():
            dist.broadcast_object_list(values)
        return values[0]


SINGLE_PROCESS = ProcessGroup()


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise LostProcess where a collective fails because a process of the group has ended; pass on all other errors."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not LOST_CONNECTION.search(str(error)):
            raise
        reason = reason_of(error, MAX_REASON)
        raise LostProcess(
            f"the connection to another process of the group failed, see its own error message ({reason})"
        ) from error


@contextlib.contextmanager
def open_session(config: Config) -> Iterator[tuple[torch.device, ProcessGroup]]:
    """Select the device, see `pick_device`, and connect to the other processes, see `join_process_group`."""
    device = pick_device(config)
    with join_process_group(device) as group:
        yield device, group


@contextlib.contextmanager
def join_process_group(device: torch.device = CPU) -> Iterator[ProcessGroup]:
    """Connect to the processes named in torchrun's environment, until the context ends.

    After an error the connections are left open: closing them waits for collectives that the others never reach. The
    process must then end at once, as `cli.run_script` does, which ends the others.

    Args:
        device: of this process; the current one of torch if it is a GPU.

    Yields:
        The group; `SINGLE_PROCESS` where torchrun did not start this process.

    Raises:
        InputError: some processes did not start within `JOIN_TIMEOUT`.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE_PROCESS
        return
    divide_cores()
    store, rank, _ = next(dist.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        # On one machine torchrun's store survives a restart, with the addresses of processes that have died.
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    _wait_for_all(store, rank, size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    gpus = dist.new_group(backend="nccl", timeout=GPU_TIMEOUT) if device.type == "cuda" else None
    group = ProcessGroup(rank, size, gpus)
    yield group
    group.barrier()  # the main process serves the store: it must not exit before the others
    dist.destroy_process_group()


def _wait_for_all(store: dist.Store, rank: int, size: int) -> None:
    """Wait until all processes have started: connecting itself would wait for days for one that has failed."""
    names = [f"started {index}" for index in range(size)]
    try:
        store.set(names[rank], "")
        store.wait(names, JOIN_TIMEOUT)
    except dist.DistError as error:
        raise InputError(
            f"not all of {size} processes have started within {JOIN_TIMEOUT.total_seconds() / 60:g} minutes; see their "
            "error messages"
        ) from error


def divide_cores() -> None:
    """Divide the cores of the machine between its processes, unless OMP_NUM_THREADS asks for a number above 1.

    torchrun sets OMP_NUM_THREADS=1 where the user has set nothing.
    """
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def pick_device(config: Config) -> torch.device:
    """Select the device that `--device` names; `auto` prefers CUDA. Each process of a machine gets its own GPU.

    Raises:
        InputError: CUDA is asked for but not available, or the machine has fewer GPUs than processes.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is available to this torch; use --device cpu")
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        local_rank, n_devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local_rank >= n_devices:
            raise InputError(
                f"process {local_rank} of this machine has no GPU: torch sees {n_devices}; start as many processes"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        # Matrix products of the networks in TF32; camera geometry uses none (rotate_to_camera).
        torch.set_float32_matmul_precision("high")
    log.info("computing on %s; torch %s", describe_device(device), torch.__version__)
    if config.amp and device.type == "cpu":
        log.info("without effect here: amp (CUDA only)")
    return device
