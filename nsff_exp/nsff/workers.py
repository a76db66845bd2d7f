"""Several processes that share a job, as `torchrun` starts them; one, if nothing did."""

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Iterator

import torch.distributed

from nsff.config import InputError

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
            try:
                torch.distributed.barrier()
            except RuntimeError as error:
                raise InputError("another of the processes failed, its line says why") from error

    def share(self, items: list[int]) -> list[int]:
        """What falls to this process; all must have made the same list."""
        return items[self.rank :: self.count]


ALONE = Workers()


@contextlib.contextmanager
def join_workers() -> Iterator[Workers]:
    """The processes that torchrun's environment names, connected while the context lasts."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    torch.distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Workers(torch.distributed.get_rank(), count)
    finally:
        torch.distributed.destroy_process_group()
