"""Why does mine ghost? What can be measured of a trained scene without held-out views, and a verdict on each figure."""

import dataclasses
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import spearmanr
from torch import Tensor

from nsff.cli import progress_bar
from nsff.config import Config
from nsff.data.cameras import Cameras
from nsff.data.scene import Scene, load_scene
from nsff.evaluation.keypoint_transfer import carry
from nsff.evaluation.metrics import psnr
from nsff.fields import Fields, build_fields
from nsff.geometry.rays import make_rays, pixel_grid
from nsff.io import Image, atomic_write, writing_to
from nsff.rendering.frame_render import render_frame, render_static
from nsff.rendering.ray_sampling import DepthSampling, choose_depths
from nsff.rendering.train_render import TrainRender, render_train
from nsff.rendering.visualize import Ranges, draw, to_uint8
from nsff.training.checkpoint import restore_fields

log = logging.getLogger("nsff")

Verdict = Literal["good", "fair", "poor", "-"]

PIXELS = 4096  # of a frame that are looked at, drawn at random
FRAMES = 12  # that are looked at, at most
SHOWN = 3  # frames on the page
Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Check:
    """A figure of the health report.

    `good`, `poor`: where its verdict changes; the figure is better the larger it is if good > poor. `advice` says what
    to change if it is not good.
    """

    name: str
    unit: str
    good: float
    poor: float
    meaning: str
    advice: str

    def verdict(self, value: float | None) -> Verdict:
        if value is None or not np.isfinite(value):
            return "-"
        sign = 1.0 if self.good > self.poor else -1.0
        if sign * value >= sign * self.good:
            return "good"
        return "fair" if sign * value > sign * self.poor else "poor"


# Thresholds are judgement, looked at on three scenes (Balloon1, a toy train, a rendered room); none is from the paper.
CHECKS = (
    Check("parallax", "% of the width", 4.0, 1.5, "how far a thing at the nearest depth shifts over the clip",
          "the camera hardly moves sideways: film with more sideways motion, or use more frames"),
    Check("step", "% of the width", 0.15, 0.02, "the same from one frame to the next, median",
          "neighbouring frames are almost the same: take every second or third frame (--fps of prepare_video.py)"),
    Check("moving pixels", "%", 0.5, 0.05, "share of the motion masks",
          "masks are almost empty: look at motion_masks/; --semantic maskrcnn, or a smaller --epi_threshold"),
    Check("still pixels", "%", 50.0, 20.0, "share of what is well outside the masks in all frames together",
          "masks cover almost everything, the static field has nothing to learn from: a larger --epi_threshold, and "
          "look at the cameras"),
    Check("fit, still", "dB PSNR", 24.0, 19.0, "the video's own frames, rendered, outside the masks",
          "the static part does not fit: train longer; if it stays, cameras are wrong (run_colmap.py says the error)"),
    Check("fit, moving", "dB PSNR", 22.0, 19.0, "the same inside the masks",
          "the moving part does not fit: train longer, --use_motion_mask, a larger --num_extra_sample"),
    Check("warps", "dB PSNR", 20.0, 15.0, "moving pixels rendered from the times of both neighbours",
          "scene flow does not explain the video: a larger --w_optical_flow, a smaller --w_sm, more training"),
    Check("flow", "% of the width", 0.3, 1.5, "scene flow against optical flow in the masks, median difference",
          "motion is not learnt: train longer, a larger --w_optical_flow; --bd_factor 0.6 if things come close"),
    Check("static share of what moves", "%", 15.0, 40.0, "how much of the masked pixels the static field shows",
          "ghosts: what moves is baked into the static field; --background_rays 1024 keeps it out"),
    Check("dynamic share of what is still", "%", 5.0, 20.0, "how much of the still pixels the dynamic field shows",
          "the dynamic field explains the room as well, new views will smear: --w_split 0.01, --background_rays 1024"),
    Check("undecided pixels", "%", 10.0, 30.0, "entropy of the blend, 100 % where all is half and half",
          "no clear split of the fields: --w_split 0.01, or --variant wild with --w_entropy"),
    Check("depth", "rank correlation", 0.85, 0.5, "rendered depth against the given disparity",
          "the geometry does not follow the given depth: look at disp/, --w_depth, or other depth (--depth)"),
)  # fmt: skip


HealthPageWriter = Callable[[Path, int, list[dict[str, Any]], dict[str, dict[str, Image]]], None]


