"""Rendering of training rays: the reference frame, its two neighbours, and the frame two steps away."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from nsff.data.scene import Frame
from nsff.data.timeline import Timeline
from nsff.fields import DynamicSamples, Fields, StaticField, StaticSamples
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
    composite,
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

    def halves(self) -> "tuple[WarpRender, WarpRender]":
        """Split the rays of a batch of two warps."""
        values = self.points.chunk(2), self.dynamic.halves(), self.rgb.chunk(2), self.confidence.chunk(2)
        first, second = (WarpRender(*half) for half in zip(*values, strict=True))
        return first, second


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

    def repeat(self, n: int) -> "SampledRays":
        """The same rays n times over, one copy after the other."""
        return SampledRays(
            self.rays.repeat(n), self.depths.repeat(n, 1), self.deltas.repeat(n, 1), self.points.repeat(n, 1, 1)
        )

    def times(self, time: Time) -> Float[Tensor, " n"]:
        """The same time for every ray."""
        if isinstance(time, float):
            return self.depths.new_full((len(self.rays),), time)
        return time.expand(len(self.rays))

    def render_reference(self, fields: Fields, time: Time, n_static: int, noise: Noise) -> ReferenceRender:
        """Render both fields at the reference time; the static one and the blend on the first `n_static` rays."""
        first = slice(0, n_static)
        dynamic = fields.dynamic(self.points, self.times(time), self.rays.viewdirs)
        static = fields.static(self.points[first], self.rays.viewdirs[first])
        blend_noise = noise if isinstance(noise, float) else noise[first]
        return ReferenceRender(
            self.points,
            self.depths,
            dynamic,
            static,
            composite(dynamic, self.depths, self.deltas, noise),
            composite_blended(static, dynamic[first], self.depths[first], self.deltas[first], blend_noise),
        )

    def render_warp(self, points: Tensor, dynamic: DynamicSamples, not_disoccluded: Tensor, noise: Noise) -> WarpRender:
        """Composite the samples at warped points.

        Args:
            points: warped points.
            dynamic: field at these points, at the time of their frame.
            not_disoccluded: 1 - disocclusion probability of each sample, multiplied over the steps of the warp.
            noise: density noise.
        """
        weights = render_weights(dynamic.sigma_raw, self.deltas, noise)
        confidence = (weights.detach() * not_disoccluded).sum(-1)
        return WarpRender(points, dynamic, composite_colour(weights, dynamic), confidence)


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
    rays, n_rays, time, step = sampled.rays, len(sampled.rays), timeline.time_of(frame), timeline.step
    ref = sampled.render_reference(fields, time, n_static, noise(n_rays))

    # Both neighbours in one batch: first all rays at prev, then all at next.
    twice, flows = sampled.repeat(2), torch.cat([ref.dynamic.sf_bwd, ref.dynamic.sf_fwd])
    visible = 1.0 - torch.cat([ref.dynamic.prob_bwd, ref.dynamic.prob_fwd])
    times = torch.cat([sampled.times(time - step), sampled.times(time + step)])
    warped = twice.points + flows
    neighbours = fields.dynamic(warped, times, twice.rays.viewdirs)
    render_prev, render_next = twice.render_warp(warped, neighbours, visible, noise(2 * n_rays)).halves()

    visible_prev, visible_next = visible.chunk(2)
    if two_step.backward:
        far, far_time = render_prev.points + render_prev.dynamic.sf_bwd, time - 2.0 * step
        visible_far = visible_prev * (1.0 - render_prev.dynamic.prob_bwd)
    else:
        far, far_time = render_next.points + render_next.dynamic.sf_fwd, time + 2.0 * step
        visible_far = visible_next * (1.0 - render_next.dynamic.prob_fwd)
    render_far = None
    if two_step.rendered:
        at_far = fields.dynamic(far, sampled.times(far_time), rays.viewdirs)
        render_far = sampled.render_warp(far, at_far, visible_far, noise(n_rays))
    return TrainRender(ref, render_prev, render_next, two_step.backward, far, render_far)
