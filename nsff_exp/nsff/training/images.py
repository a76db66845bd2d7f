"""Images of one frame for TensorBoard: renders of both fields beside the frame and its priors."""

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

Image = Float[Tensor, "h w 3"] | UInt8[Tensor, "h w 3"] | Float[Tensor, "h w"]


def training_images(fields: Fields, scene: Scene, frame: int, config: Config) -> dict[str, Image]:
    """Render a frame and its priors at full size; images by their TensorBoard tag, 0..1 or 8-bit.

    `render/`: both fields blended (colour, depth, dynamic weight), the static field alone (colour), and the dynamic
    field alone (colour, depth, and the optical flow that its scene flow induces). `truth/` and `given/`: the frame, its
    disparity and its optical flow, the latter with the colour scale of the rendered one. Flow leads to the next frame,
    from the last frame to the one before it.
    """
    camera = scene.camera(frame)
    sampling, rays_per_chunk = DepthSampling.of(config), config.rays_per_chunk(camera.device_type)
    blended = render_frame(fields, camera, scene.timeline.time_of(frame), sampling, rays_per_chunk)
    dynamic_rgb, dynamic_depth, flow = _dynamic_only(fields, scene, camera, frame, sampling, rays_per_chunk)
    given_flow = scene.flow_bwd[frame] if scene.timeline.is_last(frame) else scene.flow_fwd[frame]
    given_flow = given_flow.to(scene.device).float()
    max_flow = max(float(given_flow.norm(dim=-1).quantile(1.0 - OUTLIERS)), 1e-3)  # pixels
    disparity = scene.disparity[frame].to(scene.device)
    low, high = disparity.quantile(OUTLIERS), disparity.quantile(1.0 - OUTLIERS)
    return {
        "render/rgb": blended.rgb.clamp(0, 1),
        "render/depth": blended.depth.clamp(0, 1),
        "render/dynamic_weight": blended.dynamic_weight.clamp(0, 1),
        "render/static_rgb": render_static(fields.static, camera, sampling, rays_per_chunk).clamp(0, 1),
        "render/dynamic_rgb": dynamic_rgb.clamp(0, 1),
        "render/dynamic_depth": dynamic_depth.clamp(0, 1),
        "render/flow": torch.from_numpy(flow_picture(flow, max_flow)),
        "truth/rgb": scene.image(frame),
        "given/disparity": ((disparity - low) / (high - low).clamp(min=1e-8)).clamp(0, 1),
        "given/flow": torch.from_numpy(flow_picture(given_flow, max_flow)),
    }


@torch.no_grad()
def _dynamic_only(
    fields: Fields, scene: Scene, camera: Camera, frame: int, sampling: DepthSampling, rays_per_chunk: int
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"], Float[Tensor, "h w 2"]]:
    """Render colour, depth (0..1) and induced optical flow (pixels) of the dynamic field alone, as the losses do."""
    backward = scene.timeline.is_last(frame)
    neighbour = scene.c2w[frame - 1 if backward else frame + 1]
    time, all_rays, unjittered = scene.timeline.time_of(frame), camera.rays(), sampling.without_jitter()
    colours, expected_depths, warped_pixels = [], [], []
    for start in range(0, len(all_rays), rays_per_chunk):
        rays = all_rays[start : start + rays_per_chunk]
        depths = choose_depths(fields, rays, time, unjittered)
        points = rays.points(depths)
        samples = fields.dynamic(points, points.new_full((len(rays),), time), rays.viewdirs)
        composited = composite(samples, depths, intervals(rays, depths))
        warped = points + (samples.sf_bwd if backward else samples.sf_fwd)
        colours.append(composited.rgb)
        expected_depths.append(composited.depth)
        warped_pixels.append(expected_pixel(composited.weights, warped, rays, neighbour, scene.intrinsics))
    height, width = scene.intrinsics.height, scene.intrinsics.width
    flow = (torch.cat(warped_pixels) - camera.pixels()).view(height, width, 2)
    return torch.cat(colours).view(height, width, 3), torch.cat(expected_depths).view(height, width), flow
