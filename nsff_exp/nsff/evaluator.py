"""Metrics against what other cameras really saw. The protocols:

* `nsff`: at every time the views of 12 cameras, whose poses are those of the first 12 frames; not the training view.
  Source: evaluation of the published code.
* `view0`: the camera of frame 0 at every time for which a frame is given, but time 0. Renders are rounded to 8 bits.
  Source: DynamicNeRF (Gao et al. 2021). The moving part is where a frame differs from the camera's median over time.
"""

import dataclasses
import json
import logging
import platform
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from nsff.checkpoint import restore_fields
from nsff.clips import write_image
from nsff.config import Config, InputError, UsageError
from nsff.fields import Fields, build_fields
from nsff.metrics import Image, Lpips, Mask, load_lpips, psnr, ssim
from nsff.rays import Camera
from nsff.renderer import render_frame
from nsff.sampling import DepthSampling
from nsff.scene import Cameras, list_images, load_cameras, read_pixels, to_float
from nsff.timeline import Timeline

log = logging.getLogger("nsff")

N_CAMERAS = 12
MASK_ABOVE = 1e-3  # share of white in a held-out mask from which a pixel counts as moving, as published
CHANGE_ABOVE = 0.1  # protocol view0: a pixel moves where it differs so much from its median over time


@dataclasses.dataclass(frozen=True)
class View:
    """One held-out view: what camera `camera` (a frame whose pose it has) saw at frame `frame`."""

    name: str
    frame: int
    camera: int
    truth: Callable[[], Image]
    mask: Callable[[], Mask]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The rules of a protocol.

    `ssim_range`, `scaled_lpips`: see `metrics`. `quantised`: renders are rounded to 8 bits before they are compared.
    `empty_counts_zero`: figures of an empty mask are 0, as published, instead of missing.
    """

    views: Callable[[Config, Cameras], list[View]]
    ssim_range: float
    scaled_lpips: bool
    quantised: bool
    empty_counts_zero: bool


def _nsff_views(config: Config, cameras: Cameras) -> list[View]:
    folder = Path(config.datadir)
    size = (cameras.intrinsics.width, cameras.intrinsics.height)
    if len(cameras.c2w) < N_CAMERAS:
        raise InputError(f"protocol nsff needs the poses of {N_CAMERAS} frames, {folder} has {len(cameras.c2w)}")
    if not (folder / "mv_images").is_dir():
        raise InputError(
            f"{folder / 'mv_images'} is missing: protocol nsff needs held-out cameras; try --protocol view0"
        )
    views = []
    for frame in range(len(cameras.c2w)):
        for pose in range(N_CAMERAS):
            if pose == frame % N_CAMERAS:
                continue  # the training view
            camera = (config.start_frame + pose) % N_CAMERAS  # frame t of the video was taken by camera t mod 12
            name = f"{config.start_frame + frame:05d}/cam{camera + 1:02d}"
            image, mask = folder / "mv_images" / f"{name}.jpg", folder / "mv_masks" / f"{name}.png"
            for path in (image, mask):
                if not path.is_file():
                    raise InputError(f"{path} is missing: protocol nsff needs all {N_CAMERAS} cameras at every time")
            views.append(View(name, frame, pose, partial(_truth, image, size), partial(_moving, mask, size)))
    return views


def _view0_views(config: Config, cameras: Cameras) -> list[View]:
    if not config.heldout:
        raise UsageError("protocol view0 needs --heldout DIR: frames seen from the camera of frame 0")
    if config.start_frame:
        raise UsageError("protocol view0 needs start_frame = 0: the held-out camera is that of frame 0")
    size = (cameras.intrinsics.width, cameras.intrinsics.height)
    files = {int(path.stem): path for path in list_images(Path(config.heldout)) if path.stem.isdigit()}
    frames = [frame for frame in sorted(files) if 0 < frame < len(cameras.c2w)]
    if not frames:
        raise InputError(f"{config.heldout} has no frame 00001 to {len(cameras.c2w) - 1:05d} named by its time")
    still = np.median(np.stack([_truth(path, size) for path in files.values()]), axis=0)
    views = []
    for frame in frames:
        truth = partial(_truth, files[frame], size)
        views.append(View(f"{frame:05d}", frame, 0, truth, lambda truth=truth: _change(truth(), still)))
    return views


def _truth(path: Path, size: tuple[int, int]) -> Image:
    """A held-out image at the size of the renders: area average, rounded to 8 bits, as published."""
    return to_float(cv2.resize(read_pixels(path), size, interpolation=cv2.INTER_AREA))


def _moving(path: Path, size: tuple[int, int]) -> Mask:
    pixels = cv2.resize(read_pixels(path), size, interpolation=cv2.INTER_NEAREST)[..., 0]
    return pixels > MASK_ABOVE * 255.0


def _change(image: Image, still: Image) -> Mask:
    """Where a frame of a fixed camera differs from its median over time, without specks, a little widened."""
    change = (np.abs(image - still).max(-1) > CHANGE_ABOVE).astype(np.uint8)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    return cv2.dilate(cv2.morphologyEx(change, cv2.MORPH_OPEN, disk), disk) > 0


PROTOCOLS = {
    "nsff": Protocol(_nsff_views, 2.0, scaled_lpips=False, quantised=False, empty_counts_zero=True),
    "view0": Protocol(_view0_views, 1.0, scaled_lpips=True, quantised=True, empty_counts_zero=False),
}


def evaluate(config: Config, device: torch.device) -> Path:
    """Render every view of the protocol and write `metrics_<protocol>.json` into the experiment.

    Returns:
        The path of the file.

    Raises:
        InputError: no checkpoint, or the protocol's files are not there.
    """
    protocol = PROTOCOLS[config.protocol]
    cameras = load_cameras(config)
    views = protocol.views(config, cameras)
    fields = build_fields(config).to(device)
    checkpoint = restore_fields(fields, config)
    _make_folder(config.experiment_dir)
    perceptual = load_lpips(config.lpips_trunk, protocol.scaled_lpips, device)
    shown = tqdm(views, desc=f"protocol {config.protocol}", unit="view")
    rows = score_views(fields, config, protocol, cameras, shown, perceptual)
    mean = mean_of(rows)
    report = {
        "protocol": config.protocol,
        "mean": mean,
        "views": rows,
        "checkpoint": {"path": str(checkpoint.path), "step": checkpoint.step},
        "command": " ".join(sys.argv),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
    path = config.experiment_dir / f"metrics_{config.protocol}.json"
    _write_json(path, report)
    log.info("%s", "  ".join(f"{name} {_shown(value)}" for name, value in mean.items()))
    log.info("wrote %s", path)
    return path


def score_views(
    fields: Fields,
    config: Config,
    protocol: Protocol,
    cameras: Cameras,
    views: Iterable[View],
    perceptual: Lpips | None,
) -> list[dict[str, Any]]:
    """Render each view and compare it with the truth: a row of figures a view."""
    timeline, device, rows = Timeline(len(cameras.c2w)), next(fields.parameters()).device, []
    for view in views:
        begun = time.perf_counter()
        pose = torch.from_numpy(cameras.c2w[view.camera]).to(device)
        camera, sampling = Camera(pose, cameras.intrinsics, cameras.intrinsics), DepthSampling.of(config)
        frame = render_frame(fields, camera, timeline.time_of(view.frame), sampling, config.rays_at_once)
        render = frame.rgb.cpu().numpy()
        seconds = time.perf_counter() - begun
        if protocol.quantised:
            render = np.round(render.clip(0.0, 1.0) * 255.0).astype(np.float32) / 255.0
        if config.save_renders:
            _save_render(config, view, render)
        figures = compare(view.truth(), render, view.mask(), protocol, perceptual)
        rows.append({"name": view.name, **figures, "seconds": seconds})
    return rows


def compare(truth: Image, render: Image, mask: Mask, protocol: Protocol, perceptual: Lpips | None) -> dict[str, Any]:
    """All figures of one view: whole image, moving part, rest. None where a figure could not be had."""
    figures: dict[str, Any] = {}
    for suffix, region in (("", None), ("_dynamic", mask), ("_static", ~mask)):
        missing = region is not None and not region.any() and not protocol.empty_counts_zero
        figures[f"psnr{suffix}"] = None if missing else psnr(truth, render, region)
        figures[f"ssim{suffix}"] = None if missing else ssim(truth, render, region, protocol.ssim_range)
        figures[f"lpips{suffix}"] = None if missing or perceptual is None else perceptual(truth, render, region)
    return figures


def mean_of(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Mean of each figure over the views; None where no view has it."""
    names = [name for name in rows[0] if name != "name"]
    means = {}
    for name in names:
        values = [row[name] for row in rows if row[name] is not None]
        means[name] = float(np.mean(values)) if values else None
    return means


def _save_render(config: Config, view: View, render: Image) -> None:
    path = config.experiment_dir / f"renders_{config.protocol}" / f"{view.name}.png"
    _make_folder(path.parent)
    write_image(path, (render.clip(0.0, 1.0) * 255.0).round().astype(np.uint8))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder.absolute()} ({error.strerror}); set --basedir") from error


def _strict(value: Any) -> Any:
    """JSON has no infinity (the PSNR of equal images): null instead."""
    if isinstance(value, dict):
        return {name: _strict(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _write_json(path: Path, report: dict[str, Any]) -> None:
    aside = path.with_suffix(".partial")
    try:
        aside.write_text(json.dumps(_strict(report), indent=1, allow_nan=False) + "\n")
        aside.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path.absolute()} ({error.strerror})") from error
    finally:
        aside.unlink(missing_ok=True)
