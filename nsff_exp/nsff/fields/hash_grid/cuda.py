"""The hash grid on CUDA: the kernels of `grid.cu`, compiled by cupy for the number of axes and features.

They run on torch's tensors and torch's stream; the host waits for nothing.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nsff.fields.hash_grid.layout import GridLayout

SOURCE = Path(__file__).with_name("grid.cu")
THREADS = 256  # a block


def options(n_axes: int, n_features: int) -> tuple[str, ...]:
    """What the compiler is given beside the source."""
    return ("--std=c++17", f"-DN_AXES={n_axes}", f"-DN_FEATURES={n_features}")


@functools.cache
def available() -> bool:
    """Whether cupy can be imported and sees a GPU."""
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.cuda.is_available())


@functools.cache
def _module(n_axes: int, n_features: int, device: int) -> Any:
    import cupy

    with cupy.cuda.Device(device):
        return cupy.RawModule(code=SOURCE.read_text(), options=options(n_axes, n_features), backend="nvrtc")


@functools.cache
def _arrays(layout: GridLayout, device: torch.device) -> tuple[Tensor, ...]:
    """The layout on the device: copied once."""
    arrays = (layout.cells, layout.strides.view("int32"), layout.hashed, layout.mask.view("int32"), layout.first_row)
    return tuple(torch.from_numpy(array).to(device) for array in arrays)


def _launch(name: str, n_features: int, layout: GridLayout, grid: tuple[int, int], *arguments: Tensor | int) -> None:
    import cupy

    device = next(value.device for value in arguments if isinstance(value, Tensor))
    values = [cupy.int32(value) if isinstance(value, int) else value.data_ptr() for value in arguments]
    with (
        cupy.cuda.Device(device.index),
        cupy.cuda.ExternalStream(torch.cuda.current_stream(device).cuda_stream, device.index),
    ):
        _module(layout.n_dims, n_features, device.index).get_function(name)(grid, (THREADS,), tuple(values))


def _blocks(points: Tensor) -> int:
    return -(-len(points) // THREADS)


def forward(points: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """As `cpu.forward`, on contiguous float32 tensors of one CUDA device."""
    n, n_features = len(points), table.shape[1]
    out = points.new_empty(layout.n_levels * n_features, n)
    grid = (_blocks(points), layout.n_levels)
    _launch("forward", n_features, layout, grid, points, table, *_arrays(layout, points.device), n, out)
    return out


def backward_table(points: Tensor, grad_out: Tensor, grad_table: Tensor, layout: GridLayout) -> None:
    """As `cpu.backward_table`; sums are in no fixed order."""
    grid, arrays = (_blocks(points), layout.n_levels), _arrays(layout, points.device)
    _launch("backward_table", grad_table.shape[1], layout, grid, points, grad_out, *arrays, len(points), grad_table)


def backward_points(points: Tensor, grad_out: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """As `cpu.backward_points`."""
    grad = torch.empty_like(points)
    arrays, n = _arrays(layout, points.device), len(points)
    grid = (_blocks(points), 1)
    _launch("backward_points", table.shape[1], layout, grid, points, grad_out, table, *arrays, n, layout.n_levels, grad)
    return grad
