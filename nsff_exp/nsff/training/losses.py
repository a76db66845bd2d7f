"""The loss terms of both variants.

| term | paper (arXiv:2011.13084), by its names | here |
| --- | --- | --- |
| colour | L_pho of the frame and its warps, L_cb of both fields together | `colour_loss` |
| cycle | L_cyc, scene flow consistent there and back | `cycle_loss` |
| prob | the L1 term on the disocclusion weights beside L_pho | `disocclusion_loss` |
| depth | L_z of L_data, single-view depth | `depth_loss` |
| flow | L_geo of L_data, optical flow | `flow_loss` |
| sf_reg | L_reg, small scene flow | `flow_magnitude_loss` |
| smoothness | L_reg, scene flow smooth in space and in time (least kinetic) | `spatial_smoothness`, `least_kinetic` |
| entropy | not in the paper (`wild`) | `blend_entropy` |
| distortion | not in the paper; off unless `w_distortion` is set | `distortion_loss` |
| background | not in the paper; off unless `background_rays` is set | `background_loss` |
| split | not in the paper; off unless `w_split` is set | `split_loss` |

What differs between the variants is one row of `VARIANT_RULES`.
"""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from nsff.data.pixel_sampler import TrainBatch
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import expected_pixel
from nsff.geometry.space import ndc_to_world
from nsff.rendering.train_render import TrainRender, WarpRender

KINETIC_REPEATS = 2  # the published code adds the least-kinetic term twice
NEAREST_KINETIC = 0.9  # share of the samples of a ray, nearest first, that the kinetic term looks at
TINY = 1e-8


@dataclasses.dataclass(frozen=True)
class VariantRules:
    """Where the two published variants differ in their terms (when a term is on is decided by `schedules`)."""

    flow_relative: bool  # flow target: difference of projected points (True) or pixel + flow (False)
    nearest_smooth: float  # share of samples of a ray that smoothness looks at
    smooth_weighted: bool  # weigh neighbours along the ray by exp(-2 distance)
    two_step_regularised: bool  # the second step has prob, cycle, magnitude and smoothness terms too
    magnitude_of_render: bool  # scene flow magnitude of the composited flow instead of every sample
    entropy: bool


