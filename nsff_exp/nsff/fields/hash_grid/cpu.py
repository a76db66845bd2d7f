"""Hash-grid interpolation on a CPU: numba kernels, specialised for the number of axes and features.

The forward pass runs in parallel over levels and spans of points, the gradient of the points over spans, the gradient
of the table over levels, so that no two threads write to one address and no atomics are needed. Points are processed
in blocks that stay in the cache, by as many threads as torch uses.
"""

import functools
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, no_type_check

import numba
import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float
from numba import njit, prange
from torch import Tensor

from nsff.fields.hash_grid.layout import GridLayout

BLOCK = 64  # points per cache block; their corners are computed together
SPAN = 4096  # points per parallel task

ONE, ZERO = np.float32(1.0), np.float32(0.0)
# All of fast math but "no NaN": a coordinate that is NaN must show, and its row must lie within the table.
FAST_MATH = {"nsz", "arcp", "contract", "afn", "reassoc"}
_compiled = functools.partial(njit, fastmath=FAST_MATH, nogil=True, cache=True)


class _Grid(NamedTuple):
    """A `GridLayout` in the form of a kernel argument.

    `axes` and `features` are empty arrays whose number of dimensions is the number of axes and of features. It is part
    of their numba type, so kernels are specialised for it and their inner loops unrolled.
    """

    cells: np.ndarray
    strides: np.ndarray
    hashed: np.ndarray
    mask: np.ndarray
    first_row: np.ndarray
    axes: np.ndarray
    features: np.ndarray


class _Corners(NamedTuple):
    """Corners of the cells around a block of points.

    `weight` and `row` are (corner, point); `low` and `high`, the weights of the lower and upper node, (axis, point).
    """

    weight: np.ndarray
    row: np.ndarray
    low: np.ndarray
    high: np.ndarray


@_compiled
@no_type_check
def _allocate_corners(grid):
    n_axes = grid.axes.ndim
    weight, row = np.empty((1 << n_axes, BLOCK), np.float32), np.empty((1 << n_axes, BLOCK), np.uint32)
    return _Corners(weight, row, np.empty((n_axes, BLOCK), np.float32), np.empty((n_axes, BLOCK), np.float32))


@_compiled
@no_type_check
def _find_corners(points, level, grid, corners):
    """Write the corners of up to BLOCK points at a level of the grid.

    Bit `axis` of a corner's index is 1 for the upper node along that axis.
    """
    count = len(points)
    weight, row, low, high = corners.weight, corners.row, corners.low, corners.high
    n_axes, hashed, mask = grid.axes.ndim, grid.hashed[level], grid.mask[level]
    term = np.empty(BLOCK, np.uint32)
    for b in range(count):
        weight[0, b] = ONE
        row[0, b] = np.uint32(0)
    for axis in range(n_axes):
        n_cells, stride, half = grid.cells[level, axis], grid.strides[level, axis], 1 << axis
        for b in range(count):
            x = points[b, axis]
            position = (ZERO if x < ZERO else (ONE if x > ONE else x)) * np.float32(n_cells)
            cell = min(np.int32(position if position > ZERO else ZERO), n_cells - 1)
            high[axis, b] = position - np.float32(cell)
            low[axis, b] = ONE - high[axis, b]
            term[b] = np.uint32(cell) * stride
        for c in range(half):
            for b in range(count):
                below = row[c, b]
                if hashed:
                    row[half + c, b] = below ^ (term[b] + stride)
                    row[c, b] = below ^ term[b]
                else:
                    row[half + c, b] = below + (term[b] + stride)
                    row[c, b] = below + term[b]
                weight[half + c, b] = weight[c, b] * high[axis, b]
                weight[c, b] = weight[c, b] * low[axis, b]
    first = np.uint32(grid.first_row[level])
    for c in range(1 << n_axes):
        for b in range(count):
            row[c, b] = (row[c, b] & mask if hashed else row[c, b]) + first


@_compiled
@no_type_check
def _forward_span(points, begin, end, level, table, grid, out):
    n_features = grid.features.ndim
    corners = _allocate_corners(grid)
    total = np.empty(n_features, np.float32)
    for start in range(begin, end, BLOCK):
        count = min(BLOCK, end - start)
        _find_corners(points[start : start + count], level, grid, corners)
        for b in range(count):
            total[:] = ZERO
            for c in range(1 << grid.axes.ndim):
                weight, row = corners.weight[c, b], corners.row[c, b]
                for f in range(n_features):
                    total[f] += weight * table[row, f]
            for f in range(n_features):
                out[level * n_features + f, start + b] = total[f]


