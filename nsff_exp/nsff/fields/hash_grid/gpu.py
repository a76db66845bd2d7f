"""Hash-grid interpolation on CUDA: the kernels of `grid.cu`, compiled for the number of axes and features."""

from pathlib import Path

import torch
from torch import Tensor

from nsff import cuda
from nsff.fields.hash_grid.layout import GridLayout


def kernel_source(n_axes: int, n_features: int) -> cuda.KernelSource:
    """Return `grid.cu`, specialised."""
    return cuda.KernelSource(Path(__file__).with_name("grid.cu"), (("N_AXES", n_axes), ("N_FEATURES", n_features)))


def forward(points: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """Interpolate as `cpu.forward` does, on contiguous float32 tensors of one CUDA device."""
    n, n_features = len(points), table.shape[1]
    out = points.new_empty(layout.n_levels * n_features, n)
    source, grid = kernel_source(layout.n_dims, n_features), (cuda.blocks_for(n), layout.n_levels)
    cuda.launch(source, "forward", grid, points, table, *layout.on_device(points.device), n, out)
    return out


def backward_table(points: Tensor, grad_out: Tensor, grad_table: Tensor, layout: GridLayout) -> None:
    """Backpropagate as `cpu.backward_table` does; atomic additions, so the order of the sums is not fixed."""
    n, arrays = len(points), layout.on_device(points.device)
    source, grid = kernel_source(layout.n_dims, grad_table.shape[1]), (cuda.blocks_for(n), layout.n_levels)
    cuda.launch(source, "backward_table", grid, points, grad_out, *arrays, n, grad_table)


def backward_points(points: Tensor, grad_out: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """Backpropagate as `cpu.backward_points` does."""
    n, arrays, grad = len(points), layout.on_device(points.device), torch.empty_like(points)
    source, grid = kernel_source(layout.n_dims, table.shape[1]), (cuda.blocks_for(n),)
    cuda.launch(source, "backward_points", grid, points, grad_out, table, *arrays, n, layout.n_levels, grad)
    return grad
