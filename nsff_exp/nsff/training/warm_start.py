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
import logging

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nsff.config import Config
from nsff.data.pixel_sampler import moving_pixels
from nsff.data.priors import LiftedPixels, Priors
from nsff.data.scene import Scene
from nsff.fields import DynamicSamples, Fields, Radiance, StaticSamples
from nsff.training.loss_terms import Terms

log = logging.getLogger("nsff")

WARM_FRAMES, WARM_PIXELS = 4, 2048  # frames of a step, and pixels over all of them
OPAQUE = 80.0  # raw density at a surface: opaque within a twentieth of the depth range (0..1)
SURFACE_JITTER = 0.004  # standard deviation of the sample at the surface, depth 0..1
FREE_MARGIN = 0.015  # free space ends this far before the surface, depth 0..1
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
    """n lifted pixels of some frames, with what is known of them.

    `times` is -1..1, `rgb` 0..1; `moving` and `background` are 1 or 0, both 0 near the edge of a motion mask.
    """

    times: Float[Tensor, " n"]
    lifted: LiftedPixels
    rgb: Float[Tensor, "n 3"]
    moving: Float[Tensor, " n"]
    background: Float[Tensor, " n"]


def warm_share(priors: Priors | None, config: Config) -> float:
    """Fraction of the warm start to make, 0..1; with `auto`, as far as the depth of what moves is believed.

    Confidence as the weight of a loss is not enough: Adam divides it out wherever nothing contradicts.
    """
    if priors is None or config.warm_steps != "auto":
        return 0.0 if priors is None else 1.0
    percent = 100.0 * priors.belief
    log.info(
        "depth of moving pixels has a confidence of %.0f %%: the warm start takes this share of its steps", percent
    )
    return priors.belief


def draw_points(scene: Scene, frames: list[int], n_pixels: int, generator: torch.Generator | None) -> Int[Tensor, " n"]:
    """Draw pixels of some frames, half from the whole frame and half from its motion mask.

    Args:
        scene: to sample.
        frames: indices; a frame may be there twice.
        n_pixels: over all frames, at least 2 of each.
        generator: random generator on the compute device.

    Returns:
        Indices of pixels, flat (row-major) over all frames.
    """
    return torch.cat([_draw_frame(scene, frame, max(2, n_pixels // len(frames)), generator) for frame in frames])


def _draw_frame(scene: Scene, frame: int, n: int, generator: torch.Generator | None) -> Int[Tensor, " n"]:
    moving = moving_pixels(scene, frame)
    n_moving = n // 2 if len(moving) else 0

    def draw(count: int, below: int) -> Int[Tensor, " m"]:
        return torch.randint(below, (count,), generator=generator, device=scene.device)

    pixels = draw(n - n_moving, scene.n_pixels)
    if n_moving:
        pixels = torch.cat([pixels, moving[draw(n_moving, len(moving))]])
    return frame * scene.n_pixels + pixels


def lift_points(priors: Priors, index: Int[Tensor, " n"]) -> PointBatch:
    """Lift pixels that were drawn."""
    scene = priors.scene
    return PointBatch(
        scene.timeline.time_of((index // scene.n_pixels).to(scene.c2w.dtype)),
        priors.lift(index),
        rgb=scene.colours(index),
        moving=scene.pick(scene.motion_masks, index).to(scene.c2w.dtype),
        background=scene.pick(scene.background, index).to(scene.c2w.dtype),
    )


def compute_warm_losses(fields: Fields, batch: PointBatch, generator: torch.Generator | None) -> WarmTerms:
    """Compute all terms of one step of the warm start, with two samples per pixel.

    Args:
        fields: static and dynamic.
        batch: lifted pixels.
        generator: random generator on the compute device.
    """
    dynamic, static = _evaluate(fields, batch, generator)
    lifted, rgb, moving = batch.lifted, batch.rgb, batch.moving
    certain = lifted.confidence
    background = batch.background * certain
    known = torch.maximum(moving, batch.background) * certain

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

    forward = (dynamic.sf_fwd[:, 0] - lifted.sf_fwd).abs().sum(-1) * lifted.sf_fwd_confidence
    backward = (dynamic.sf_bwd[:, 0] - lifted.sf_bwd).abs().sum(-1) * lifted.sf_bwd_confidence
    return WarmTerms(
        dynamic_colour=everywhere(colour_error(dynamic)),
        static_colour=on_background(colour_error(static)),
        surface=SURFACE_WEIGHT * (everywhere(surface(dynamic)) + on_background(surface(static))),
        free_space=FREE_WEIGHT * (everywhere(free_space(dynamic)) + on_background(free_space(static))),
        blend=BLEND_WEIGHT * ((static.blend_w[:, 0] - moving) ** 2 * known).mean(),
        scene_flow=FLOW_WEIGHT * everywhere(forward + backward),
    )


def _evaluate(
    fields: Fields, batch: PointBatch, generator: torch.Generator | None
) -> tuple[DynamicSamples, StaticSamples]:
    """Evaluate both fields at sample 0, at the surface, and sample 1, in the free space before it."""
    z, rays = batch.lifted.z, batch.lifted.rays
    jitter = SURFACE_JITTER * torch.randn(len(z), generator=generator, device=z.device)
    before = (z - FREE_MARGIN).clamp(min=0.0) * torch.rand(len(z), generator=generator, device=z.device)
    points = rays.points(torch.stack([z + jitter, before], dim=-1))
    return fields.dynamic(points, batch.times, rays.viewdirs), fields.static(points, rays.viewdirs)