VARIANT_RULES = {
    "paper": VariantRules(True, 0.9, True, True, False, False),
    "wild": VariantRules(False, 0.95, False, False, True, True),
}


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Weights of the terms at one step, and whether dynamic colour is weighed by the dynamic weight map (`wild`)."""

    depth: float
    flow: float
    smooth: float
    sf_reg: float
    cycle: float
    prob: float
    entropy: float
    distortion: float
    split: float
    colour_where_dynamic: bool


@dataclasses.dataclass(frozen=True)
class LossTerms:
    """Scalars as they enter the sum (weights applied)."""

    colour: Tensor
    cycle: Tensor
    prob: Tensor
    depth: Tensor
    flow: Tensor
    sf_reg: Tensor
    smoothness: Tensor
    entropy: Tensor
    distortion: Tensor
    background: Tensor
    split: Tensor

    def total(self) -> Tensor:
        """What training minimises."""
        return torch.stack(list(vars(self).values())).sum()

    def detach(self) -> "LossTerms":
        """The values without their graph."""
        return LossTerms(**{name: value.detach() for name, value in vars(self).items()})


@dataclasses.dataclass(frozen=True)
class NeighbourCameras:
    """Cameras of the reference frame and its neighbours; None beyond the ends of the sequence."""

    ref: Float[Tensor, "3 4"]
    prev: Float[Tensor, "3 4"] | None
    next: Float[Tensor, "3 4"] | None


def compute_losses(
    render: TrainRender,
    batch: TrainBatch,
    cameras: NeighbourCameras,
    intrinsics: Intrinsics,
    weights: LossWeights,
    rules: VariantRules,
    background: tuple[Tensor, Tensor] | None = None,
) -> LossTerms:
    """All terms of one step, with their weights; `background`: colours of the static field alone, and the true ones."""
    ref, dynamic, alone = render.ref, render.ref.dynamic, render.ref.dynamic_only
    steps = [(dynamic.sf_bwd, dynamic.prob_bwd, render.prev), (dynamic.sf_fwd, dynamic.prob_fwd, render.next)]
    chained = _chained_step(render) if rules.two_step_regularised and render.two_step else None
    all_steps = steps if chained is None else [*steps, chained]
    prev_to_ref, next_to_ref = render.prev.dynamic.sf_fwd, render.next.dynamic.sf_bwd
    cycle = cycle_loss(dynamic.sf_fwd, next_to_ref, dynamic.prob_fwd)
    cycle = cycle + cycle_loss(dynamic.sf_bwd, prev_to_ref, dynamic.prob_bwd)
    if chained is not None:
        back = chained[2].dynamic.sf_fwd if render.two_step_backward else chained[2].dynamic.sf_bwd
        cycle = cycle + cycle_loss(chained[0], back, chained[1])
    magnitudes = [flow for flow, _, _ in all_steps]
    if rules.magnitude_of_render:
        magnitudes = [(alone.weights[..., None] * flow).sum(-1) for flow in magnitudes]
    zero = alone.rgb.new_zeros(())
    return LossTerms(
        colour=colour_loss(render, batch, weights.colour_where_dynamic),
        cycle=weights.cycle * cycle,
        prob=weights.prob * sum((disocclusion_loss(prob) for _, prob, _ in all_steps), start=zero),
        depth=weights.depth * depth_loss(alone.depth, batch.disparity),
        flow=weights.flow * flow_loss(render, batch, cameras, intrinsics, rules.flow_relative),
        sf_reg=weights.sf_reg * sum((flow_magnitude_loss(flow) for flow in magnitudes), start=zero),
        smoothness=weights.smooth * _smoothness(render, intrinsics, rules),
        entropy=weights.entropy * blend_entropy(ref.static.blend_w) if rules.entropy else zero,
        distortion=weights.distortion * distortion_loss(alone.weights, ref.points_ndc) if weights.distortion else zero,
        background=zero if background is None else background_loss(*background),
        split=weights.split * split_loss(render, batch) if weights.split else zero,
    )


def _chained_step(render: TrainRender) -> tuple[Tensor, Tensor, WarpRender]:
    """(flow, disocclusion, arrival) of the step from the neighbour to two frames away."""
    assert render.two_step is not None
    if render.two_step_backward:
        return render.prev.dynamic.sf_bwd, render.prev.dynamic.prob_bwd, render.two_step
    return render.next.dynamic.sf_fwd, render.next.dynamic.prob_fwd, render.two_step


def weighted_mean(values: Float[Tensor, "*b c"], weight: Float[Tensor, "*b"]) -> Float[Tensor, ""]:
    """Mean over everything, rows weighed; the gradient also runs through the sum of the weights, as published."""
    return (values * weight[..., None]).sum() / (weight.sum() * values.shape[-1] + TINY)


def colour_loss(render: TrainRender, batch: TrainBatch, where_dynamic: bool) -> Float[Tensor, ""]:
    """Squared error of the dynamic field, of its warps weighed by their confidence, and of the union.

    Args:
        where_dynamic: weigh the dynamic terms by the detached share of the dynamic field (`wild`, from step D), and
            the chained one by nothing else. In that stage the union was rendered on all rays.
    """
    share = render.ref.blended.dynamic_weight.detach() if where_dynamic else None

    def squared_error(rgb: Tensor, weight: Tensor | None) -> Tensor:
        error = (rgb - batch.rgb) ** 2
        if share is not None:
            weight = share if weight is None else weight * share
        return error.mean() if weight is None else weighted_mean(error, weight)

    loss = squared_error(render.ref.dynamic_only.rgb, None)
    for warp in (render.next, render.prev):
        loss = loss + squared_error(warp.rgb, warp.confidence)
    if render.two_step is not None:
        loss = loss + squared_error(render.two_step.rgb, None if where_dynamic else render.two_step.confidence)
    n = batch.n_uniform
    return loss + ((render.ref.blended.rgb[:n] - batch.rgb[:n]) ** 2).mean()


def cycle_loss(
    there: Float[Tensor, "n s 3"], back: Float[Tensor, "n s 3"], prob: Float[Tensor, "n s"]
) -> Float[Tensor, ""]:
    """The flow to a neighbour and the neighbour's flow back cancel where nothing is disoccluded."""
    return weighted_mean((there + back).abs(), 1.0 - prob)


def disocclusion_loss(prob: Float[Tensor, "n s"]) -> Float[Tensor, ""]:
    """Mean disocclusion probability: without it, everything would be called disoccluded."""
    return prob.abs().mean()


