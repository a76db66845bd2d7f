"""Held-out views: what the cameras that filmed the video in turn saw at other times, undistorted as its frames were.

Layout of the Dynamic Scene data: `mv_images/00007/cam01.jpg` to `cam12.jpg`, the same under `mv_masks` as .png; the
video is camera t mod 12 + 1 at time t, so that the first twelve frames have the poses of the twelve cameras.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from jaxtyping import UInt8

from nsff.cli import progress_bar
from nsff.errors import InputError
from nsff.io import Image, read_image, write_image
from nsff.prep.capture import REPORT
from nsff.prep.colmap import IDEAL
from nsff.prep.video import shrink
from nsff.scene_folder import N_CAMERAS, SceneFolder

KINDS = (("mv_images", ".jpg"), ("mv_masks", ".png"))


def list_views(views: Path) -> list[Path]:
    """The pictures and masks of a folder, relative to it.

    Raises:
        InputError: it has not both.
    """
    if not views.is_dir():
        raise InputError(f"--views {views} is no folder")
    found = [sorted((views / kind).glob(f"*/cam*{suffix}")) for kind, suffix in KINDS]
    for (kind, suffix), paths in zip(KINDS, found, strict=True):
        if not paths:
            raise InputError(f"{views} holds no {kind}/00000/cam01{suffix}; give the folder of mv_images and mv_masks")
    return [path.relative_to(views) for paths in found for path in paths]


def undistort_views(views: Path, folder: SceneFolder, longest: int) -> str:
    """Write `mv_images` and `mv_masks` of a scene, so that they see as much as its frames.

    Args:
        views: folder with both, of cameras with the lens of the video, in the size of its frames.
        folder: of the scene, with cameras.
        longest: most pixels of a side, as for the frames.

    Returns:
        A line about what was made.

    Raises:
        InputError: nothing there, another size, or the first frame has no camera: then times would not agree.
    """
    report = json.loads((folder.root / REPORT).read_text())
    if "lens" not in report:
        raise InputError(f"{folder.root / REPORT} does not say the lens; run prepare_video.py with --force cameras")
    if len(folder.list_images()) < N_CAMERAS:
        raise InputError(
            f"--views: {N_CAMERAS} cameras film in turn, only {len(folder.list_images())} frames have poses"
        )
    if first := [name for name in report["left_out"] if name < folder.list_images()[0].name]:
        raise InputError(f"--views: times would not agree, frame {first[0]} has no camera; see run_colmap.py")
    lens = lens_of(report["lens"])
    paths = list_views(views)
    forget_views(folder)
    for path in progress_bar(paths, "held-out views", unit="picture"):
        picture = shrink(read_image(views / path), longest)
        if picture.shape[:2] != (lens.height, lens.width):
            raise InputError(
                f"{views / path} is {picture.shape[1]}x{picture.shape[0]}, the video's frames are "
                f"{lens.width}x{lens.height}: not a camera like the video's"
            )
        if path.suffix == ".png":  # whatever is not black moves
            whites = np.where(picture.max(axis=-1, keepdims=True) > 0, 255, 0).astype(np.uint8).repeat(3, axis=-1)
            picture = np.where(undistorted(whites, lens)[..., 0] > 127, 255, 0).astype(np.uint8)
            write_image(folder.root / path, picture)
        else:
            write_image(folder.root / path, undistorted(picture, lens), quality=99)
    return f"held-out views: {sum(path.suffix == '.jpg' for path in paths)}"


def forget_views(folder: SceneFolder) -> None:
    """Remove what was made of other views, or with other cameras."""
    for kind, _ in KINDS:
        shutil.rmtree(folder.root / kind, ignore_errors=True)


def undistorted(picture: Image, lens: pycolmap.Camera) -> UInt8[np.ndarray, "h w 3"]:
    """What an ideal camera would have seen, without blank borders: what is done to the frames."""
    bitmap, _ = pycolmap.undistort_image(IDEAL, pycolmap.Bitmap.from_array(picture), lens)
    return bitmap.to_array()


def lens_of(facts: dict[str, Any]) -> pycolmap.Camera:
    return pycolmap.Camera(
        model=facts["model"], width=facts["width"], height=facts["height"], params=np.array(facts["params"])
    )
