"""Rendering of rays: a training step (the frame, its neighbours, two frames away) and whole frames."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from nsff.data.timeline import Timeline
from nsff.fields import DynamicSamples, Fields, StaticField, StaticSamples
from nsff.geometry.rays import RayBundle
from nsff.rendering.ray_sampling import (
    DepthSampling,
    _coarse_to_fine_depths,
    dilate_and_normalise,
)
from nsff.rendering.volume_rendering import (
    BlendedComposite,
    Composite,
    Noise,
    composite,
    composite_blended,
    intervals,
    render_weights,
)

NoiseSource = Callable[[int], Noise]


@dataclasses.dataclass(frozen=True)
class ReferenceRender:
    """The frame itself at n rays x s samples.

    The static field is evaluated on the first `len(static.blend_w)` rays only: hard-mined rays do not need it.
    """

    points_ndc: Float[Tensor, "n s 3"]
    dynamic: DynamicSamples
    static: StaticSamples
    dynamic_only: Composite
    blended: BlendedComposite


@dataclasses.dataclass(frozen=True)
class WarpRender:
    """The frame rendered from another time: the dynamic field at warped points, along the reference rays."""

    points_ndc: Float[Tensor, "n s 3"]
    dynamic: DynamicSamples
    rgb: Float[Tensor, "n 3"]
    confidence: Float[Tensor, " n"]  # share of the ray's weight that is not disoccluded


@dataclasses.dataclass(frozen=True)
class TrainRender:
    """All that the losses of one step look at.

    `two_step_points_ndc` is two frames away, reached with the neighbour's own flow: prev2 if `two_step_backward`, else
    next2. `two_step` is the render from there, in the stages that have it.
    """

    ref: ReferenceRender
    prev: WarpRender
    next: WarpRender
    two_step_backward: bool
    two_step_points_ndc: Float[Tensor, "n s 3"]
    two_step: WarpRender | None


def render_background(
    static: StaticField, rays: RayBundle, sampling: DepthSampling, generator: torch.Generator | None, noise: NoiseSource
) -> Float[Tensor, "n 3"]:
    """Colours of the static field alone, at depths that follow a first look at it."""

    def look(points_ndc: Tensor, deltas: Tensor) -> Tensor:
        return dilate_and_normalise(render_weights(static.geometry(points_ndc)[0], deltas))

    depths = _coarse_to_fine_depths(look, rays, sampling, generator)
    samples = static(rays.points_ndc(depths), rays.viewdirs)
    return composite(samples, depths, intervals(depths, rays.directions_ndc), noise(len(rays))).rgb


def _warp(
    points_ndc: Tensor, dynamic: DynamicSamples, visible: Tensor, depths: Tensor, deltas: Tensor, noise: Noise
) -> WarpRender:
    """Composite samples at warped points; `visible` is 1 - disocclusion over the steps that led there."""
    warped = composite(dynamic, depths, deltas, noise)
    confidence = (warped.weights.detach() * visible).sum(-1)
    return WarpRender(points_ndc, dynamic, warped.rgb, confidence)


def render_train(
    fields: Fields,
    rays: RayBundle,
    depths: Float[Tensor, "n s"],
    timeline: Timeline,
    frame: int,
    *,
    n_static: int,
    two_step: bool,
    two_step_backward: bool,
    noise: NoiseSource = lambda n_rays: 0.0,
) -> TrainRender:
    """Render one training step (paper, sections 3.2 and 3.3).

    Args:
        fields: static and dynamic.
        rays: of the pixels of `frame`.
        depths: z along each ray.
        timeline: of the sequence.
        frame: reference frame; its neighbours may lie one beyond the ends.
        n_static: rays (the first ones) on which the static field and the union are wanted.
        two_step: render from two frames away as well.
        two_step_backward: that frame is frame - 2, else frame + 2.
        noise: density noise for so many rays; drawn once a frame and shared by both fields.
    """
    n_rays, time = len(rays), timeline.time_of(frame)
    points_ndc, deltas = rays.points_ndc(depths), intervals(depths, rays.directions_ndc)

    def at(moment: float) -> Tensor:
        return points_ndc.new_full((n_rays,), moment)

    dynamic = fields.dynamic(points_ndc, at(time), rays.viewdirs)
    some = slice(0, n_static)
    static = fields.static(points_ndc[some], rays.viewdirs[some])
    ref_noise = noise(n_rays)
    alone = composite(dynamic, depths, deltas, ref_noise)
    some_noise = ref_noise if isinstance(ref_noise, float) else ref_noise[some]
    union = composite_blended(static, dynamic[some], depths[some], deltas[some], some_noise)

    points_prev_ndc, points_next_ndc = points_ndc + dynamic.sf_bwd, points_ndc + dynamic.sf_fwd
    times = torch.cat([at(time - timeline.step), at(time + timeline.step)])
    neighbours = fields.dynamic(torch.cat([points_prev_ndc, points_next_ndc]), times, rays.viewdirs.repeat(2, 1))
    at_prev, at_next = neighbours[:n_rays], neighbours[n_rays:]
    seen_prev, seen_next = 1.0 - dynamic.prob_bwd, 1.0 - dynamic.prob_fwd
    prev = _warp(points_prev_ndc, at_prev, seen_prev, depths, deltas, noise(n_rays))
    next_ = _warp(points_next_ndc, at_next, seen_next, depths, deltas, noise(n_rays))

    if two_step_backward:
        far_ndc, seen, direction = points_prev_ndc + at_prev.sf_bwd, seen_prev * (1.0 - at_prev.prob_bwd), -2.0
    else:
        far_ndc, seen, direction = points_next_ndc + at_next.sf_fwd, seen_next * (1.0 - at_next.prob_fwd), 2.0
    chained = None
    if two_step:
        samples = fields.dynamic(far_ndc, at(time + direction * timeline.step), rays.viewdirs)
        chained = _warp(far_ndc, samples, seen, depths, deltas, noise(n_rays))
    ref = ReferenceRender(points_ndc, dynamic, static, alone, union)
    return TrainRender(ref, prev, next_, two_step_backward, far_ndc, chained)
