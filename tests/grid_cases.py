"""Layouts of hash grids of two to four axes, and points to query them at."""

import torch
from nsff.fields.hash_grid import make_layout

LAYOUTS = {
    2: make_layout((3, 4), (40, 30), 4, 8),
    3: make_layout((4, 4, 4), (64, 50, 70), 5, 9),
    4: make_layout((3, 3, 3, 2), (33, 40, 20, 12), 4, 10),
}


def sample_points(n_axes: int, n: int) -> torch.Tensor:
    """Draw points inside and outside the box and exactly on borders of cells and of the box."""
    points = torch.rand(n, n_axes, generator=torch.Generator().manual_seed(n)) * 1.4 - 0.2
    points[::3] = (points[::3] * 4).round() / 4
    return points
