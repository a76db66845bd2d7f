"""A multi-resolution hash grid as a torch module: kernels for a CPU and for CUDA, plain torch elsewhere."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nsff.fields.hash_grid import cuda, reference
from nsff.fields.hash_grid.layout import GridLayout, make_layout

try:
    from nsff.fields.hash_grid import cpu
except ImportError:  # numba is not there for every platform: the twin is
    cpu = None  # type: ignore[assignment]

__all__ = ["GridLayout", "HashGrid", "make_layout"]

INITIAL_RANGE = 1e-4  # features start in +- this (Mueller et al. 2022, section 4)


class _Interpolate(torch.autograd.Function):
    """`reference.interpolate` by kernels: features lie (e, n) in memory, so that a level writes one span.

    Note:
        The gradient of the table is added to `table.grad` in place: a training step asks for it several times, and
        each sum of whole tables would cost as much as the kernel. `backward` works as ever, `autograd.grad` does not.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: nn.Parameter, layout: GridLayout) -> Tensor:
        ctx.layout, ctx.table = layout, table
        ctx.save_for_backward(points)
        kernels = cuda if points.is_cuda else cpu
        return kernels.forward(points, table.detach(), layout).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        """Gradient to the points; that to the table goes into `table.grad`."""
        (points,), table = ctx.saved_tensors, ctx.table
        rows, kernels = grad_out.T.contiguous(), cuda if points.is_cuda else cpu
        grad_points = None
        if ctx.needs_input_grad[0]:
            grad_points = kernels.backward_points(points, rows, table.detach(), ctx.layout)
        if ctx.needs_input_grad[1]:
            if table.grad is None:
                table.grad = torch.zeros_like(table)
            kernels.backward_table(points, rows, table.grad, ctx.layout)
        return grad_points, None, None


def has_kernels(points: Tensor) -> bool:
    """Whether there are kernels for the device and type of the points."""
    if points.dtype != torch.float32:
        return False
    return cuda.available() if points.is_cuda else cpu is not None and points.device.type == "cpu"


class HashGrid(nn.Module):
    """Features of points in the unit box, linear along each axis within the cells of each level."""

    def __init__(self, layout: GridLayout, n_features: int):
        super().__init__()
        self.layout = layout
        self.table = nn.Parameter(torch.empty(layout.n_rows, n_features).uniform_(-INITIAL_RANGE, INITIAL_RANGE))

    @property
    def n_outputs(self) -> int:
        """Features of all levels together."""
        return self.layout.n_levels * self.table.shape[1]

    def forward(self, points: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        if has_kernels(points):
            return _Interpolate.apply(points.contiguous(), self.table, self.layout)
        return reference.interpolate(points, self.table, self.layout)