def diagnose(config: Config, device: torch.device, write_page: HealthPageWriter | None = None) -> Path:
    """Measure a trained scene on its own video; print a table, write `health.json` and a page beside it.

    Args:
        config: of the experiment.
        device: to render on.
        write_page: makes a page of (its path, the step, the figures, pictures by frame and layer).

    Returns:
        The path of `health.json`.

    Raises:
        InputError: no checkpoint, or a scene without its files.
    """
    scene = load_scene(config, device)
    fields = build_fields(config).to(device)
    checkpoint = restore_fields(fields, config)
    frames = np.unique(np.linspace(0, len(scene.images) - 1, FRAMES).round().astype(int))
    generator = torch.Generator(device).manual_seed(config.seed)
    measured = [
        measure_frame(fields, config, scene, int(frame), generator)
        for frame in progress_bar(frames, "health", unit="frame")
    ]
    figures: dict[str, float | None] = {**of_cameras(scene.cameras), **of_masks(scene)}
    for name in measured[0]:
        values = [value[name] for value in measured if np.isfinite(value[name])]
        figures[name] = float(np.median(values)) if values else None
    rows = [row_of(check, figures[check.name], config) for check in CHECKS]
    shown = frames[np.linspace(0, len(frames) - 1, SHOWN).round().astype(int)]
    pictures = {f"frame {frame}": _pictures(fields, config, scene, int(frame)) for frame in shown}
    path = config.experiment_dir / "health.json"
    described = {"path": str(checkpoint.path), "step": checkpoint.step}
    with writing_to(path.parent):
        with atomic_write(path) as partial:
            partial.write_text(json.dumps({"checkpoint": described, "checks": rows}, indent=1) + "\n")
        if write_page is not None:
            write_page(path.with_suffix(".html"), checkpoint.step, rows, pictures)
    print(format_health(rows))
    log.info("wrote %s and a page beside it", path)
    return path


def row_of(check: Check, value: float | None, config: Config) -> dict[str, Any]:
    """A figure with its verdict and, if it is not good, what to change; options changed already are named."""
    verdict = check.verdict(value)
    advice = check.advice if verdict in ("fair", "poor") else ""
    defaults = {option.name: option.default for option in dataclasses.fields(Config)}
    named = [name for name in re.findall(r"--(\w+)", advice) if name in defaults]
    if given := [f"{name} {getattr(config, name)}" for name in named if getattr(config, name) != defaults[name]]:
        advice += f" (already {', '.join(given)}: then more training)"
    return {
        "name": check.name, "value": value, "unit": check.unit, "verdict": verdict, "meaning": check.meaning,
        "advice": advice,
    }  # fmt: skip


def format_health(rows: list[dict[str, Any]]) -> str:
    """A line a figure; below it, what to change."""
    lines = []
    for row in rows:
        value = "-" if row["value"] is None else f"{row['value']:.2f}"
        lines.append(f"{row['verdict']:5} {row['name']:30} {value:>8} {row['unit']:17} {row['meaning']}")
        if row["advice"]:
            lines.append(f"      -> {row['advice']}")
    return "\n".join(lines)


def of_cameras(cameras: Cameras) -> Figures:
    """Parallax over the clip, and of a step: shift of a point at the nearest depth, in percent of the width.

    Only motion across the axis of the scene counts: forward there is hardly any.
    """
    centres, nearest = cameras.c2w[:, :2, 3], float(np.median(cameras.bounds[:, 0]))
    percent = 100.0 * cameras.intrinsics.focal / (nearest * cameras.intrinsics.width)
    widest = np.linalg.norm(centres[:, None] - centres[None], axis=-1).max()
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=-1)
    return {"parallax": float(percent * widest), "step": float(percent * np.median(steps))}


def of_masks(scene: Scene) -> Figures:
    """Shares of what moves, and of what is well outside the masks, in percent."""
    return {
        "moving pixels": 100.0 * float(scene.motion_masks.float().mean()),
        "still pixels": 100.0 * float(scene.background.float().mean()),
    }


