"""Health of a trained scene, measured on its own video without held-out views, with a verdict per figure."""

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import spearmanr
from torch import Tensor

from nsff.cli import progress_bar
from nsff.config import Config
from nsff.data.cameras import Cameras
from nsff.data.pixel_sampler import draw_pixels
from nsff.data.priors import Priors
from nsff.data.scene import Scene, load_scene
from nsff.evaluation.health import CHECKS, HealthRow, format_health, make_row
from nsff.evaluation.keypoint_transfer import PointTracker
from nsff.evaluation.metrics import psnr
from nsff.evaluation.prior_figures import PriorFigures, measure_priors
from nsff.fields import Fields, build_fields
from nsff.geometry.rays import make_rays, pixel_grid
from nsff.io import Image, write_text, writing_to
from nsff.rendering.frame_render import render_frame, render_static
from nsff.rendering.ray_sampling import DepthSampling, choose_depths
from nsff.rendering.train_render import SampledRays, TrainRender, TwoStepWarp, render_train
from nsff.rendering.visualize import Ranges, draw
from nsff.training.checkpoint_choice import restore_fields

log = logging.getLogger("nsff")

N_PIXELS = 4096  # drawn at random per measured frame, half of them in its motion mask
N_UNIFORM = N_PIXELS // 2  # of these, the first, which are drawn from the whole frame
MAX_FRAMES = 12  # measured, evenly spaced over the video
N_SHOWN = 3  # frames on the page


@dataclasses.dataclass(frozen=True)
class CameraFigures:
    """Motion of the camera: image shift of a point at the nearest depth, in percent of the width.

    Attributes:
        parallax: between the two frames farthest apart.
        step: between neighbouring frames, median.
    """

    parallax: float
    step: float


@dataclasses.dataclass(frozen=True)
class MaskFigures:
    """Percentage of pixels inside the motion masks, and of those well outside."""

    moving: float
    static: float


@dataclasses.dataclass(frozen=True)
class FrameFigures:
    """Fit and decomposition of one frame; NaN where the frame has no pixels to measure them on.

    Attributes:
        fit_static: PSNR of the render outside the masks, in dB.
        fit_moving: PSNR of the render inside the masks, in dB.
        warps: PSNR inside the masks, rendered from the times of both neighbours, in dB.
        flow: median distance between scene flow and optical flow inside the masks, in percent of the width.
        static_in_moving: weight of the static field inside the masks, in percent.
        dynamic_in_static: weight of the dynamic field outside the masks, in percent.
        undecided: mean entropy of the dynamic weight, in percent; 100 if it is 0.5 everywhere.
        depth: rank correlation of rendered depth and given disparity, positive if they agree.
    """

    fit_static: float
    fit_moving: float
    warps: float
    flow: float
    static_in_moving: float
    dynamic_in_static: float
    undecided: float
    depth: float


@dataclasses.dataclass(frozen=True)
class HealthFigures:
    """All figures of a scene; those of frames are medians, None where no frame has the figure."""

    parallax: float
    step: float
    moving: float
    static: float
    prior_depth: float | None
    prior_frames: float | None
    prior_flow: float | None
    prior_moving: float | None
    fit_static: float | None
    fit_moving: float | None
    warps: float | None
    flow: float | None
    static_in_moving: float | None
    dynamic_in_static: float | None
    undecided: float | None
    depth: float | None

    @staticmethod
    def of(
        cameras: CameraFigures, masks: MaskFigures, priors: PriorFigures, frames: list[FrameFigures]
    ) -> "HealthFigures":
        medians: dict[str, Any] = {}
        for field in dataclasses.fields(FrameFigures):
            values = [value for frame in frames if np.isfinite(value := getattr(frame, field.name))]
            medians[field.name] = float(np.median(values)) if values else None
        return HealthFigures(**vars(cameras), **vars(masks), **vars(priors), **medians)


HealthPageWriter = Callable[[Path, int, list[HealthRow], dict[str, dict[str, Image]]], None]


