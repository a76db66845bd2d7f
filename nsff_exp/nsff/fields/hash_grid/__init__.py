"""Multi-resolution hash grid as a torch module, with kernels for CPU and CUDA and plain torch elsewhere."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nsff import cuda
from nsff.fields.hash_grid import gpu, reference
from nsff.fields.hash_grid.layout import GridLayout, make_layout

try:
    from nsff.fields.hash_grid import cpu
except ImportError:  # numba does not support every platform; `reference` takes over
    cpu = None  # type: ignore[assignment]

__all__ = ["GridLayout", "HashGrid", "make_layout"]

INITIAL_RANGE = 1e-4  # initial features are uniform in +- this (Mueller et al. 2022, section 4)


class _Interpolate(torch.autograd.Function):
    """Compute `reference.interpolate` by kernels, which write features as (e, n): each level writes contiguous memory.

    Note:
        The gradient of the table is accumulated into `table.grad` in place. A training step backpropagates through the
        grid several times, and adding whole tables would cost as much as the kernel. Therefore `Tensor.backward`
        works as usual, but `torch.autograd.grad` with respect to the table does not.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: nn.Parameter, layout: GridLayout) -> Tensor:
        ctx.layout, ctx.table = layout, table
        ctx.save_for_backward(points)
        kernels = gpu if points.is_cuda else cpu
        return kernels.forward(points, table.detach(), layout).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        """Return the gradient with respect to the points; add that of the table to `table.grad`."""
        (points,), table = ctx.saved_tensors, ctx.table
        rows, kernels = grad_out.T.contiguous(), gpu if points.is_cuda else cpu
        grad_points = None
        if ctx.needs_input_grad[0]:
            grad_points = kernels.backward_points(points, rows, table.detach(), ctx.layout)
        if ctx.needs_input_grad[1]:
            if table.grad is None:
                table.grad = torch.zeros_like(table)
            kernels.backward_table(points, rows, table.grad, ctx.layout)
        return grad_points, None, None


def has_kernels(points: Tensor) -> bool:
    """Return True if kernels support the device and dtype of the points."""
    if points.dtype != torch.float32:
        return False
    return cuda.available() if points.is_cuda else cpu is not None and points.device.type == "cpu"


class HashGrid(nn.Module):
    """Trainable features of points in the unit box, interpolated multilinearly on each level."""

    def __init__(self, layout: GridLayout, n_features: int):
        super().__init__()
        self.layout = layout
        self.table = nn.Parameter(torch.empty(layout.n_rows, n_features).uniform_(-INITIAL_RANGE, INITIAL_RANGE))

    @property
    def n_outputs(self) -> int:
        """Number of features per point, over all levels."""
        return self.layout.n_levels * self.table.shape[1]

    def forward(self, points: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        if has_kernels(points):
            return _Interpolate.apply(points.contiguous(), self.table, self.layout)
        return reference.interpolate(points, self.table, self.layout)
