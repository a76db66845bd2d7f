"""Warm start: fit the fields to lifted priors, point by point, before rays are rendered.

An extension of the paper, whose losses see a prior only through whole rays, some hundred a step. A lifted pixel says
directly where the scene is opaque, what colour it has, where it is empty and how it moves, at a hundredth of the cost.

| term | pulls |
| --- | --- |
| dynamic_colour | the dynamic field's colour at the lifted point to that of the pixel |
| static_colour | the same for the static field, on the background |
| surface | both raw densities at the lifted point above `OPAQUE` |
| free_space | both raw densities at a point between the camera and the lifted one below -1 |
| blend | the blend weight at the lifted point to the motion mask |
| scene_flow | scene flow at the lifted point, both ways, to the lifted flow |
"""

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nsff.data.pixel_sampler import moving_pixels
from nsff.data.priors import LiftedPixels, Priors, pick
from nsff.fields import DynamicSamples, Fields, Radiance, StaticSamples
from nsff.geometry.rays import RayBundle
from nsff.training.loss_terms import Terms

WARM_FRAMES, WARM_PIXELS = 4, 2048  # frames of a step, and pixels over all of them
OPAQUE = 80.0  # raw density at a surface: opaque within a twentieth of the NDC depth range
SURFACE_JITTER = 0.004  # standard deviation of the sample at the surface, NDC depth
FREE_MARGIN = 0.015  # free space ends this far before the surface, NDC depth
# Relative to the colours. Free space must outweigh surfaces: a ray crosses it at many points and has one surface.
SURFACE_WEIGHT, FREE_WEIGHT, BLEND_WEIGHT, FLOW_WEIGHT = 0.01, 0.15, 0.01, 0.3


@dataclasses.dataclass(frozen=True)
class WarmTerms(Terms):
    """Terms of a step of the warm start; see the table of the module."""

    dynamic_colour: Tensor
    static_colour: Tensor
    surface: Tensor
    free_space: Tensor
    blend: Tensor
    scene_flow: Tensor


@dataclasses.dataclass(frozen=True)
class PointBatch:
    """Lifted pixels of one frame, with what is known of them.

    `rgb` is 0..1; `moving` and `background` are 1 or 0, both 0 near the edge of a motion mask.
    """

    time: float
    lifted: LiftedPixels
    rgb: Float[Tensor, "n 3"]
    moving: Float[Tensor, " n"]
    background: Float[Tensor, " n"]


def draw_points(priors: Priors, frames: list[int], n_pixels: int, generator: torch.Generator) -> list[PointBatch]:
    """Draw and lift pixels of some frames, half from the whole frame and half from its motion mask.

    Args:
        priors: of the scene.
        frames: indices; a frame may be there twice.
        n_pixels: over all frames.
        generator: random generator on the compute device.
    """
    return [_draw_frame(priors, frame, max(2, n_pixels // len(frames)), generator) for frame in frames]


def _draw_frame(priors: Priors, frame: int, n: int, generator: torch.Generator) -> PointBatch:
    scene, moving = priors.scene, moving_pixels(priors.scene, frame)
    n_pixels, n_moving = scene.intrinsics.height * scene.intrinsics.width, n // 2 if len(moving) else 0

    def draw(count: int, below: int) -> Int[Tensor, " m"]:
        return torch.randint(below, (count,), generator=generator, device=scene.device)

    index = draw(n - n_moving, n_pixels)
    if n_moving:
        index = torch.cat([index, moving[draw(n_moving, len(moving))]])
    return PointBatch(
        scene.timeline.time_of(frame),
        priors.lift(frame, index),
        rgb=pick(scene, scene.images[frame], index),
        moving=pick(scene, scene.motion_masks[frame], index).to(scene.c2w.dtype),
        background=pick(scene, scene.background[frame], index).to(scene.c2w.dtype),
    )


@dataclasses.dataclass(frozen=True)
class _Points:
    """All points of a step, and both fields there: sample 0 at the surface, sample 1 in the free space before it."""

    batch: list[PointBatch]
    dynamic: DynamicSamples
    static: StaticSamples

    def all(self, name: str) -> Tensor:
        """One value of the pixels of all frames."""
        return torch.cat([getattr(frame, name) for frame in self.batch])

    def lifted(self, name: str) -> Tensor:
        """One value of the lifted pixels of all frames."""
        return torch.cat([getattr(frame.lifted, name) for frame in self.batch])


def compute_warm_losses(fields: Fields, batch: list[PointBatch], generator: torch.Generator) -> WarmTerms:
    """Compute all terms of one step of the warm start, with two samples per pixel.

    Args:
        fields: static and dynamic.
        batch: lifted pixels of some frames.
        generator: random generator on the compute device.
    """
    points = _evaluate(fields, batch, generator)
    dynamic, static, rgb = points.dynamic, points.static, points.all("rgb")
    certain, moving = points.lifted("confidence"), points.all("moving")
    background = points.all("background") * certain
    known = torch.maximum(moving, points.all("background")) * certain

    def everywhere(values: Tensor) -> Tensor:
        return (values * certain).mean()

    def on_background(values: Tensor) -> Tensor:
        return (values * background).sum() / (background.sum() + 1.0)

    def colour_error(samples: Radiance) -> Tensor:
        return ((samples.rgb_raw[:, 0].sigmoid() - rgb) ** 2).mean(-1)

    def surface(samples: Radiance) -> Tensor:
        return F.relu(OPAQUE - samples.sigma_raw[:, 0]) / OPAQUE

    def free_space(samples: Radiance) -> Tensor:
        return F.relu(samples.sigma_raw[:, 1] + 1.0) / OPAQUE

    forward = (dynamic.sf_fwd[:, 0] - points.lifted("sf_fwd")).abs().sum(-1) * points.lifted("sf_fwd_confidence")
    backward = (dynamic.sf_bwd[:, 0] - points.lifted("sf_bwd")).abs().sum(-1) * points.lifted("sf_bwd_confidence")
    return WarmTerms(
        dynamic_colour=everywhere(colour_error(dynamic)),
        static_colour=on_background(colour_error(static)),
        surface=SURFACE_WEIGHT * (everywhere(surface(dynamic)) + on_background(surface(static))),
        free_space=FREE_WEIGHT * (everywhere(free_space(dynamic)) + on_background(free_space(static))),
        blend=BLEND_WEIGHT * ((static.blend_w[:, 0] - moving) ** 2 * known).mean(),
        scene_flow=FLOW_WEIGHT * everywhere(forward + backward),
    )


def _evaluate(fields: Fields, batch: list[PointBatch], generator: torch.Generator) -> _Points:
    z = torch.cat([frame.lifted.z for frame in batch])
    jitter = SURFACE_JITTER * torch.randn(len(z), generator=generator, device=z.device)
    before = (z - FREE_MARGIN).clamp(min=0.0) * torch.rand(len(z), generator=generator, device=z.device)
    rays = RayBundle.cat([frame.lifted.rays for frame in batch])
    points_ndc = rays.points_ndc(torch.stack([z + jitter, before], dim=-1))
    time = torch.cat([frame.rgb.new_full((len(frame.rgb),), frame.time) for frame in batch])
    dynamic = fields.dynamic(points_ndc, time, rays.viewdirs)
    return _Points(batch, dynamic, fields.static(points_ndc, rays.viewdirs))
