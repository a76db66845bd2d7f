"""Images of one frame while training: renders of both fields, and the priors that they are held to."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nsff.config import Config
from nsff.data.scene import Scene
from nsff.fields import Fields
from nsff.geometry.rays import Camera, expected_pixel
from nsff.rendering.frame_render import render_frame, render_static
from nsff.rendering.ray_sampling import DepthSampling, choose_depths
from nsff.rendering.visualize import OUTLIERS, flow_picture
from nsff.rendering.volume_rendering import composite, intervals

Picture = Float[Tensor, "h w 3"] | UInt8[Tensor, "h w 3"] | Float[Tensor, "h w"]


def training_images(fields: Fields, scene: Scene, frame: int, config: Config) -> dict[str, Picture]:
    """Images by their TensorBoard tag, at the size of the frames, 0..1 or 8-bit.

    RenderedFrame: both fields blended (colour, depth, weight of the dynamic field), the static field alone, the dynamic
    field alone (colour, depth, the optical flow that its scene flow induces). Given: the frame, its disparity and its
    optical flow, in the colours of the rendered one. Flow is to the next frame, for the last one to the one before.
    """
    camera = scene.camera(frame)
    sampling, at_once = DepthSampling.of(config), config.rays_per_chunk
    blended = render_frame(fields, camera, scene.timeline.time_of(frame), sampling, at_once)
    dynamic_rgb, dynamic_depth, flow = _dynamic_only(fields, scene, camera, frame, sampling, at_once)
    given = scene.flow_bwd[frame] if scene.timeline.is_last(frame) else scene.flow_fwd[frame]
    given = given.to(scene.device)
    fastest = max(float(given.norm(dim=-1).quantile(1.0 - OUTLIERS)), 1e-3)
    disparity = scene.disparity[frame].to(scene.device)
    low, high = disparity.quantile(OUTLIERS), disparity.quantile(1.0 - OUTLIERS)
    return {
        "render/rgb": blended.rgb.clamp(0, 1),
        "render/depth": blended.depth.clamp(0, 1),
        "render/dynamic_weight": blended.dynamic_weight.clamp(0, 1),
        "render/static_rgb": render_static(fields.static, camera, sampling, at_once).clamp(0, 1),
        "render/dynamic_rgb": dynamic_rgb.clamp(0, 1),
        "render/dynamic_depth": dynamic_depth.clamp(0, 1),
        "render/flow": torch.from_numpy(flow_picture(flow, fastest)),
        "truth/rgb": scene.images[frame],
        "given/disparity": ((disparity - low) / (high - low).clamp(min=1e-8)).clamp(0, 1),
        "given/flow": torch.from_numpy(flow_picture(given, fastest)),
    }


@torch.no_grad()
def _dynamic_only(
    fields: Fields, scene: Scene, camera: Camera, frame: int, sampling: DepthSampling, rays_per_chunk: int
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"], Float[Tensor, "h w 2"]]:
    """Colour, depth and induced optical flow (pixels) of the dynamic field alone, as the losses look at it."""
    backward = scene.timeline.is_last(frame)
    neighbour = scene.c2w[frame - 1 if backward else frame + 1]
    time, all_rays, even = scene.timeline.time_of(frame), camera.rays(), sampling.without_jitter()
    colours, depths, arrivals = [], [], []
    for start in range(0, len(all_rays), rays_per_chunk):
        rays = all_rays[start : start + rays_per_chunk]
        z = choose_depths(fields, rays, time, even)
        points_ndc = rays.points_ndc(z)
        samples = fields.dynamic(points_ndc, points_ndc.new_full((len(rays),), time), rays.viewdirs)
        composited = composite(samples, z, intervals(z, rays.directions_ndc))
        warped_ndc = points_ndc + (samples.sf_bwd if backward else samples.sf_fwd)
        colours.append(composited.rgb)
        depths.append(composited.depth)
        arrivals.append(expected_pixel(composited.weights, warped_ndc, neighbour, scene.intrinsics))
    height, width = scene.intrinsics.height, scene.intrinsics.width
    flow = (torch.cat(arrivals) - camera.pixels()).view(height, width, 2)
    return torch.cat(colours).view(height, width, 3), torch.cat(depths).view(height, width), flow
