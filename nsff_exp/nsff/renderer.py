"""Rendering of rays: a training step (the frame, its neighbours, two frames away) and whole frames."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from nsff.compositing import (
    Composite,
    Noise,
    UnionComposite,
    composite,
    composite_union,
    intervals,
    weights_alone,
    weights_union,
)
from nsff.fields import DynamicSamples, Fields, StaticField, StaticSamples
from nsff.rays import Camera, RayBundle
from nsff.sampling import DepthSampling, importance_depths, sample_depths, span_depths, widened
from nsff.timeline import FlowDirection, Timeline

NoiseSource = Callable[[int], Noise]


@dataclasses.dataclass(frozen=True)
class ReferenceRender:
    """The frame itself at n rays x s samples.

    The static field is evaluated on the first `len(static.blend_w)` rays only: hard-mined rays do not need it.
    """

    points_ndc: Float[Tensor, "n s 3"]
    dynamic: DynamicSamples
    static: StaticSamples
    dynamic_alone: Composite
    union: UnionComposite


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

    `chain_points_ndc` is two frames away, reached with the neighbour's own flow: prev2 if `chain_backward`, else next2.
    `chain` is the render from there, in the stages that have it.
    """

    ref: ReferenceRender
    prev: WarpRender
    next: WarpRender
    chain_backward: bool
    chain_points_ndc: Float[Tensor, "n s 3"]
    chain: WarpRender | None


@dataclasses.dataclass(frozen=True)
class FrameRender:
    """A whole frame; colours 0..1, depth NDC z 0..1.

    `dynamic_weight` (0..1) and `dynamic_rgb` are the share of the dynamic field in it. `flow` is where that share moves
    in this camera until the next frame, pixels (right, down), 0 where nothing moves; there if it was asked for.
    """

    rgb: Float[Tensor, "h w 3"]
    depth: Float[Tensor, "h w"]
    dynamic_weight: Float[Tensor, "h w"]
    dynamic_rgb: Float[Tensor, "h w 3"]
    flow: Float[Tensor, "h w 2"] | None = None


Look = Callable[[Float[Tensor, "n m 3"], Float[Tensor, "n m"]], Float[Tensor, "n m"]]


@torch.no_grad()
def _depths_after_look(
    look: Look, rays: RayBundle, sampling: DepthSampling, generator: torch.Generator | None
) -> Float[Tensor, "n s"]:
    """Depths that follow the density which `look` finds at (points, intervals); uniform ones without a look."""
    n_rays, device = len(rays), rays.origins_ndc.device
    if not sampling.n_look:
        return sample_depths(n_rays, sampling.n_samples, sampling.perturb, generator, device)
    depths = span_depths(n_rays, sampling.n_look, sampling.perturb, generator, device)
    deltas = (rays.directions_ndc.norm(dim=-1, keepdim=True) / sampling.n_look).expand_as(depths)
    density = look(rays.points_ndc(depths), deltas)
    return importance_depths(density, sampling.n_samples, sampling.perturb, generator)


def choose_depths(
    fields: Fields, rays: RayBundle, time: float, sampling: DepthSampling, generator: torch.Generator | None = None
) -> Float[Tensor, "n s"]:
    """Depths of the samples of each ray.

    After a first look, half of them follow the union of both fields and half the dynamic field alone: the losses look
    at both.

    Args:
        fields: static and dynamic.
        rays: n.
        time: of the frame.
        sampling: how many.
        generator: source of the jitter, on the device of the rays.
    """

    def look(points_ndc: Tensor, deltas: Tensor) -> Tensor:
        dynamic = fields.dynamic.geometry(points_ndc, points_ndc.new_full((len(rays),), time))
        static, blend_w = fields.static.geometry(points_ndc)
        of_static, of_dynamic = weights_union(static, blend_w, dynamic, deltas)
        return widened(of_static + of_dynamic) + widened(weights_alone(dynamic, deltas))

    return _depths_after_look(look, rays, sampling, generator)