def diagnose(config: Config, device: torch.device, write_page: HealthPageWriter | None = None) -> Path:
    """Measure a trained scene on its own video; print a table, write `health.json` and a page beside it.

    Args:
        config: of the experiment.
        device: to render on.
        write_page: writes a page from (its path, the step, the rows, pictures by frame and layer).

    Returns:
        The path of `health.json`.

    Raises:
        InputError: the experiment has no checkpoint, or files of the scene are missing.
    """
    scene = load_scene(config, device)
    fields = build_fields(config).to(device)
    checkpoint = restore_fields(fields, config)
    frames = _evenly_spaced(len(scene.images), MAX_FRAMES)
    generator = torch.Generator(device).manual_seed(config.seed)
    measured = [
        measure_frame(fields, config, scene, frame, generator) for frame in progress_bar(frames, "health", unit="frame")
    ]
    priors, doubted = measure_priors(Priors.of(scene))
    figures = HealthFigures.of(measure_cameras(scene.cameras), measure_masks(scene), priors, measured)
    rows = [make_row(check, getattr(figures, check.figure), config, doubted.get(check.figure, ())) for check in CHECKS]
    shown = [frames[index] for index in _evenly_spaced(len(frames), N_SHOWN)]
    pictures = {f"frame {frame}": _pictures(fields, config, scene, frame) for frame in shown}
    path = config.experiment_dir / "health.json"
    content = {
        "checkpoint": {"path": str(checkpoint.path), "step": checkpoint.step},
        "checks": [dataclasses.asdict(row) for row in rows],
    }
    with writing_to(path.parent):
        write_text(path, json.dumps(content, indent=1) + "\n")
        if write_page is not None:
            write_page(path.with_suffix(".html"), checkpoint.step, rows, pictures)
    print(format_health(rows))
    log.info("wrote %s and a page beside it", path)
    return path


def _evenly_spaced(n: int, at_most: int) -> list[int]:
    """Indices 0 to n - 1, or `at_most` of them, evenly spaced with both ends."""
    return [int(index) for index in np.unique(np.linspace(0, n - 1, at_most).round().astype(int))]


def measure_cameras(cameras: Cameras) -> CameraFigures:
    """Measure the parallax of the video.

    Only motion across the viewing axis of the scene counts; motion along it hardly shifts a point.
    """
    centres, nearest = cameras.c2w[:, :2, 3], float(np.median(cameras.bounds[:, 0]))
    percent = 100.0 * cameras.intrinsics.focal / (nearest * cameras.intrinsics.width)
    widest = np.linalg.norm(centres[:, None] - centres[None], axis=-1).max()
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=-1)
    return CameraFigures(parallax=float(percent * widest), step=float(percent * np.median(steps)))


def measure_masks(scene: Scene) -> MaskFigures:
    """Measure the area of the motion masks and of the background well outside them."""
    return MaskFigures(
        moving=100.0 * float(scene.motion_masks.float().mean()), static=100.0 * float(scene.background.float().mean())
    )


@torch.no_grad()
def measure_frame(fields: Fields, config: Config, scene: Scene, frame: int, generator: torch.Generator) -> FrameFigures:
    """Measure fit, flow and decomposition on random pixels of one frame."""
    uv, moving, static = _draw_pixels(scene, frame, generator)
    render = _render_pixels(fields, config, scene, frame, uv)
    rows, columns = uv[:, 1].long(), uv[:, 0].long()
    truth = scene.image(frame).to(uv.device)[rows, columns]
    blended = render.ref.blended
    weight = blended.dynamic_weight.clamp(0.0, 1.0)
    entropy = -(torch.xlogy(weight, weight) + torch.xlogy(1.0 - weight, 1.0 - weight)) / np.log(2.0)
    neighbours = [render.prev] * (frame > 0) + [render.next] * (frame + 1 < len(scene.images))
    given = scene.disparity[frame].to(uv.device)[rows, columns]
    return FrameFigures(
        fit_static=_psnr(truth, blended.rgb, static),
        fit_moving=_psnr(truth, blended.rgb, moving),
        warps=float(np.mean([_psnr(truth, warp.rgb, moving) for warp in neighbours])),
        flow=_flow_error(fields, config, scene, frame, uv[moving]),
        static_in_moving=_percent(1.0 - weight, moving),
        dynamic_in_static=_percent(weight, static),
        undecided=100.0 * float(entropy[:N_UNIFORM].mean()),
        depth=_rank_correlation(1.0 - blended.depth[:N_UNIFORM], given[:N_UNIFORM]),
    )


