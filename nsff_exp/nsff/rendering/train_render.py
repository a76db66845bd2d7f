"""Rendering of training rays: the reference frame, its two neighbours, and the frame two steps away."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from nsff.data.scene import Frame
from nsff.data.timeline import Timeline
from nsff.fields import DynamicSamples, Fields, Radiance, StaticField, StaticSamples
from nsff.geometry.rays import RayBundle
from nsff.rendering.ray_sampling import (
    CoarseSamples,
    DepthSampling,
    Time,
    coarse_to_fine_depths,
    dilate_and_normalise,
)
from nsff.rendering.volume_rendering import (
    BlendedComposite,
    Composite,
    Noise,
    composite_blended,
    composite_colour,
    intervals,
    render_weights,
)

NoiseSource = Callable[[int], Noise]  # density noise for a number of rays


@dataclasses.dataclass(frozen=True)
class ReferenceRender:
    """The reference frame at n rays x s samples.

    The static field is evaluated on the first `len(static.blend_w)` rays only: hard-mined
    rays come last, and only `wild` uses the static field on them.
    """

    points: Float[Tensor, "n s 3"]
    depths: Float[Tensor, "n s"]
    dynamic: DynamicSamples
    static: StaticSamples
    dynamic_only: Composite
    blended: BlendedComposite


@dataclasses.dataclass(frozen=True)
class WarpRender:
    """The reference frame rendered from another time: the dynamic field at warped points, along the reference rays."""

    points: Float[Tensor, "n s 3"]
    dynamic: DynamicSamples
    rgb: Float[Tensor, "n 3"]
    confidence: Float[Tensor, " n"]  # sum of weights (detached) times 1 - disocclusion probability


@dataclasses.dataclass(frozen=True)
class TwoStepWarp:
    """The warp over two frames: to frame - 2 if `backward`, else to frame + 2; points alone unless `rendered`."""

    backward: bool
    rendered: bool


@dataclasses.dataclass(frozen=True)
class TrainRender:
    """Renders of one training step, on which all losses are computed.

    `two_step_points` are the points warped over two frames, the second step with the neighbour's own flow: to
    prev2 if `two_step_backward`, else to next2. `two_step` is the render from there, None in stages without it.
    """

    ref: ReferenceRender
    prev: WarpRender
    next: WarpRender
    two_step_backward: bool
    two_step_points: Float[Tensor, "n s 3"]
    two_step: WarpRender | None


def render_background(
    static: StaticField, rays: RayBundle, sampling: DepthSampling, generator: torch.Generator | None, noise: NoiseSource
) -> Float[Tensor, "n 3"]:
    """Render the colours (0..1) of the static field by itself, at depths that follow its own density.

    Args:
        static: field.
        rays: n.
        sampling: numbers of samples, and jitter.
        generator: source of the jitter, on the device of the rays.
        noise: density noise for a number of rays.
    """

    def coarse_density(samples: CoarseSamples) -> Tensor:
        sigma_static, _ = static.geometry(samples.points)
        return dilate_and_normalise(render_weights(sigma_static, samples.deltas))

    depths = coarse_to_fine_depths(coarse_density, rays, sampling, generator)
    samples = static(rays.points(depths), rays.viewdirs)
    weights = render_weights(samples.sigma_raw, intervals(rays, depths), noise(len(rays)))
    return composite_colour(weights, samples)


@dataclasses.dataclass(frozen=True)
class SampledRays:
    """Reference rays with their samples at depths s; every warp is composited along them."""

    rays: RayBundle
    depths: Float[Tensor, "n s"]
    deltas: Float[Tensor, "n s"]
    points: Float[Tensor, "n s 3"]

    @staticmethod
    def at(rays: RayBundle, depths: Float[Tensor, "n s"]) -> "SampledRays":
        """Place samples at sorted depths s (0..1) along each ray."""
        return SampledRays(rays, depths, intervals(rays, depths), rays.points(depths))

    def times(self, time: Time) -> Float[Tensor, " n"]:
        """The same time for every ray."""
        if isinstance(time, float):
            return self.depths.new_full((len(self.rays),), time)
        return time.expand(len(self.rays))


@dataclasses.dataclass(frozen=True)
class _Warp:
    """Samples warped to another frame: their points, and the dynamic field at them and at its time.

    `visible` is 1 - disocclusion probability of each sample, multiplied over the steps of the warp.
    """

    points: Float[Tensor, "n s 3"]
    visible: Float[Tensor, "n s"]
    dynamic: DynamicSamples


def _warp_to_neighbours(
    fields: Fields, sampled: SampledRays, ref: DynamicSamples, time: Time, step: float
) -> tuple[_Warp, _Warp]:
    """Follow the scene flow of the reference frame to both neighbours and query the dynamic field there, in one go."""
    points = sampled.points.repeat(2, 1, 1) + torch.cat([ref.sf_bwd, ref.sf_fwd])
    visible = 1.0 - torch.cat([ref.prob_bwd, ref.prob_fwd])
    times = torch.cat([sampled.times(time - step), sampled.times(time + step)])
    dynamic = fields.dynamic(points, times, sampled.rays.viewdirs.repeat(2, 1))
    prev, next_ = (_Warp(*parts) for parts in zip(points.chunk(2), visible.chunk(2), dynamic.halves(), strict=True))
    return prev, next_


def _composite_times(
    sampled: SampledRays, samples: list[DynamicSamples], noise: Noise
) -> tuple[list[Tensor], list[Tensor]]:
    """Composite the dynamic field at several times along the same rays, in one go.

    Returns:
        Weights (n, s) and colours (n, 3) of each time.
    """
    k = len(samples)
    radiance = Radiance(torch.cat([each.rgb_raw for each in samples]), torch.cat([each.sigma_raw for each in samples]))
    weights = render_weights(radiance.sigma_raw, sampled.deltas.repeat(k, 1), noise)
    return list(weights.chunk(k)), list(composite_colour(weights, radiance).chunk(k))


def render_train(
    fields: Fields,
    sampled: SampledRays,
    timeline: Timeline,
    frame: Frame,
    n_static: int,
    two_step: TwoStepWarp,
    noise: NoiseSource = lambda n_rays: 0.0,
) -> TrainRender:
    """Render one training step (paper, sections 3.2 and 3.3).

    Args:
        fields: static and dynamic.
        sampled: rays through pixels of `frame`, with their samples.
        timeline: of the sequence.
        frame: reference frame; its neighbours may lie one frame beyond the ends of the sequence.
        n_static: number of rays, the first ones, on which the static field and the blend are rendered.
        two_step: the warp over two frames.
        noise: density noise for a number of rays; drawn once per rendered time and used for both fields.
    """
    rays, n_rays, first = sampled.rays, len(sampled.rays), slice(0, n_static)
    time, step = timeline.time_of(frame), timeline.step
    ref = fields.dynamic(sampled.points, sampled.times(time), rays.viewdirs)
    static = fields.static(sampled.points[first], rays.viewdirs[first])
    prev, next_ = _warp_to_neighbours(fields, sampled, ref, time, step)
    warps = [prev, next_]
    if two_step.backward:
        far, far_time = prev.points + prev.dynamic.sf_bwd, time - 2.0 * step
        visible_far = prev.visible * (1.0 - prev.dynamic.prob_bwd)
    else:
        far, far_time = next_.points + next_.dynamic.sf_fwd, time + 2.0 * step
        visible_far = next_.visible * (1.0 - next_.dynamic.prob_fwd)
    if two_step.rendered:
        warps.append(_Warp(far, visible_far, fields.dynamic(far, sampled.times(far_time), rays.viewdirs)))

    samples = [ref, *(warp.dynamic for warp in warps)]
    noise_of_all = noise(len(samples) * n_rays)
    (weights, *warp_weights), (rgb, *warp_rgb) = _composite_times(sampled, samples, noise_of_all)
    blend_noise = noise_of_all if isinstance(noise_of_all, float) else noise_of_all[first]
    reference = ReferenceRender(
        sampled.points,
        sampled.depths,
        ref,
        static,
        Composite(rgb, (weights * sampled.depths).sum(-1), weights),
        composite_blended(static, ref[first], sampled.depths[first], sampled.deltas[first], blend_noise),
    )
    renders = [
        WarpRender(warp.points, warp.dynamic, colour, (weight.detach() * warp.visible).sum(-1))
        for warp, weight, colour in zip(warps, warp_weights, warp_rgb, strict=True)
    ]
    two_step_render = renders[2] if two_step.rendered else None
    return TrainRender(reference, renders[0], renders[1], two_step.backward, far, two_step_render)
