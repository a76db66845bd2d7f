"""Hash-grid interpolation in plain torch: reference for the tests of the kernels, and fallback where none can run."""

import functools
import operator

import torch
from jaxtyping import Float
from torch import Tensor

from nsff.fields.hash_grid.layout import GridLayout

UINT32_MASK = 0xFFFFFFFF  # products wrap around as in the kernels, which hash in 32-bit unsigned integers


def interpolate(
    points: Float[Tensor, "n d"], table: Float[Tensor, "rows f"], layout: GridLayout
) -> Float[Tensor, "n e"]:
    """Interpolate the features of all levels at points of the unit box, multilinearly within each cell.

    Differentiable in points and table.

    Args:
        points: coordinates; those outside (0, 1) are clamped, and their gradient along that axis is 0.
        table: f features per row.
        layout: of the table.

    Returns:
        Features; column level * f + i is feature i of a level.
    """
    inside = torch.where((points > 0.0) & (points < 1.0), points, points.detach().clamp(0.0, 1.0))
    levels = []
    for level in range(layout.n_levels):
        cells = torch.as_tensor(layout.cells[level], device=points.device)
        position = inside * cells
        cell = torch.minimum(position.detach().floor().long(), cells - 1)
        fraction = position - cell
        features = []
        for corner in range(1 << layout.n_dims):
            upper = [corner >> axis & 1 for axis in range(layout.n_dims)]
            weights = [fraction[:, axis] if up else 1.0 - fraction[:, axis] for axis, up in enumerate(upper)]
            terms = [
                (cell[:, axis] + up) * int(layout.strides[level, axis]) & UINT32_MASK for axis, up in enumerate(upper)
            ]
            row = functools.reduce(operator.xor if layout.hashed[level] else operator.add, terms)
            if layout.hashed[level]:
                row = row & int(layout.mask[level])
            weight = functools.reduce(operator.mul, weights)
            features.append(weight[:, None] * table[int(layout.first_row[level]) + row])
        levels.append(torch.stack(features).sum(0))
    return torch.cat(levels, dim=-1)
