"""Rendering of whole frames: both fields blended, or the static field by itself."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from nsff.data.timeline import FlowDirection
from nsff.fields import DynamicSamples, Fields, StaticField
from nsff.geometry.rays import Camera
from nsff.rendering.ray_sampling import DepthSampling, choose_depths
from nsff.rendering.train_render import render_background
from nsff.rendering.volume_rendering import (
    BlendedComposite,
    blended_weights,
    composite_blended,
    intervals,
)


@dataclasses.dataclass(frozen=True)
class FrameRender:
    """A whole rendered frame of h x w pixels."""

    rgb: Float[Tensor, "h w 3"]  # 0..1
    depth: Float[Tensor, "h w"]  # expected depth s along the ray: 0 at the near plane, 1 at infinity
    dynamic_weight: Float[Tensor, "h w"]  # weight of the dynamic field, 0..1
    dynamic_rgb: Float[Tensor, "h w 3"]  # contribution of the dynamic field to `rgb`, on black
    flow: Float[Tensor, "h w 2"] | None = None  # scene flow to the next frame in this camera, pixels (right, down)


@torch.no_grad()
def render_frame(
    fields: Fields,
    camera: Camera,
    time: float,
    sampling: DepthSampling,
    rays_per_chunk: int,
    flow: FlowDirection | None = None,
) -> FrameRender:
    """Render both fields, blended, from a camera at a time; without jitter, noise and gradient.

    Args:
        fields: static and dynamic.
        camera: of the rendered frame.
        time: -1..1.
        sampling: numbers of samples; its jitter is ignored.
        rays_per_chunk: rays evaluated at once, which bounds memory.
        flow: render scene flow as well: the forward flow, or the backward flow with its sign reversed.
    """
    all_rays = camera.rays()
    parts: list[BlendedComposite] = []
    flows: list[Tensor] = []
    sampling = sampling.without_jitter()
    for start in range(0, len(all_rays), rays_per_chunk):
        rays = all_rays[start : start + rays_per_chunk]
        depths = choose_depths(fields, rays, time, sampling)
        points, deltas = rays.points(depths), intervals(rays, depths)
        static, times = fields.static(points, rays.viewdirs), points.new_full((len(rays),), time)
        if flow is None:
            dynamic = fields.dynamic.radiance(points, times, rays.viewdirs)
        else:
            dynamic = fields.dynamic(points, times, rays.viewdirs)
            _, weights = blended_weights(static.sigma_raw, static.blend_w, dynamic.sigma_raw, deltas)
            flows.append((weights[..., None] * flow_to_next(camera, points, dynamic, flow)).sum(-2))
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
    camera: Camera, points: Float[Tensor, "n s 3"], samples: DynamicSamples, direction: FlowDirection
) -> Float[Tensor, "n s 2"]:
    """Project the scene flow of samples to the next frame into a camera, in pixels (right, down)."""
    if direction == "forward":
        return camera.pixel_displacement(points, samples.sf_fwd)
    return -camera.pixel_displacement(points, samples.sf_bwd)


@torch.no_grad()
def render_static(static: StaticField, camera: Camera, sampling: DepthSampling, rays_per_chunk: int) -> Tensor:
    """Render the static field by itself, (h, w, 3), colours 0..1: the scene without its moving parts."""
    all_rays, sampling = camera.rays(), sampling.without_jitter()
    parts = [
        render_background(static, all_rays[start : start + rays_per_chunk], sampling, None, lambda _: 0.0)
        for start in range(0, len(all_rays), rays_per_chunk)
    ]
    return torch.cat(parts).view(camera.intrinsics.height, camera.intrinsics.width, 3)
