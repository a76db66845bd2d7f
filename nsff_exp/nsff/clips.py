"""Clips on the disk: frames one by one, a video when all are there. A render that was stopped goes on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from nsff.config import InputError

JPEG_QUALITY = 95
SETTINGS = "clip.json"  # beside the frames: of what they are; frames of something else are made anew

Frame = UInt8[np.ndarray, "h w 3"]


def to_uint8(rgb: Float[Tensor, "h w 3"]) -> Frame:
    """0..1 to 0..255, clipped and truncated as published."""
    return (255.0 * rgb.clamp(0.0, 1.0)).to(torch.uint8).cpu().numpy()


def write_clip(
    folder: Path, n_frames: int, render: Callable[[int], Frame], settings: dict[str, Any], extension: str, fps: float
) -> None:
    """Write `images/000.<ext> ...`, each as it is done, then `video.mp4` (h264, yuv420p, even size).

    Frames that an earlier run with the same settings wrote stay.

    Args:
        folder: of the clip.
        n_frames: how many.
        render: makes one of them.
        settings: all that the frames depend on, for JSON.
        extension: jpg or png.
        fps: frames a second of the video.

    Raises:
        InputError: the folder cannot be written; what is there stays, and the next run goes on.
    """
    try:
        _keep_if_same(folder, json.loads(json.dumps(settings)))
        paths = [folder / "images" / f"{index:03d}.{extension}" for index in range(n_frames)]
        missing = [index for index, path in enumerate(paths) if not path.is_file()]
        for index in tqdm(missing, desc=folder.name, initial=n_frames - len(missing), total=n_frames, unit="frame"):
            write_image(paths[index], render(index))
        _write_mp4(folder / "video.mp4", paths, fps)
    except OSError as error:
        raise InputError(f"cannot write to {folder.absolute()} ({error.strerror or error})") from error


def _keep_if_same(folder: Path, settings: dict[str, Any]) -> None:
    """Drop the frames of an earlier run whose settings were others."""
    note = folder / SETTINGS
    try:
        same = json.loads(note.read_text()) == settings
    except (OSError, ValueError):  # no note, or a broken one
        same = False
    if not same:
        note.unlink(missing_ok=True)
        (folder / "video.mp4").unlink(missing_ok=True)
        shutil.rmtree(folder / "images", ignore_errors=True)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    if not same:
        note.write_text(json.dumps(settings) + "\n")


def write_image(path: Path, frame: Frame) -> None:
    """One image file (png, or jpg of quality 95), written aside and moved into place."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.suffix == ".jpg":
            iio.imwrite(partial, frame, extension=".jpg", quality=JPEG_QUALITY, subsampling=0)
        else:
            iio.imwrite(partial, frame, extension=path.suffix)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_mp4(path: Path, frames: list[Path], fps: float) -> None:
    height, width = (side // 2 * 2 for side in iio.imread(frames[0]).shape[:2])
    if min(height, width) < 2:
        raise InputError(f"frames of {width}x{height} make no video; lower --render_factor")
    clip = np.stack([iio.imread(frame)[:height, :width] for frame in frames])
    partial = path.with_name(f".partial.{path.name}")
    try:
        iio.imwrite(partial, clip, plugin="FFMPEG", fps=fps, codec="libx264", macro_block_size=2, quality=8)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