@_compiled(parallel=True)
@no_type_check
def _forward(points, table, grid, out):
    n_points, n_levels = points.shape[0], grid.cells.shape[0]
    for task in prange(n_levels * ((n_points + SPAN - 1) // SPAN)):
        level, begin = task % n_levels, task // n_levels * SPAN
        _forward_span(points, begin, min(begin + SPAN, n_points), level, table, grid, out)


@_compiled
@no_type_check
def _backward_table_level(points, grad_out, level, grid, grad_table):
    n_features, n_points = grid.features.ndim, points.shape[0]
    corners = _allocate_corners(grid)
    for start in range(0, n_points, BLOCK):
        count = min(BLOCK, n_points - start)
        _find_corners(points[start : start + count], level, grid, corners)
        for b in range(count):
            for c in range(1 << grid.axes.ndim):
                weight, row = corners.weight[c, b], corners.row[c, b]
                for f in range(n_features):
                    grad_table[row, f] += weight * grad_out[level * n_features + f, start + b]


@_compiled(parallel=True)
@no_type_check
def _backward_table(points, grad_out, grid, grad_table):
    n_levels = grid.cells.shape[0]
    for task in prange(n_levels):
        level = n_levels - 1 - task  # fine levels are the slowest, so they start first
        _backward_table_level(points, grad_out, level, grid, grad_table)


@_compiled
@no_type_check
def _fold(dot, count, corners, slope, grid):
    """Write the derivative of sum(weight * dot) along each axis to slope[axis, 0]; overwrites `dot`."""
    n_axes, low, high = grid.axes.ndim, corners.low, corners.high
    for axis in range(n_axes - 1, -1, -1):
        half = 1 << axis
        for c in range(half):
            for b in range(count):
                slope[axis, c, b] = dot[half + c, b] - dot[c, b]
                dot[c, b] = dot[c, b] * low[axis, b] + dot[half + c, b] * high[axis, b]
            for folded in range(axis + 1, n_axes):
                for b in range(count):
                    lower, upper = slope[folded, c, b], slope[folded, half + c, b]
                    slope[folded, c, b] = lower * low[axis, b] + upper * high[axis, b]


@_compiled
@no_type_check
def _backward_points_span(points, begin, end, grad_out, table, grid, grad_points):
    n_axes, n_features = grid.axes.ndim, grid.features.ndim
    corners = _allocate_corners(grid)
    dot, slope = np.empty_like(corners.weight), np.empty((n_axes, 1 << n_axes, BLOCK), np.float32)
    for start in range(begin, end, BLOCK):
        count = min(BLOCK, end - start)
        for level in range(grid.cells.shape[0]):
            _find_corners(points[start : start + count], level, grid, corners)
            for b in range(count):
                for c in range(1 << n_axes):
                    product, row = ZERO, corners.row[c, b]
                    for f in range(n_features):
                        product += table[row, f] * grad_out[level * n_features + f, start + b]
                    dot[c, b] = product
            _fold(dot, count, corners, slope, grid)
            for axis in range(n_axes):
                for b in range(count):
                    if not (points[start + b, axis] <= ZERO or points[start + b, axis] >= ONE):  # NaN is not
                        grad_points[start + b, axis] += slope[axis, 0, b] * np.float32(grid.cells[level, axis])


@_compiled(parallel=True)
@no_type_check
def _backward_points(points, grad_out, table, grid, grad_points):
    n_points = points.shape[0]
    for task in prange((n_points + SPAN - 1) // SPAN):
        begin = task * SPAN
        _backward_points_span(points, begin, min(begin + SPAN, n_points), grad_out, table, grid, grad_points)


def _run(kernel: Any, *arguments: Any) -> None:
    """Run a kernel, after compiling it or reading it from the disk cache for arguments of new types.

    A file lock serialises compilation across processes, because numba's cache index is not safe against concurrent
    writes.
    """
    threads = torch.get_num_threads()
    types = tuple(numba.typeof(argument) for argument in arguments)
    if types not in kernel.signatures:
        # Users may share the temporary folder, so the name has the user id; os.getuid is missing on Windows only.
        lock = Path(tempfile.gettempdir()) / f"nsff_kernels_{getattr(os, 'getuid', int)()}.lock"
        with FileLock(lock):
            kernel.compile(types)
            if torch.get_num_threads() != threads:  # starting numba's threads also resets OpenMP's count
                torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    kernel(*arguments)


def _grid(layout: GridLayout, n_features: int) -> _Grid:
    sizes = np.empty((0,) * layout.n_dims, bool), np.empty((0,) * n_features, bool)
    return _Grid(layout.cells, layout.strides, layout.hashed, layout.mask, layout.first_row, *sizes)


def forward(points: Float[Tensor, "n d"], table: Float[Tensor, "rows f"], layout: GridLayout) -> Float[Tensor, "e n"]:
    """Interpolate features as `reference.interpolate` does, transposed: one column per point."""
    out = points.new_empty(layout.n_levels * table.shape[1], len(points))
    _run(_forward, points.numpy(), table.numpy(), _grid(layout, table.shape[1]), out.numpy())
    return out


def backward_table(
    points: Float[Tensor, "n d"],
    grad_out: Float[Tensor, "e n"],
    grad_table: Float[Tensor, "rows f"],
    layout: GridLayout,
) -> None:
    """Backpropagate from features to the table; adds to `grad_table`."""
    grid = _grid(layout, grad_table.shape[1])
    with numba.parallel_chunksize(1):  # levels differ in cost, so they are scheduled one by one
        _run(_backward_table, points.numpy(), grad_out.numpy(), grid, grad_table.numpy())


def backward_points(
    points: Float[Tensor, "n d"], grad_out: Float[Tensor, "e n"], table: Float[Tensor, "rows f"], layout: GridLayout
) -> Float[Tensor, "n d"]:
    """Backpropagate from features to the points; 0 along an axis on which a point is outside."""
    grad = torch.zeros_like(points)
    grid = _grid(layout, table.shape[1])
    _run(_backward_points, points.numpy(), grad_out.numpy(), table.numpy(), grid, grad.numpy())
    return grad