@torch.no_grad()
def measure_frame(fields: Fields, config: Config, scene: Scene, frame: int, generator: torch.Generator) -> Figures:
    """What one frame says; NaN where it has no such pixels."""
    uv, moving, still = _draw_pixels(scene, frame, generator)
    render = _render(fields, config, scene, frame, uv)
    rows, columns, uniform = uv[:, 1].long(), uv[:, 0].long(), PIXELS // 2
    truth = scene.images[frame].to(uv.device)[rows, columns]
    weight = render.ref.blended.dynamic_weight.clamp(0.0, 1.0)
    entropy = -(torch.xlogy(weight, weight) + torch.xlogy(1.0 - weight, 1.0 - weight)) / np.log(2.0)
    warps = [
        warp.rgb for warp, there in ((render.prev, frame > 0), (render.next, frame + 1 < len(scene.images))) if there
    ]
    given = scene.disparity[frame].to(uv.device)[rows, columns]
    depth, disparity = (values[:uniform].cpu().numpy() for values in (render.ref.blended.depth, given))
    varied = np.ptp(depth) > 0.0 and np.ptp(disparity) > 0.0
    return {
        "fit, still": _psnr(truth, render.ref.blended.rgb, still),
        "fit, moving": _psnr(truth, render.ref.blended.rgb, moving),
        "warps": float(np.mean([_psnr(truth, rgb, moving) for rgb in warps])),
        "flow": _flow_error(fields, config, scene, frame, uv[moving]),
        "static share of what moves": _percent(1.0 - weight, moving),
        "dynamic share of what is still": _percent(weight, still),
        "undecided pixels": 100.0 * float(entropy[:uniform].mean()),
        "depth": float(spearmanr(1.0 - depth, disparity).statistic) if varied else float("nan"),
    }


def _draw_pixels(
    scene: Scene, frame: int, generator: torch.Generator
) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """Pixels of a frame, half of them in its mask where it has so many; which of them move, which are well outside."""
    grid, mask = pixel_grid(scene.intrinsics, scene.device), scene.motion_masks[frame].flatten().to(scene.device)

    def some(rows: Tensor, count: int) -> Tensor:
        return rows[torch.randperm(len(rows), generator=generator, device=rows.device)[:count]]

    everywhere = torch.arange(len(grid), device=grid.device)
    chosen = torch.cat([some(everywhere, PIXELS // 2), some(mask.nonzero()[:, 0], PIXELS // 2)])
    return grid[chosen], mask[chosen], scene.background[frame].flatten().to(grid.device)[chosen]


def _render(fields: Fields, config: Config, scene: Scene, frame: int, uv: Float[Tensor, "n 2"]) -> TrainRender:
    rays = make_rays(uv, scene.c2w[frame], scene.intrinsics)
    sampling = DepthSampling.of(config).without_jitter()
    depths = choose_depths(fields, rays, scene.timeline.time_of(frame), sampling)
    return render_train(
        fields, rays, depths, scene.timeline, frame, n_static=len(rays), two_step=False, two_step_backward=False
    )


def _flow_error(fields: Fields, config: Config, scene: Scene, frame: int, uv: Float[Tensor, "n 2"]) -> float:
    """Median distance of where scene flow and where optical flow lead, in percent of the width."""
    forward = frame + 1 < len(scene.images)
    flow, consistent = (
        (scene.flow_fwd, scene.flow_fwd_mask) if forward else (scene.flow_bwd, scene.flow_bwd_mask)
    )  # fmt: skip
    rows, columns = uv[:, 1].long(), uv[:, 0].long()
    known = consistent[frame].to(uv.device)[rows, columns]
    if not known.any():
        return float("nan")
    wanted = uv + flow[frame].to(uv.device)[rows, columns]
    found = carry(fields, config, scene.cameras, uv[known], frame, frame + 1 if forward else frame - 1)
    return 100.0 * float((found - wanted[known]).norm(dim=-1).median()) / scene.intrinsics.width


def _psnr(truth: Tensor, render: Tensor, chosen: Bool[Tensor, " n"]) -> float:
    if not chosen.any():
        return float("nan")
    pair = (image[chosen][None].cpu().numpy() for image in (truth, render))
    return psnr(*pair)


def _percent(values: Tensor, chosen: Bool[Tensor, " n"]) -> float:
    return 100.0 * float(values[chosen].mean()) if chosen.any() else float("nan")


def _pictures(fields: Fields, config: Config, scene: Scene, frame: int) -> dict[str, Image]:
    """What the video shows, and the layers of the render, at half size."""
    camera, sampling = scene.camera(frame, scene.intrinsics.divided_by(2)), DepthSampling.of(config)
    time = scene.timeline.time_of(frame)
    direction = scene.timeline.known_flow(frame)
    rendered = render_frame(fields, camera, time, sampling, config.rays_per_chunk, direction)
    static = render_static(fields.static, camera, sampling, config.rays_per_chunk)
    layers = ("rgb", "static", "dynamic", "blend", "depth", "flow")
    return {"video": to_uint8(scene.images[frame])} | draw(
        layers, rendered, static, camera, Ranges.of([(rendered, camera)])
    )
