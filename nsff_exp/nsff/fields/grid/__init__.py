"""A multi-resolution hash grid as a torch module; kernels for the CPU and CUDA, plain torch elsewhere."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nsff.fields.grid import cpu
from nsff.fields.grid.layout import GridLayout, make_layout

__all__ = ["GridLayout", "HashGrid", "make_layout"]

INITIAL_RANGE = 1e-4  # features start in +- this (Mueller et al. 2022, section 4)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
        ctx.layout = layout
        ctx.save_for_backward(points, table)
        return torch.from_numpy(cpu.forward(points.numpy(), table.numpy(), layout)).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        points, table = ctx.saved_tensors
        grad_rows, points_array = grad_out.T.contiguous().numpy(), points.numpy()
        grad_points = grad_table = None
        if ctx.needs_input_grad[0]:
            grad_points = torch.from_numpy(cpu.backward_points(points_array, grad_rows, table.numpy(), ctx.layout))
        if ctx.needs_input_grad[1]:
            grad_table = torch.from_numpy(cpu.backward_table(points_array, grad_rows, table.shape[1], ctx.layout))
        return grad_points, grad_table, None


class HashGrid(nn.Module):
    """Features of points in the unit box, trilinear (or more) within the cells of each level."""

    def __init__(self, layout: GridLayout, n_features: int):
        super().__init__()
        self.layout = layout
        self.table = nn.Parameter(torch.empty(layout.n_rows, n_features).uniform_(-INITIAL_RANGE, INITIAL_RANGE))

    @property
    def n_outputs(self) -> int:
        return self.layout.n_levels * self.table.shape[1]

    def forward(self, points: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        return _Interpolate.apply(points.contiguous(), self.table, self.layout)
