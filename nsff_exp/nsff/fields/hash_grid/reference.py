"""The hash grid in plain torch: what the kernels are tested against, and the fallback where none can run."""

import functools
import operator

import torch
from jaxtyping import Float
from torch import Tensor

from nsff.fields.hash_grid.layout import GridLayout

WORD = 0xFFFFFFFF  # the kernels count in 32 bits


def interpolate(
    points: Float[Tensor, "n d"], table: Float[Tensor, "rows f"], layout: GridLayout
) -> Float[Tensor, "n e"]:
    """Features of all levels at points of the unit box; outside, those of the nearest point of the box.

    Differentiable in both, by autograd. Features of a level lie together: e = level * f + feature.
    """
    inside = points.clamp(0.0, 1.0)
    levels = []
    for level in range(layout.n_levels):
        cells = torch.as_tensor(layout.cells[level], device=points.device)
        position = inside * cells
        cell = torch.minimum(position.detach().floor().long(), cells - 1)
        fraction = position - cell
        features = []
        for corner in range(1 << layout.n_dims):
            upper = [corner >> axis & 1 for axis in range(layout.n_dims)]
            weights = [fraction[:, a] if up else 1.0 - fraction[:, a] for a, up in enumerate(upper)]
            terms = [(cell[:, a] + up) * int(layout.strides[level, a]) & WORD for a, up in enumerate(upper)]
            row = functools.reduce(operator.xor if layout.hashed[level] else operator.add, terms)
            if layout.hashed[level]:
                row = row & int(layout.mask[level])
            weight = functools.reduce(operator.mul, weights)
            features.append(weight[:, None] * table[int(layout.first_row[level]) + row])
        levels.append(torch.stack(features).sum(0))
    return torch.cat(levels, dim=-1)
