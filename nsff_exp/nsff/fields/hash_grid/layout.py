"""Layout of a multi-resolution hash grid in its feature table (Mueller et al., arXiv:2201.05989, section 3)."""

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

# Factors of the spatial hash (equation 4 of the paper), extended by another large prime for time.
PRIMES = (1, 2654435761, 805459861, 3674653429)
MAX_DIMS = len(PRIMES)


@dataclasses.dataclass(frozen=True, eq=False)
class GridLayout:
    """Layout of L grid levels over the box [0, 1]^d in one table.

    A level is dense, with one row per node, if its nodes fit into the allowed number of rows; otherwise nodes are
    hashed by position and collide.
    """

    cells: np.ndarray  # (L, d) int32: cells per level and axis; an axis of n cells has n + 1 nodes
    strides: np.ndarray  # (L, d) uint32: row = sum (dense) or exclusive or (hashed) of position * stride
    hashed: np.ndarray  # (L,) bool
    first_row: np.ndarray  # (L,) int64: offset of the level in the table
    mask: np.ndarray  # (L,) uint32: rows of the level minus 1, the bit mask of a hashed level
    n_rows: int
    _copies: dict[torch.device, tuple[Tensor, ...]] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def on_device(self, device: torch.device) -> tuple[Tensor, ...]:
        """Copy cells, strides, hashed, mask and first_row to a device, once; unsigned integers keep their bits."""
        if device not in self._copies:
            arrays = (self.cells, self.strides.view("int32"), self.hashed, self.mask.view("int32"), self.first_row)
            self._copies[device] = tuple(torch.from_numpy(array).to(device) for array in arrays)
        return self._copies[device]

    @property
    def n_levels(self) -> int:
        return len(self.cells)

    @property
    def n_dims(self) -> int:
        return self.cells.shape[1]


def make_layout(coarsest: tuple[int, ...], finest: tuple[int, ...], n_levels: int, log2_rows: int) -> GridLayout:
    """Lay out levels in geometric progression of resolution (equations 2 and 3 of the paper).

    Args:
        coarsest: cells along each axis of the coarsest level.
        finest: the same for the finest level.
        n_levels: number of levels; a single level is the finest.
        log2_rows: binary logarithm of the largest number of rows of a level.

    Raises:
        ValueError: not 2 to 4 axes, or fewer cells on the finest level than on the coarsest.
    """
    if not 2 <= len(coarsest) == len(finest) <= MAX_DIMS:
        raise ValueError(f"{len(coarsest)} and {len(finest)} axes: need the same number, 2 to {MAX_DIMS}")
    if n_levels < 1 or any(not 1 <= low <= high for low, high in zip(coarsest, finest, strict=True)):
        raise ValueError(
            f"{n_levels} levels from {coarsest} to {finest} cells: need 1 or more, 1 <= coarsest <= finest"
        )
    fraction = np.linspace(0.0, 1.0, n_levels)[:, None] if n_levels > 1 else np.ones((1, 1))
    low, high = np.log(np.array(coarsest)), np.log(np.array(finest))
    cells = np.round(np.exp(low + fraction * (high - low))).astype(np.int32)
    rows, hashed, strides = [], [], []
    for level in cells.tolist():
        nodes = [n + 1 for n in level]
        hashed.append(math.prod(nodes) > 1 << log2_rows)
        rows.append(1 << log2_rows if hashed[-1] else math.prod(nodes))
        strides.append(PRIMES[: len(nodes)] if hashed[-1] else [math.prod(nodes[:axis]) for axis in range(len(nodes))])
    first = np.concatenate([[0], np.cumsum(rows)])
    mask = np.array(rows, np.int64) - 1
    return GridLayout(
        cells, np.array(strides, np.uint32), np.array(hashed), first[:-1], mask.astype(np.uint32), int(first[-1])
    )