def _draw_pixels(
    scene: Scene, frame: int, generator: torch.Generator
) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """Draw `N_UNIFORM` pixels of the frame and as many of its motion mask, fewer where the mask is smaller.

    Returns:
        uv, whether each pixel is in the motion mask, whether it is well outside.
    """
    grid = pixel_grid(scene.intrinsics, scene.device)
    mask, background = (each[frame].flatten().to(grid.device) for each in (scene.motion_masks, scene.background))
    pixels = torch.cat(draw_pixels(scene, frame, N_UNIFORM, N_PIXELS - N_UNIFORM, generator))
    return grid[pixels], mask[pixels], background[pixels]


def _render_pixels(fields: Fields, config: Config, scene: Scene, frame: int, uv: Float[Tensor, "n 2"]) -> TrainRender:
    """Render pixels as in training, without jitter, noise or two-step warps."""
    rays = make_rays(uv, scene.c2w[frame], scene.intrinsics, scene.space)
    sampling = DepthSampling.of(config).without_jitter()
    depths = choose_depths(fields, rays, scene.timeline.time_of(frame), sampling)
    one_step = TwoStepWarp(backward=False, rendered=False)
    return render_train(fields, SampledRays.at(rays, depths), scene.timeline, frame, len(rays), one_step)


def _flow_error(fields: Fields, config: Config, scene: Scene, frame: int, uv: Float[Tensor, "n 2"]) -> float:
    """Median distance between the targets of scene flow and optical flow, in percent of the width."""
    forward = frame + 1 < len(scene.images)
    flow, consistent = (
        (scene.flow_fwd, scene.flow_fwd_mask) if forward else (scene.flow_bwd, scene.flow_bwd_mask)
    )  # fmt: skip
    rows, columns = uv[:, 1].long(), uv[:, 0].long()
    known = consistent[frame].to(uv.device)[rows, columns]
    if not known.any():
        return float("nan")
    by_optical_flow = (uv + flow[frame].float().to(uv.device)[rows, columns])[known]
    tracker = PointTracker.of(fields, config, scene.cameras)
    by_scene_flow = tracker.advance(uv[known], frame, 1 if forward else -1)
    return 100.0 * float((by_scene_flow - by_optical_flow).norm(dim=-1).median()) / scene.intrinsics.width


def _psnr(truth: Tensor, render: Tensor, pixels: Bool[Tensor, " n"]) -> float:
    if not pixels.any():
        return float("nan")
    return psnr(*(image[pixels][None].cpu().numpy() for image in (truth, render)))


def _percent(values: Tensor, pixels: Bool[Tensor, " n"]) -> float:
    return 100.0 * float(values[pixels].mean()) if pixels.any() else float("nan")


def _rank_correlation(first: Float[Tensor, " n"], second: Float[Tensor, " n"]) -> float:
    """Spearman's rank correlation; NaN where either is constant."""
    a, b = first.cpu().numpy(), second.cpu().numpy()
    return float(spearmanr(a, b).statistic) if np.ptp(a) > 0.0 and np.ptp(b) > 0.0 else float("nan")


def _pictures(fields: Fields, config: Config, scene: Scene, frame: int) -> dict[str, Image]:
    """A frame of the video and the layers of its render, the latter at half size."""
    camera, sampling = scene.camera(frame, scene.intrinsics.divided_by(2)), DepthSampling.of(config)
    timestamp = scene.timeline.time_of(frame)
    direction = scene.timeline.supervised_flow(frame)
    rays_per_chunk = config.rays_per_chunk(camera.device_type)
    rendered = render_frame(fields, camera, timestamp, sampling, rays_per_chunk, direction)
    static = render_static(fields.static, camera, sampling, rays_per_chunk)
    layers = ("rgb", "static", "dynamic", "blend", "depth", "flow")
    return {"video": scene.images[frame].cpu().numpy()} | draw(
        layers, rendered, static, camera, Ranges.of([(rendered, camera)])
    )
