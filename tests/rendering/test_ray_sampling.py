"""Depths along rays, and the weights of a coarse density pass."""

import math

import pytest
import torch
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import make_rays, pixel_grid
from nsff.geometry.space import NdcSpace
from nsff.rendering.ray_sampling import (
    CoarseSamples,
    DepthSampling,
    add_prior_depths,
    choose_depths,
    dilate_and_normalise,
    importance_depths,
    stratified_depths,
)
from toy_fields import AHEAD, toy

CPU = torch.device("cpu")
SIZE = Intrinsics(2, 3, 2.0)


def test_coarse_samples_lie_mid_bin():
    rays = make_rays(pixel_grid(SIZE, CPU), AHEAD, SIZE, NdcSpace(SIZE))
    samples = CoarseSamples.along(rays, 4)
    torch.testing.assert_close(samples.points, rays.points(torch.tensor([[0.125, 0.375, 0.625, 0.875]] * 6)))
    torch.testing.assert_close(samples.deltas, rays.directions.norm(dim=-1, keepdim=True).expand(6, 4) / 4.0)


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


def test_stratified_depths_by_hand():
    assert stratified_depths(1, 4, 0.0, None, CPU)[0].tolist() == [0.125, 0.375, 0.625, 0.875]
    jittered = stratified_depths(50, 4, 1.0, torch.Generator().manual_seed(0), CPU)
    assert bool(((jittered * 4).floor() == torch.arange(4.0)).all())


def test_dilated_weights_by_hand():
    # maxima of neighbours [0 0 | 0 1 | 1 0 | 0 0] are 0 1 1 0 at the inner borders; means of two: 0.5 1 0.5, then / 2
    out = dilate_and_normalise(torch.tensor([[0.0, 0.0, 4.0, 0.0, 0.0]]))
    assert out[0].tolist() == pytest.approx([0.0, 0.25, 0.5, 0.25, 0.0])


def test_importance_depths_follow_the_density():
    density = torch.tensor([[0.0, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    depths = importance_depths(density, 1000, 0.0, None)
    assert bool((depths[:, 1:] >= depths[:, :-1]).all())
    inside = ((depths >= 0.5) & (depths < 0.75)).float().mean(1)
    assert inside.tolist() == pytest.approx([0.8 + 0.2 / 4, 0.25], abs=2e-3)  # a fifth of the PDF is uniform
    assert bool(((depths >= 0.0) & (depths <= 1.0)).all())


def test_add_prior_depths_stay_sorted_around_the_prior():
    uniform, generator = torch.linspace(0, 1, 5).expand(2000, 5), torch.Generator().manual_seed(0)
    depths = add_prior_depths(uniform, torch.full((2000,), 0.4), torch.full((2000,), 0.02), 3, generator)
    assert depths.shape == (2000, 8)
    assert bool((depths[:, 1:] >= depths[:, :-1]).all())
    added = depths[~torch.isin(depths, uniform[0])]
    assert float(added.mean()) == pytest.approx(0.4, abs=1e-3)
    assert float(added.std()) == pytest.approx(0.02, abs=1e-3)


@pytest.mark.parametrize("prior", [0.0, 0.5, 0.999])
def test_add_prior_depths_of_uncertain_priors_do_not_pile_up_at_the_ends(prior):
    """Many samples at infinity made the smoothness terms explode."""
    inner, generator = torch.linspace(0.1, 0.9, 5).expand(2000, 5), torch.Generator().manual_seed(0)
    depths = add_prior_depths(inner, torch.full((2000,), prior), torch.full((2000,), 0.3), 3, generator)
    added = depths[~torch.isin(depths, inner[0])]
    assert bool((added >= 0.0).all())
    assert bool((added <= 0.999).all())
    for end in (0.0, 0.999):
        assert float(((added - end).abs() < 1e-3).float().mean()) < 0.01


def test_coarse_pass_concentrates_depths_at_a_wall():
    size = Intrinsics(12, 20, 15.0)
    rays = make_rays(pixel_grid(size, CPU), AHEAD, size, NdcSpace(size))
    depths = choose_depths(toy(), rays, 0.0, DepthSampling(16, 32, 0.0))
    assert depths.shape == (240, 16)
    near = ((depths - 0.5).abs() < 0.08).float().mean()
    assert float(near) > 0.4  # uniform ones: 0.16
    uniform = choose_depths(toy(), rays, 0.0, DepthSampling(16, 0, 0.0))
    torch.testing.assert_close(uniform[0], torch.linspace(0, 1, 16))
