"""Where the nodes of a multi-resolution hash grid lie in its table (Mueller et al., arXiv:2201.05989, section 3)."""

import dataclasses
import math

import numpy as np

# Factors of the spatial hash (equation 4 there); the fourth, for time, is one more large prime.
PRIMES = (1, 2654435761, 805459861, 3674653429)
MAX_DIMS = len(PRIMES)


@dataclasses.dataclass(frozen=True, eq=False)  # eq=False: two layouts are the same only if they are one
class GridLayout:
    """L levels of a grid over the box [0, 1]^d, all in one table of rows.

    A level with few enough nodes has a row for each node; in a finer one, nodes share rows by a hash of their position.
    """

    cells: np.ndarray  # (L, d) int32: cells a level along each axis; one node more
    strides: np.ndarray  # (L, d) uint32: row = sum of position * stride (dense) or its exclusive or (hashed)
    hashed: np.ndarray  # (L,) bool
    first_row: np.ndarray  # (L,) int64
    mask: np.ndarray  # (L,) uint32: rows of a hashed level, less one
    n_rows: int

    @property
    def n_levels(self) -> int:
        return len(self.cells)

    @property
    def n_dims(self) -> int:
        return self.cells.shape[1]


def make_layout(coarsest: tuple[int, ...], finest: tuple[int, ...], n_levels: int, log2_rows: int) -> GridLayout:
    """Levels in geometric progression from `coarsest` to `finest` cells an axis, at most 2^log2_rows rows each.

    Raises:
        ValueError: not 2 to 4 axes, or fewer cells on the finest level than on the coarsest.
    """
    if not 2 <= len(coarsest) == len(finest) <= MAX_DIMS:
        raise ValueError(f"a grid has 2 to {MAX_DIMS} axes")
    if n_levels < 1 or any(not 1 <= low <= high for low, high in zip(coarsest, finest, strict=True)):
        raise ValueError(f"levels run from {coarsest} to {finest} cells: 1 <= coarsest <= finest")
    share = np.linspace(0.0, 1.0, n_levels)[:, None] if n_levels > 1 else np.ones((1, 1))
    low, high = np.log(np.array(coarsest)), np.log(np.array(finest))
    cells = np.round(np.exp(low + share * (high - low))).astype(np.int32)
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
