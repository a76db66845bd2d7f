"""Weights of a coarse density pass."""

import math

import pytest
import torch
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import make_rays, pixel_grid
from nsff.rendering.ray_sampling import CoarseSamples
from toy_fields import AHEAD

SIZE = Intrinsics(2, 3, 2.0)


def test_coarse_samples_lie_mid_bin():
    rays = make_rays(pixel_grid(SIZE, torch.device("cpu")), AHEAD, SIZE)
    samples = CoarseSamples.along(rays, 4)
    torch.testing.assert_close(samples.points_ndc, rays.points_ndc(torch.tensor([[0.125, 0.375, 0.625, 0.875]] * 6)))
    torch.testing.assert_close(samples.deltas, rays.directions_ndc.norm(dim=-1, keepdim=True).expand(6, 4) / 4.0)


@pytest.mark.parametrize(
    ("opaque_end", "static", "dynamic"),
    [(False, [0.25, 0.0], [0.25, 0.0]), (True, [0.25, 0.5], [0.25, 0.5])],
)
def test_coarse_weights_with_opaque_end_keep_the_remaining_transmittance(opaque_end, static, dynamic):
    """Both fields have opacity 0.5 and blend weight 0.5 in the first bin, 0 in the last: half the light remains."""
    samples = CoarseSamples(torch.zeros(1, 2, 3), torch.ones(1, 2))
    sigma = torch.tensor([[math.log(2.0), -1.0]])
    weights = samples.weights(sigma, torch.full((1, 2), 0.5), sigma, opaque_end)
    torch.testing.assert_close(weights, (torch.tensor([static]), torch.tensor([dynamic])))
