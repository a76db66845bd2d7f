"""Rendering of whole frames: both fields blended, or the static field alone."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from nsff.data.timeline import FlowDirection
from nsff.fields import DynamicSamples, Fields, StaticField
from nsff.geometry.rays import Camera
from nsff.rendering.ray_sampling import (
    DepthSampling,
    choose_depths,
)
from nsff.rendering.train_render import render_background
from nsff.rendering.volume_rendering import (
    BlendedComposite,
    blended_weights,
    composite_blended,
    intervals,
)


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


@torch.no_grad()
def render_frame(
    fields: Fields,
    camera: Camera,
    time: float,
    sampling: DepthSampling,
    rays_per_chunk: int,
    flow: FlowDirection | None = None,
) -> FrameRender:
    """Render both fields together from a camera at a time; no jitter, no noise, nothing kept for a gradient.

    Args:
        fields: static and dynamic.
        camera: what the frame is seen with.
        time: -1..1.
        sampling: depths a ray; not jittered here.
        rays_per_chunk: most rays in memory.
        flow: render scene flow too, from that to the next frame, or that to the one before, turned round.
    """
    all_rays = camera.rays()
    parts: list[BlendedComposite] = []
    flows: list[Tensor] = []
    even = sampling.without_jitter()
    for start in range(0, len(all_rays), rays_per_chunk):
        rays = all_rays[start : start + rays_per_chunk]
        depths = choose_depths(fields, rays, time, even)
        points_ndc, deltas = rays.points_ndc(depths), intervals(depths, rays.directions_ndc)
        static, moments = fields.static(points_ndc, rays.viewdirs), points_ndc.new_full((len(rays),), time)
        if flow is None:
            dynamic = fields.dynamic.radiance(points_ndc, moments, rays.viewdirs)
        else:
            dynamic = fields.dynamic(points_ndc, moments, rays.viewdirs)
            weights = blended_weights(static.sigma_raw, static.blend_w, dynamic.sigma_raw, deltas)[1]
            flows.append((weights[..., None] * flow_to_next(camera, points_ndc, dynamic, flow)).sum(-2))
        parts.append(composite_blended(static, dynamic, depths, deltas))
    size = (camera.intrinsics.height, camera.intrinsics.width)
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
def render_static(static: StaticField, camera: Camera, sampling: DepthSampling, rays_per_chunk: int) -> Tensor:
    """The static field alone, (h, w, 3), colours 0..1: the scene without what moves."""
    all_rays, even = camera.rays(), sampling.without_jitter()
    parts = [
        render_background(static, all_rays[start : start + rays_per_chunk], even, None, lambda _: 0.0)
        for start in range(0, len(all_rays), rays_per_chunk)
    ]
    return torch.cat(parts).view(camera.intrinsics.height, camera.intrinsics.width, 3)
