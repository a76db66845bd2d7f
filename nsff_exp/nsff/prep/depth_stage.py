"""Depth stage of the preparation: frames at training size and their disparity."""

import dataclasses
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float

from nsff.cli import progress_bar
from nsff.errors import InputError
from nsff.io import Image, read_frames, read_image, write_array, write_image
from nsff.prep.depth.midas import MidasDepth
from nsff.prep.depth.transformers_depth import load_transformers_depth
from nsff.prep.flow import DisFlow
from nsff.prep.multiview.inpaint_depth import inpaint_depth
from nsff.prep.multiview.triangulate import MeasuredDepth, measure_depth
from nsff.prep.network_sizes import NO_LIMITS, Limits, resize_image, shrink_disparity, working_size
from nsff.prep.poses_bounds import load_cameras
from nsff.prep.previews import disparity_picture, mask_picture, preview_indices, write_contact_sheet
from nsff.prep.threads import map_in_threads
from nsff.prep.weights import MIDAS, find_weights
from nsff.scene_folder import SceneFolder

log = logging.getLogger("nsff")

DEPTH_METHODS = ("midas", "dpt", "depth_anything", "multiview")
MIN_SWEEP_SCALE = 0.5  # Of the working size: the plane sweep runs at training size, but not below this.
MIN_MEASURED_FRACTION = 0.3  # Of the pixels; below it, warn that most of the depth is a guess.


@dataclasses.dataclass(frozen=True)
class DepthSettings:
    """Settings of the disparity.

    Attributes:
        method: one of `DEPTH_METHODS`.
        model: file of weights (midas), or folder or name of a transformers model; None = the usual one.
        limits: largest width and height of the input of MiDaS, pixels; without any, its long side is fixed.
        height: training height, pixels.
    """

    method: str = "midas"
    model: str | None = None
    limits: Limits = NO_LIMITS
    height: int = 288


def make_frames(folder: SceneFolder, height: int) -> list[Path]:
    """Write the frames at training size to `images_<W>x<height>` (area average), and remove outdated ones."""
    paths = folder.list_images()
    written = []
    for index, frame in enumerate(progress_bar(read_frames(paths), total=len(paths), desc="frames", unit="frame")):
        size = (round(frame.shape[1] * height / frame.shape[0]), height)
        path = folder.frames(*size) / f"{index:05d}.png"
        write_image(path, cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
        written.append(path)
    for path in written[0].parent.glob("*.png"):
        if path not in written:
            path.unlink()  # of an earlier, longer video
    for other in folder.root.glob(f"images_*x{height}"):
        if other != written[0].parent and re.fullmatch(r"images_\d+x\d+", other.name):
            shutil.rmtree(other)  # of frames of another aspect ratio: training expects one folder per height
    return written


def make_disparity(folder: SceneFolder, settings: DepthSettings, device: torch.device) -> str:
    """Write frames at training size, `disp/`, contact sheets and, with multi-view depth, `moving/`.

    Returns:
        A summary line.

    Raises:
        InputError: frames, poses or weights are missing.
    """
    folder.list_images()  # refuse a scene without frames before weights are read
    # Load the network before frames are written, so that bad weights change nothing.
    estimate = None if settings.method == "multiview" else _load_estimator(settings, device)
    paths = make_frames(folder, settings.height)
    (folder.root / "sheets" / "multiview.jpg").unlink(missing_ok=True)  # outdated if the method changed
    shutil.rmtree(folder.moving(0).parent, ignore_errors=True)
    if estimate is None:
        summary = _measure_from_neighbours(folder, paths)
    else:
        images = progress_bar(read_frames(folder.list_images()), total=len(paths), desc=settings.method)
        for index, image in enumerate(images):
            size = read_image(paths[index]).shape[1::-1]
            disparity = cv2.resize(estimate(image), size, interpolation=cv2.INTER_AREA)
            write_array(folder.disparity(index), disparity.astype(np.float32))
        summary = f"depth: {settings.method} on {len(paths)} frames"
    rows = [
        [read_image(paths[index]), disparity_picture(np.load(folder.disparity(index)))]
        for index in preview_indices(len(paths))
    ]
    write_contact_sheet(folder.root / "sheets" / "disparity.jpg", rows)
    log.info("%s", summary)
    return summary


def _measure_from_neighbours(folder: SceneFolder, paths: list[Path]) -> str:
    """Write disparity, moving masks and a contact sheet of multi-view depth; return a summary line.

    Depth and masks are computed at the working size; masks are written at that size, disparity at training size.
    """
    if len(paths) < 2:
        raise InputError(
            f"{folder.images} holds one frame: depth cannot be measured from neighbours; choose another --depth"
        )
    height, width = read_image(paths[0]).shape[:2]
    frames, cameras = _working_frames(folder, paths), load_cameras(folder)
    intrinsics = cameras.intrinsics(*frames[0].shape[1::-1])
    nearest, sweep_scale = float(cameras.bounds[:, 0].min()), max(MIN_SWEEP_SCALE, width / frames[0].shape[1])

    def measure(index: int) -> MeasuredDepth:
        return measure_depth(frames, index, cameras.w2c, intrinsics, nearest, DisFlow(), sweep_scale)

    previewed, fractions, rows = set(preview_indices(len(frames))), [], []
    with map_in_threads(measure, range(len(frames))) as results:
        for index, measured in enumerate(progress_bar(results, total=len(frames), desc="multiview", unit="frame")):
            disparity = shrink_disparity(inpaint_depth(measured, frames[index]), measured.moving, (width, height))
            write_array(folder.disparity(index), disparity.astype(np.float32))
            write_image(folder.moving(index), measured.moving.astype(np.uint8) * 255)
            fractions.append(measured.valid.mean())
            if index in previewed:
                masks = measured.moving, ~measured.valid
                rows.append([mask_picture(frames[index], mask) for mask in masks])
    write_contact_sheet(folder.root / "sheets" / "multiview.jpg", rows)
    fraction = float(np.mean(fractions))
    if fraction < MIN_MEASURED_FRACTION:
        log.warning("depth was measured on %.0f %% of the pixels only; the rest is a guess", 100 * fraction)
    return f"depth: {fraction:.0%} of the pixels measured from neighbouring frames, {1 - fraction:.0%} filled in"


def _working_frames(folder: SceneFolder, paths: list[Path]) -> list[Image]:
    """Read all frames at the working size."""
    sources, first = folder.list_images(), read_image(paths[0])
    training = (first.shape[1], first.shape[0])
    height, width = read_image(sources[0]).shape[:2]
    size = working_size((width, height), training)
    if size == training:
        return list(read_frames(paths))
    return [resize_image(image, size) for image in read_frames(sources)]


def _load_estimator(settings: DepthSettings, device: torch.device) -> Callable[[Image], Float[np.ndarray, "H W"]]:
    if settings.method == "midas":
        return MidasDepth(find_weights(settings.model or MIDAS), device, settings.limits)
    return load_transformers_depth(settings.method, settings.model, device)
