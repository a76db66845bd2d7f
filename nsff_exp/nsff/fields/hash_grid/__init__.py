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


class _TableGradient:
    """Gradient of a table, summed over all queries of it that one backward pass reaches.

    A training step queries a grid several times, and adding whole tables would cost as much as the kernel.
    """

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def take(self) -> Tensor | None:
        total, self.total = self.total, None
        return total


class _Handle(torch.autograd.Function):
    """The table for some queries: its gradient is what they have summed when the backward pass gets here."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, gradient: _TableGradient) -> Tensor:
        ctx.gradient = gradient
        ctx.set_materialize_grads(False)  # queries hand on no gradient of their own
        return table.view_as(table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: None) -> Any:
        return ctx.gradient.take(), None


class _Interpolate(torch.autograd.Function):
    """Compute `reference.interpolate` by kernels, which write features as (e, n): each level writes contiguous memory.

    The gradient of the table is added to `gradient`, for `_Handle` to return.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, layout: GridLayout, gradient: _TableGradient) -> Tensor:
        ctx.layout, ctx.table, ctx.gradient = layout, table.detach(), gradient
        ctx.save_for_backward(points)
        return (gpu if points.is_cuda else cpu).forward(points, ctx.table, layout).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        """Return the gradient with respect to the points."""
        (points,), table, gradient = ctx.saved_tensors, ctx.table, ctx.gradient
        rows, kernels = grad_out.T.contiguous(), gpu if points.is_cuda else cpu
        grad_points = None
        if ctx.needs_input_grad[0]:
            grad_points = kernels.backward_points(points, rows, table, ctx.layout)
        if ctx.needs_input_grad[1]:
            if gradient.total is None:
                gradient.total = torch.zeros_like(table)
            kernels.backward_table(points, rows, gradient.total, ctx.layout)
        return grad_points, None, None, None


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
        self._shared: tuple[tuple[int, int], Tensor, _TableGradient] | None = None  # state of the table, its handle

    @property
    def n_outputs(self) -> int:
        """Number of features per point, over all levels."""
        return self.layout.n_levels * self.table.shape[1]

    def forward(self, points: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        if not has_kernels(points):
            return reference.interpolate(points, self.table, self.layout)
        table, gradient = self._shared_table()
        return _Interpolate.apply(points.contiguous(), table, self.layout, gradient)

    def _shared_table(self) -> tuple[Tensor, _TableGradient]:
        """Return the table through a handle that all queries share until the table changes."""
        if not torch.is_grad_enabled() or not self.table.requires_grad:
            return self.table.detach(), _TableGradient()
        state = self.table._version, self.table.data_ptr()
        if self._shared is None or self._shared[0] != state:
            gradient = _TableGradient()
            self._shared = state, _Handle.apply(self.table, gradient), gradient
        return self._shared[1:]