def render_background(
    static: StaticField, rays: RayBundle, sampling: DepthSampling, generator: torch.Generator | None, noise: NoiseSource
) -> Float[Tensor, "n 3"]:
    """Colours of the static field alone, at depths that follow a first look at it."""

    def look(points_ndc: Tensor, deltas: Tensor) -> Tensor:
        return widened(weights_alone(static.geometry(points_ndc)[0], deltas))

    depths = _depths_after_look(look, rays, sampling, generator)
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
    chain: bool,
    chain_backward: bool,
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
        chain: render from two frames away as well.
        chain_backward: that frame is frame - 2, else frame + 2.
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
    union = composite_union(static, dynamic[some], depths[some], deltas[some], some_noise)

    points_prev_ndc, points_next_ndc = points_ndc + dynamic.sf_bwd, points_ndc + dynamic.sf_fwd
    times = torch.cat([at(time - timeline.step), at(time + timeline.step)])
    neighbours = fields.dynamic(torch.cat([points_prev_ndc, points_next_ndc]), times, rays.viewdirs.repeat(2, 1))
    at_prev, at_next = neighbours[:n_rays], neighbours[n_rays:]
    seen_prev, seen_next = 1.0 - dynamic.prob_bwd, 1.0 - dynamic.prob_fwd
    prev = _warp(points_prev_ndc, at_prev, seen_prev, depths, deltas, noise(n_rays))
    next_ = _warp(points_next_ndc, at_next, seen_next, depths, deltas, noise(n_rays))

    if chain_backward:
        far_ndc, seen, direction = points_prev_ndc + at_prev.sf_bwd, seen_prev * (1.0 - at_prev.prob_bwd), -2.0
    else:
        far_ndc, seen, direction = points_next_ndc + at_next.sf_fwd, seen_next * (1.0 - at_next.prob_fwd), 2.0
    chained = None
    if chain:
        samples = fields.dynamic(far_ndc, at(time + direction * timeline.step), rays.viewdirs)
        chained = _warp(far_ndc, samples, seen, depths, deltas, noise(n_rays))
    ref = ReferenceRender(points_ndc, dynamic, static, alone, union)
    return TrainRender(ref, prev, next_, chain_backward, far_ndc, chained)


@torch.no_grad()
def render_frame(
    fields: Fields,
    camera: Camera,
    time: float,
    sampling: DepthSampling,
    rays_at_once: int,
    flow: FlowDirection | None = None,
) -> FrameRender:
    """Render both fields together from a camera at a time; no jitter, no noise, nothing kept for a gradient.

    Args:
        fields: static and dynamic.
        camera: what the frame is seen with.
        time: -1..1.
        sampling: depths a ray; not jittered here.
        rays_at_once: most rays in memory.
        flow: render scene flow too, from that to the next frame, or that to the one before, turned round.
    """
    all_rays = camera.rays()
    parts: list[UnionComposite] = []
    flows: list[Tensor] = []
    even = sampling.even()
    for start in range(0, len(all_rays), rays_at_once):
        rays = all_rays[start : start + rays_at_once]
        depths = choose_depths(fields, rays, time, even)
        points_ndc, deltas = rays.points_ndc(depths), intervals(depths, rays.directions_ndc)
        static, moments = fields.static(points_ndc, rays.viewdirs), points_ndc.new_full((len(rays),), time)
        if flow is None:
            dynamic = fields.dynamic.radiance(points_ndc, moments, rays.viewdirs)
        else:
            dynamic = fields.dynamic(points_ndc, moments, rays.viewdirs)
            weights = weights_union(static.sigma_raw, static.blend_w, dynamic.sigma_raw, deltas)[1]
            flows.append((weights[..., None] * flow_to_next(camera, points_ndc, dynamic, flow)).sum(-2))
        parts.append(composite_union(static, dynamic, depths, deltas))
    size = (camera.lens.height, camera.lens.width)
    return FrameRender(
        torch.cat([part.rgb for part in parts]).view(*size, 3),
        torch.cat([part.depth for part in parts]).view(size),
        torch.cat([part.dynamic_weight for part in parts]).view(size),
        torch.cat([part.dynamic_rgb for part in parts]).view(*size, 3),
        torch.cat(flows).view(*size, 2) if flows else None,
    )


def flow_to_next(
    camera: Camera, points_ndc: Float[Tensor, "n s 3"], samples: DynamicSamples, direction: FlowDirection
) -> Float[Tensor, "n s 2"]:
    """Pixels (right, down) that samples move by in a camera until the next frame."""
    if direction == "forward":
        return camera.motion(points_ndc, samples.sf_fwd)
    return -camera.motion(points_ndc, samples.sf_bwd)


@torch.no_grad()
def render_static(static: StaticField, camera: Camera, sampling: DepthSampling, rays_at_once: int) -> Tensor:
    """The static field alone, (h, w, 3), colours 0..1: the scene without what moves."""
    all_rays, even = camera.rays(), sampling.even()
    parts = [
        render_background(static, all_rays[start : start + rays_at_once], even, None, lambda _: 0.0)
        for start in range(0, len(all_rays), rays_at_once)
    ]
    return torch.cat(parts).view(camera.lens.height, camera.lens.width, 3)
