"""Loss terms against hand values and invariants."""

import math

import pytest
import torch
from nsff.training.loss_terms import (
    blend_entropy,
    cycle_loss,
    depth_loss,
    disocclusion_loss,
    distortion_loss,
    flow_magnitude_loss,
    least_kinetic,
    line_of_sight_loss,
    spatial_smoothness,
    weighted_mean,
)
from nsff.training.variant_rules import VARIANT_RULES

PAPER, WILD = (
    {"nearest": rules.smooth_nearest, "weighted": rules.smooth_weighted}
    for rules in (VARIANT_RULES["paper"], VARIANT_RULES["wild"])
)


def test_weighted_mean_matches_hand_value():
    values = torch.tensor([[1.0, 3.0], [10.0, 20.0]])
    assert float(weighted_mean(values, torch.tensor([1.0, 0.5]))) == pytest.approx((4.0 + 15.0) / (1.5 * 2))
    assert float(weighted_mean(values, torch.zeros(2))) == 0.0


def test_weighted_mean_gradient_includes_normaliser():
    weight = torch.tensor([1.0, 1.0], requires_grad=True)
    weighted_mean(torch.tensor([[1.0], [3.0]]), weight).backward()
    # d/dw1 of (w1 + 3 w2) / (w1 + w2) at (1, 1) is (1 * 2 - 4) / 4
    assert weight.grad.tolist() == pytest.approx([-0.5, 0.5])


def test_cycle_loss_cancelling_flows_and_disoccluded_samples_give_zero():
    flow = torch.tensor([[[0.1, 0.0, 0.0], [0.0, 0.2, 0.0]]])
    assert float(cycle_loss(flow, -flow, torch.zeros(1, 2))) == 0.0
    return_flow = -flow + torch.tensor([[[0.0, 0.0, 0.0], [0.3, 0.3, 0.3]]])
    assert float(cycle_loss(flow, return_flow, torch.tensor([[0.0, 1.0]]))) == 0.0
    assert float(cycle_loss(flow, return_flow, torch.zeros(1, 2))) == pytest.approx(0.15)


def test_disocclusion_and_magnitude_losses_are_means():
    assert float(disocclusion_loss(torch.tensor([[0.2, 0.6]]))) == pytest.approx(0.4)
    assert float(flow_magnitude_loss(torch.tensor([[[-3.0, 0.0, 0.0]]]))) == pytest.approx(1.0)


def test_distortion_loss_matches_hand_value():
    depths = torch.tensor([[0.0, 0.5, 1.0]])
    between = 2 * (0.5 * 0.2 * 0.5 + 0.5 * 0.3 * 1.0 + 0.2 * 0.3 * 0.5)
    within = (0.5**2 * 0.5 + 0.2**2 * 0.5) / 3
    assert float(distortion_loss(torch.tensor([[0.5, 0.2, 0.3]]), depths)) == pytest.approx(between + within)
    assert float(distortion_loss(torch.tensor([[0.0, 0.0, 1.0]]), depths)) == 0.0


def test_line_of_sight_loss_matches_hand_value():
    """Two rays, a surface at 0.5 and a margin of 0.1: only the first sample lies before it. The second counts half."""
    weights, depths = (
        torch.tensor([[0.4, 0.1, 0.5], [0.0, 0.0, 1.0]]),
        torch.tensor([[0.2, 0.45, 0.6], [0.2, 0.45, 0.6]]),
    )
    loss = line_of_sight_loss(weights, depths, torch.tensor([0.5, 0.5]), 0.1, torch.tensor([1.0, 0.5]))
    first, second = 0.4**2 + abs(0.4 * 0.2 + 0.1 * 0.45 + 0.5 * 0.6 - 0.5), 0.6 - 0.5
    assert float(loss) == pytest.approx((first + 0.5 * second) / 2)


def test_depth_loss_ignores_scale_and_shift_of_disparity():
    depth = torch.tensor([0.1, 0.3, 0.4, 0.9, 0.5])
    assert float(depth_loss(depth, -(7.0 * depth - 2.0))) == pytest.approx(0.0, abs=1e-10)
    assert float(depth_loss(depth, depth)) > 1.0  # nearer and farther swapped


def test_depth_loss_matches_hand_value():
    # medians 1 and 0; deviations (1 + 0 + 2) / 3 = 1 and (1 + 0 + 0) / 3
    loss = depth_loss(torch.tensor([0.0, 1.0, 3.0]), -torch.tensor([-1.0, 0.0, 0.0]))
    assert float(loss) == pytest.approx(((-1 + 3) ** 2 + 0 + 2**2) / 3)


def test_depth_loss_constant_depth_is_finite():
    depth = torch.full((5,), 0.5, requires_grad=True)
    loss = depth_loss(depth, torch.full((5,), 2.0))
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert bool(torch.isfinite(depth.grad).all())


def test_least_kinetic_constant_velocity_gives_zero():
    points = torch.rand(3, 10, 3)
    velocity = torch.tensor([0.1, -0.2, 0.3]).expand(3, 10, 3)
    before, after = points - (points - velocity), (points + velocity) - points
    assert float(least_kinetic(before, after)) == pytest.approx(0.0, abs=1e-12)
    assert float(least_kinetic(velocity, velocity + 0.2)) == pytest.approx(0.5 * 0.04, rel=1e-4)


def test_smoothness_and_kinetic_ignore_farthest_samples():
    points = torch.zeros(1, 20, 3)
    flow = points.clone()
    flow[:, 18:] = 100.0
    assert float(least_kinetic(points, flow)) == 0.0
    assert float(spatial_smoothness(points, flow, **PAPER)) == 0.0
    assert float(spatial_smoothness(points, flow, **WILD)) == pytest.approx(100.0 / 18)  # 19 samples, 18 differences


def test_paper_smoothness_weights_close_samples_more():
    close = torch.tensor([[[0.0, 0, 0], [0.0, 0, 0.1], [0, 0, 0.1]]]).repeat(1, 4, 1)[:, :10]
    far = close * 10
    flow = torch.zeros_like(close)
    flow[0, ::2, 0] = 1.0
    unweighted = float(spatial_smoothness(close, flow, **WILD))
    assert float(spatial_smoothness(far, flow, **WILD)) == pytest.approx(unweighted)
    assert float(spatial_smoothness(far, flow, **PAPER)) < float(spatial_smoothness(close, flow, **PAPER))


def test_blend_entropy_is_zero_at_0_and_1():
    ends, middle = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5]])
    assert float(blend_entropy(ends)) == pytest.approx(0.0, abs=1e-6)
    assert float(blend_entropy(middle)) == pytest.approx(0.5 * math.log(2.0))