def depth_loss(depth: Float[Tensor, " n"], disparity: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Squared difference of depth and -disparity, each shifted by its median and scaled by its mean deviation.

    Note:
        Squared as in the published code. The denominators are clamped here: a constant depth gives no NaN.
    """

    def normalised(values: Tensor) -> Tensor:
        shifted = values - values.median()
        return shifted / shifted.abs().mean().clamp(min=TINY)

    return ((normalised(depth) - normalised(-disparity)) ** 2).mean()


def flow_loss(
    render: TrainRender, batch: TrainBatch, cameras: NeighbourCameras, intrinsics: Intrinsics, relative: bool
) -> Float[Tensor, ""]:
    """Projected scene flow against optical flow, in pixels, over the consistent pixels; each direction that exists."""

    def pixel(points_ndc: Tensor, c2w: Tensor) -> Tensor:
        return expected_pixel(render.ref.dynamic_only.weights, points_ndc, c2w, intrinsics)

    start = pixel(render.ref.points_ndc, cameras.ref) if relative else batch.uv
    loss = start.new_zeros(())
    for warp, c2w, flow, mask in (
        (render.next, cameras.next, batch.flow_fwd, batch.flow_fwd_mask),
        (render.prev, cameras.prev, batch.flow_bwd, batch.flow_bwd_mask),
    ):
        if c2w is not None:
            loss = loss + weighted_mean((pixel(warp.points_ndc, c2w) - start - flow).abs(), mask.to(flow.dtype))
    return loss


def flow_magnitude_loss(flow: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Mean |scene flow|: most of space does not move."""
    return flow.abs().mean()


def spatial_smoothness(
    points_world: Float[Tensor, "n s 3"], neighbour_world: Float[Tensor, "n s 3"], rules: VariantRules
) -> Float[Tensor, ""]:
    """Scene flow in the world is alike at neighbouring samples of a ray."""
    n_near = int(points_world.shape[1] * rules.nearest_smooth)
    points, neighbour = points_world[:, :n_near], neighbour_world[:, :n_near]
    flow = points - neighbour
    change = (flow[:, :-1] - flow[:, 1:]).abs()
    if rules.smooth_weighted:
        distance = (points[:, :-1] - points[:, 1:]).norm(dim=-1, keepdim=True)
        change = change * torch.exp(-2.0 * distance)
    return change.mean()


def least_kinetic(
    before_world: Float[Tensor, "n s 3"], middle_world: Float[Tensor, "n s 3"], after_world: Float[Tensor, "n s 3"]
) -> Float[Tensor, ""]:
    """Half the squared change of velocity of points over three frames."""
    n_near = int(middle_world.shape[1] * NEAREST_KINETIC)
    before, middle, after = before_world[:, :n_near], middle_world[:, :n_near], after_world[:, :n_near]
    return 0.5 * (((after - middle) - (middle - before)) ** 2).mean()


def _smoothness(render: TrainRender, intrinsics: Intrinsics, rules: VariantRules) -> Tensor:
    points_ndc = render.ref.points_ndc, render.prev.points_ndc, render.next.points_ndc, render.two_step_points_ndc
    ref_world, prev_world, next_world, far_world = (ndc_to_world(points, intrinsics) for points in points_ndc)
    loss = spatial_smoothness(ref_world, next_world, rules) + spatial_smoothness(ref_world, prev_world, rules)
    loss = loss + KINETIC_REPEATS * least_kinetic(prev_world, ref_world, next_world)
    if render.two_step_backward:
        step, window = (prev_world, far_world), (far_world, prev_world, ref_world)
    else:
        step, window = (next_world, far_world), (ref_world, next_world, far_world)
    if rules.two_step_regularised:
        loss = loss + spatial_smoothness(*step, rules)
    return loss + least_kinetic(*window)


def blend_entropy(blend_w: Float[Tensor, "n s"]) -> Float[Tensor, ""]:
    """Mean of -b log b: pushes the blend weight to 0 or 1."""
    return -(blend_w * (blend_w + TINY).log()).mean()


def distortion_loss(weights: Float[Tensor, "n s"], points_ndc: Float[Tensor, "n s 3"]) -> Float[Tensor, ""]:
    """Spread of the weights along each ray: fog has much, a surface none.

    sum_ij w_i w_j |z_i - z_j| + 1/3 sum_i w_i^2 (z_{i+1} - z_i), with z the depth in 0..1.

    Source: mip-NeRF 360, arXiv:2111.12077, equation 15.
    """
    z = (points_ndc[..., 2] + 1.0) / 2.0  # NDC runs from -1 to 1
    before = weights.cumsum(-1) - weights
    z_before = (weights * z).cumsum(-1) - weights * z
    between = 2.0 * (weights * (z * before - z_before)).sum(-1)
    within = (weights[:, :-1] ** 2 * (z[:, 1:] - z[:, :-1])).sum(-1) / 3.0
    return (between + within).mean()


def background_loss(rgb: Float[Tensor, "n 3"], truth: Float[Tensor, "n 3"]) -> Float[Tensor, ""]:
    """Squared error of the static field alone."""
    return ((rgb - truth) ** 2).mean()


def split_loss(render: TrainRender, batch: TrainBatch) -> Float[Tensor, ""]:
    """Mean share of the dynamic field on uniform rays of the background.

    Without it both fields learn the background, and the dynamic one hangs there as haze in views of other cameras.
    """
    n = batch.n_uniform
    return weighted_mean(render.ref.blended.dynamic_weight[:n, None], batch.background[:n].to(batch.rgb.dtype))
