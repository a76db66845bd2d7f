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
from nsff.images import read_frames, read_image
from nsff.io import Image, write_array, write_image
from nsff.prep.depth.midas import MidasDepth
from nsff.prep.depth.transformers_depth import load_transformers_depth
from nsff.prep.multiview_stage import measure_from_neighbours
from nsff.prep.network_sizes import NO_LIMITS, Limits
from nsff.prep.previews import disparity_picture, preview_indices, write_contact_sheet
from nsff.prep.weights import MIDAS, find_weights
from nsff.scene_folder import SceneFolder

log = logging.getLogger("nsff")

DEPTH_METHODS = ("midas", "dpt", "depth_anything", "multiview")


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
        summary = measure_from_neighbours(folder, paths)
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


def _load_estimator(settings: DepthSettings, device: torch.device) -> Callable[[Image], Float[np.ndarray, "H W"]]:
    if settings.method == "midas":
        return MidasDepth(find_weights(settings.model or MIDAS), device, settings.limits)
    return load_transformers_depth(settings.method, settings.model, device)
