"""The hash grid on a CPU: numba kernels, compiled for the number of axes and features, on all cores, without atomics.

Forward and gradient to the points run in parallel over levels and spans of points, the gradient to the table over
levels: no two threads write to one place. Points go through in blocks that stay in the cache.
"""

import functools
from typing import Any, no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float
from numba import njit, prange
from torch import Tensor

from nsff.fields.grid.layout import GridLayout

BLOCK = 64  # points whose corners are worked out at once
SPAN = 4096  # points a task

ONE, ZERO = np.float32(1.0), np.float32(0.0)


@functools.cache
@no_type_check  # what is inside belongs to the compiler
def build_kernels(n_axes: int, n_features: int) -> tuple[Any, Any, Any]:
    """(forward, backward_table, backward_points) as compiled functions on numpy arrays."""
    n_corners = 1 << n_axes
    compiled = functools.partial(njit, fastmath=True, nogil=True, cache=True)

    @compiled
    def find_corners(points, start, count, cells, strides, hashed, mask, first, weight, row, low, high):
        """Rows and weights (corner, point) of the corners around points, and the weights (axis, point) along each axis.

        Bit `axis` of a corner's number tells the upper from the lower node.
        """
        term = np.empty(BLOCK, np.uint32)
        for b in range(count):
            weight[0, b] = ONE
            row[0, b] = np.uint32(0)
        for axis in range(n_axes):
            n_cells, stride, half = cells[axis], strides[axis], 1 << axis
            for b in range(count):
                position = min(max(points[start + b, axis], ZERO), ONE) * np.float32(n_cells)
                cell = min(np.int32(position), n_cells - 1)
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
        for c in range(n_corners):
            for b in range(count):
                row[c, b] = (row[c, b] & mask if hashed else row[c, b]) + first

    @compiled(parallel=True)
    def forward(points, table, cells, strides, hashed, mask, first_row, out):
        n_points, n_levels = points.shape[0], cells.shape[0]
        for task in prange(n_levels * ((n_points + SPAN - 1) // SPAN)):
            level, begin = task % n_levels, task // n_levels * SPAN
            end = min(begin + SPAN, n_points)
            weight, row = np.empty((n_corners, BLOCK), np.float32), np.empty((n_corners, BLOCK), np.uint32)
            low, high = np.empty((n_axes, BLOCK), np.float32), np.empty((n_axes, BLOCK), np.float32)
            total = np.empty((BLOCK, n_features), np.float32)
            for start in range(begin, end, BLOCK):
                count = min(BLOCK, end - start)
                find_corners(
                    points, start, count, cells[level], strides[level], hashed[level], mask[level],
                    np.uint32(first_row[level]), weight, row, low, high,
                )  # fmt: skip
                total[:] = ZERO
                for c in range(n_corners):
                    for b in range(count):
                        for f in range(n_features):
                            total[b, f] += weight[c, b] * table[row[c, b], f]
                for f in range(n_features):
                    for b in range(count):
                        out[level * n_features + f, start + b] = total[b, f]

    @compiled(parallel=True)
    def backward_table(points, grad_out, cells, strides, hashed, mask, first_row, grad_table):
        n_points, n_levels = points.shape[0], cells.shape[0]
        for task in prange(n_levels):
            level = n_levels - 1 - task  # the fine, slow ones first
            weight, row = np.empty((n_corners, BLOCK), np.float32), np.empty((n_corners, BLOCK), np.uint32)
            low, high = np.empty((n_axes, BLOCK), np.float32), np.empty((n_axes, BLOCK), np.float32)
            for start in range(0, n_points, BLOCK):
                count = min(BLOCK, n_points - start)
                find_corners(
                    points, start, count, cells[level], strides[level], hashed[level], mask[level],
                    np.uint32(first_row[level]), weight, row, low, high,
                )  # fmt: skip
                for c in range(n_corners):
                    for b in range(count):
                        for f in range(n_features):
                            grad_table[row[c, b], f] += weight[c, b] * grad_out[level * n_features + f, start + b]

    @compiled
    def fold(dot, count, low, high, slope):
        """Derivatives of sum of weight * dot along each axis, into slope[axis, 0], one axis after the other."""
        for axis in range(n_axes - 1, -1, -1):
            half = 1 << axis
            for c in range(half):
                for b in range(count):
                    slope[axis, c, b] = dot[half + c, b] - dot[c, b]
                    dot[c, b] = dot[c, b] * low[axis, b] + dot[half + c, b] * high[axis, b]
                for done in range(axis + 1, n_axes):
                    for b in range(count):
                        slope[done, c, b] = slope[done, c, b] * low[axis, b] + slope[done, half + c, b] * high[axis, b]

    @compiled(parallel=True)
    def backward_points(points, grad_out, table, cells, strides, hashed, mask, first_row, grad_points):
        n_points, n_levels = points.shape[0], cells.shape[0]
        for task in prange((n_points + SPAN - 1) // SPAN):
            begin, end = task * SPAN, min(task * SPAN + SPAN, n_points)
            weight, row = np.empty((n_corners, BLOCK), np.float32), np.empty((n_corners, BLOCK), np.uint32)
            low, high = np.empty((n_axes, BLOCK), np.float32), np.empty((n_axes, BLOCK), np.float32)
            dot, slope = np.empty((n_corners, BLOCK), np.float32), np.empty((n_axes, n_corners, BLOCK), np.float32)
            for start in range(begin, end, BLOCK):
                count = min(BLOCK, end - start)
                for level in range(n_levels):
                    find_corners(
                        points, start, count, cells[level], strides[level], hashed[level], mask[level],
                        np.uint32(first_row[level]), weight, row, low, high,
                    )  # fmt: skip
                    for c in range(n_corners):
                        for b in range(count):
                            product = ZERO
                            for f in range(n_features):
                                product += table[row[c, b], f] * grad_out[level * n_features + f, start + b]
                            dot[c, b] = product
                    fold(dot, count, low, high, slope)
                    for axis in range(n_axes):
                        for b in range(count):
                            if ZERO < points[start + b, axis] < ONE:
                                grad_points[start + b, axis] += slope[axis, 0, b] * np.float32(cells[level, axis])

    return forward, backward_table, backward_points


def _arrays(layout: GridLayout) -> tuple[np.ndarray, ...]:
    return layout.cells, layout.strides, layout.hashed, layout.mask, layout.first_row


def forward(points: Float[Tensor, "n d"], table: Float[Tensor, "rows f"], layout: GridLayout) -> Float[Tensor, "e n"]:
    """Features of points; see `reference.interpolate`."""
    out = points.new_empty(layout.n_levels * table.shape[1], len(points))
    kernel = build_kernels(layout.n_dims, table.shape[1])[0]
    kernel(points.numpy(), table.numpy(), *_arrays(layout), out.numpy())
    return out


def backward_table(
    points: Float[Tensor, "n d"],
    grad_out: Float[Tensor, "e n"],
    grad_table: Float[Tensor, "rows f"],
    layout: GridLayout,
) -> None:
    """Add the gradient to the table, from that to the features, to `grad_table`."""
    kernel = build_kernels(layout.n_dims, grad_table.shape[1])[1]
    with numba.parallel_chunksize(1):  # levels differ in cost: they are handed out one by one
        kernel(points.numpy(), grad_out.numpy(), *_arrays(layout), grad_table.numpy())


def backward_points(
    points: Float[Tensor, "n d"], grad_out: Float[Tensor, "e n"], table: Float[Tensor, "rows f"], layout: GridLayout
) -> Float[Tensor, "n d"]:
    """Gradient to the points from that to the features; 0 along an axis where a point is outside."""
    grad = torch.zeros_like(points)
    kernel = build_kernels(layout.n_dims, table.shape[1])[2]
    kernel(points.numpy(), grad_out.numpy(), table.numpy(), *_arrays(layout), grad.numpy())
    return grad
