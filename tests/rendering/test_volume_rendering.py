"""Depths, compositing and whole frames: hand values and invariants."""

import math

import pytest
import torch
from nsff.data.timeline import Timeline
from nsff.fields import DynamicSamples, StaticSamples
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import Camera, RayBundle, make_rays, pixel_grid
from nsff.geometry.space import NdcSpace
from nsff.rendering.frame_render import render_frame
from nsff.rendering.ray_sampling import DepthSampling, density_noise, sample_depths
from nsff.rendering.train_render import SampledRays, TwoStepWarp, render_train
from nsff.rendering.volume_rendering import composite, composite_blended, intervals, transmittance
from toy_fields import AHEAD, toy

CPU = torch.device("cpu")
SIZE = Intrinsics(12, 20, 15.0)


def test_depths_are_uniform_or_jittered_within_intervals():
    plain = sample_depths(2, 5, 0.0, None, CPU)
    assert plain[0].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    jittered = sample_depths(4000, 5, 1.0, torch.Generator().manual_seed(0), CPU)
    edges = torch.tensor([0.0, 0.125, 0.375, 0.625, 0.875, 1.0])
    assert bool(((jittered >= edges[:-1]) & (jittered <= edges[1:])).all())
    torch.testing.assert_close(jittered.mean(0), (edges[1:] + edges[:-1]) / 2, rtol=0, atol=0.01)


def test_density_noise_has_the_given_std():
    assert density_noise((3, 3), 0.0, None, CPU) == 0.0
    noise = density_noise((200, 200), 2.0, torch.Generator().manual_seed(0), CPU)
    assert float(noise.std()) == pytest.approx(2.0, rel=0.02)


def test_intervals_scale_with_ray_length_and_end_at_1e10():
    rays = RayBundle(torch.zeros(1, 3), torch.tensor([[0.0, 3.0, 4.0]]), torch.zeros(1, 3), NdcSpace(SIZE))
    deltas = intervals(rays, torch.tensor([[0.0, 0.25, 1.0]]))
    assert deltas[0].tolist() == pytest.approx([0.25 * 5.0, 0.75 * 5.0, 1e10 * 5.0])


def test_transmittance_by_hand():
    torch.testing.assert_close(transmittance(torch.tensor([[0.5, 0.2, 0.9]])), torch.tensor([[1.0, 0.5, 0.5 * 0.2]]))


def raw_for(alpha: float) -> float:
    """Raw density with opacity `alpha` over an interval of length 1."""
    return -math.log(1.0 - alpha)


def samples_of(alphas: list[float], rgb_raw: float, blend: list[float] | None = None):
    sigma = torch.tensor([[raw_for(alpha) for alpha in alphas]])
    rgb = torch.full((1, len(alphas), 3), rgb_raw)
    if blend is not None:
        return StaticSamples(rgb, sigma, torch.tensor([blend]))
    zeros, probs = torch.zeros(1, len(alphas), 3), torch.zeros(1, len(alphas))
    return DynamicSamples(rgb, sigma, zeros, zeros, probs, probs)


def test_composite_by_hand():
    depths, deltas = torch.tensor([[0.0, 0.5, 1.0]]), torch.ones(1, 3)
    out = composite(samples_of([0.5, 0.2, 0.9], 0.0), depths, deltas)
    torch.testing.assert_close(out.weights, torch.tensor([[0.5, 0.5 * 0.2, 0.5 * 0.8 * 0.9]]))
    assert float(out.depth) == pytest.approx(0.1 * 0.5 + 0.36 * 1.0)
    assert out.rgb[0].tolist() == pytest.approx([0.5 * (0.5 + 0.1 + 0.36)] * 3)


def test_composite_blended_by_hand():
    depths, deltas = torch.tensor([[0.2, 0.6]]), torch.ones(1, 2)
    static, dynamic = samples_of([0.4, 0.9], 0.0, blend=[0.25, 1.0]), samples_of([0.8, 0.5], 100.0)
    out = composite_blended(static, dynamic, depths, deltas)
    # First sample: opacity 0.8 * 0.25 dynamic, 0.4 * 0.75 static; second: 0.5 dynamic, 0 static.
    transmitted = (1 - 0.2) * (1 - 0.3)
    assert float(out.dynamic_weight) == pytest.approx(0.2 + transmitted * 0.5)
    assert float(out.rgb[0, 0]) == pytest.approx(0.2 * 1.0 + 0.3 * 0.5 + transmitted * 0.5 * 1.0)
    assert float(out.depth) == pytest.approx((0.2 + 0.3) * 0.2 + transmitted * 0.5 * 0.6)


def test_gradients_are_finite_in_empty_and_in_opaque_space():
    for raw in (-5.0, 1e4):
        sigma = torch.full((1, 6), raw, requires_grad=True)
        zeros = torch.zeros(1, 6, 3)
        field = DynamicSamples(zeros, sigma, zeros, zeros, torch.zeros(1, 6), torch.zeros(1, 6))
        out = composite(field, torch.linspace(0, 1, 6)[None], torch.ones(1, 6))
        out.depth.sum().backward()
        assert bool(torch.isfinite(sigma.grad).all())


def test_frame_of_a_wall_does_not_depend_on_the_chunk_size():
    frame = render_frame(
        toy(), Camera(AHEAD, SIZE, NdcSpace(SIZE)), 0.0, DepthSampling(101, 0, 0.0), rays_per_chunk=1000
    )
    assert frame.rgb.shape == (12, 20, 3)
    torch.testing.assert_close(frame.rgb, torch.full((12, 20, 3), 0.5))
    assert float((frame.depth - 0.5).abs().max()) < 0.011
    assert float(frame.dynamic_weight.max()) == 0.0
    chunked = render_frame(
        toy(), Camera(AHEAD, SIZE, NdcSpace(SIZE)), 0.0, DepthSampling(101, 0, 0.0), rays_per_chunk=7
    )
    assert torch.equal(frame.rgb, chunked.rgb)
    assert torch.equal(frame.depth, chunked.depth)


@pytest.mark.parametrize("backward", [True, False])
def test_train_render_warps_points_along_scene_flow(backward):
    rays = make_rays(pixel_grid(SIZE, CPU)[:9], AHEAD, SIZE, NdcSpace(SIZE))
    depths = sample_depths(9, 5, 0.0, None, CPU)
    two_step = TwoStepWarp(backward, rendered=True)
    out = render_train(toy(), SampledRays.at(rays, depths), Timeline(10), 4, n_static=6, two_step=two_step)
    step = torch.tensor([0.01, 0.0, 0.0])
    torch.testing.assert_close(out.next.points, out.ref.points + step)
    torch.testing.assert_close(out.prev.points, out.ref.points - step)
    torch.testing.assert_close(out.two_step_points, out.ref.points + (-2 if backward else 2) * step)
    assert len(out.ref.blended.rgb) == 6
    assert out.two_step is not None
