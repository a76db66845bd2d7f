"""Held-out views of a camera rig, undistorted like the frames of the video.

Layout of the Dynamic Scene data: `mv_images/00007/cam01.jpg` to `cam12.jpg`, and masks under `mv_masks` as .png. The
video is taken by camera t mod 12 + 1 at time t, so that its first twelve frames have the poses of the twelve cameras.
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
from nsff.images import is_image, read_image
from nsff.io import Image, Mask, read_text, write_image
from nsff.masks import MaskFolder
from nsff.prep.capture import REPORT
from nsff.prep.colmap import UNDISTORTION
from nsff.prep.covisibility import COVISIBLE, NOTE
from nsff.prep.video import shrink
from nsff.scene_folder import N_CAMERAS, SceneFolder

SUFFIXES = {"mv_images": ".jpg", "mv_masks": ".png"}
JPEG_QUALITY = 99  # Metrics are measured against these images.


def list_views(views: Path) -> list[Path]:
    """List the images and masks of a folder, relative to it; their suffixes may be others than the usual ones.

    Raises:
        InputError: the folder lacks images or masks.
    """
    if not views.is_dir():
        raise InputError(f"--views {views} is not a folder")
    listed: list[Path] = []
    for name, suffix in SUFFIXES.items():
        paths = sorted(path for path in (views / name).glob("*/cam*") if is_image(path))
        if not paths:
            raise InputError(f"{views} holds no {name}/00000/cam01{suffix}; give the folder of mv_images and mv_masks")
        listed += [path.relative_to(views) for path in paths]
    return listed


def undistorted(view: Path) -> Path:
    """Relative path of an undistorted view or mask, with the suffix of the Dynamic Scene data."""
    return view.with_suffix(SUFFIXES[view.parts[0]])


def undistort_views(views: Path, folder: SceneFolder, max_side: int) -> str:
    """Write `mv_images` and `mv_masks` of a scene, undistorted and cropped like its frames.

    Args:
        views: folder of both, from cameras of the model of the video's camera, at the size of its frames.
        folder: folder of the scene, with cameras.
        max_side: longer side at most, pixels, as for the frames.

    Returns:
        A summary line.

    Raises:
        InputError: views are missing or of another size, or leading frames have no camera, so that the times of views
            and frames would differ.
    """
    report = json.loads(read_text(folder.root / REPORT))
    _check_report(report, folder)
    camera = camera_from_report(report["lens"])
    paths = list_views(views)
    masks = MaskFolder([views / path for path in paths if path.parts[0] == "mv_masks"])
    remove_views(folder)
    for path in progress_bar(paths, "held-out views", unit="picture"):
        is_mask = path.parts[0] == "mv_masks"
        given = _as_image(masks.read(views / path)) if is_mask else read_image(views / path)
        image = shrink(given, max_side)
        if image.shape[:2] != (camera.height, camera.width):
            raise InputError(
                f"{views / path} is {image.shape[1]}x{image.shape[0]}, the video's frames are "
                f"{camera.width}x{camera.height}: not a camera like the video's"
            )
        if is_mask:  # a pixel of a smaller mask moves where any part of it does
            moving = undistort_image(_as_image(image[..., 0] > 0), camera)[..., 0] > 127
            write_image(folder.root / undistorted(path), moving.astype(np.uint8) * 255)
        else:
            write_image(folder.root / undistorted(path), undistort_image(image, camera), quality=JPEG_QUALITY)
    return f"held-out views: {sum(path.parts[0] == 'mv_images' for path in paths)}"


def _as_image(mask: Mask) -> Image:
    return np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=-1)


def _check_report(report: dict[str, Any], folder: SceneFolder) -> None:
    """Check that the camera model is known and that frame numbers equal times."""
    if "lens" not in report:
        raise InputError(f"{folder.root / REPORT} has no camera model; run prepare_video.py with --force cameras")
    indices = report.get("source", {}).get("indices", [])
    if indices and indices != list(range(indices[0], indices[0] + len(indices))):
        raise InputError(
            "--views: the video repeats frames, which were left out, so that times of frames and views differ"
        )
    frames = folder.list_images()
    if len(frames) < N_CAMERAS:
        raise InputError(f"--views: {N_CAMERAS} cameras film in turn, but only {len(frames)} frames have poses")
    if skipped := [name for name in report["left_out"] if name < frames[0].name]:
        raise InputError(
            f"--views: frame {skipped[0]} has no camera, so that the times of frames and views differ; "
            "see run_colmap.py"
        )


def remove_views(folder: SceneFolder) -> None:
    """Remove the undistorted views of an earlier run, and the co-visibility masks that were made of them."""
    masks = [COVISIBLE] if (folder.root / COVISIBLE / NOTE).is_file() else []
    for name in [*SUFFIXES, *masks]:
        shutil.rmtree(folder.root / name, ignore_errors=True)


def undistort_image(image: Image, camera: pycolmap.Camera) -> UInt8[np.ndarray, "h w 3"]:
    """Resample an image to an ideal pinhole camera without blank borders, as is done to the frames."""
    bitmap, _ = pycolmap.undistort_image(UNDISTORTION, pycolmap.Bitmap.from_array(image), camera)
    return bitmap.to_array()


def camera_from_report(entry: dict[str, Any]) -> pycolmap.Camera:
    """Make the camera from its entry in `sfm.json`."""
    return pycolmap.Camera(
        model=entry["model"], width=entry["width"], height=entry["height"], params=np.array(entry["params"])
    )
