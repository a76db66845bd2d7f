"""Which pixels of held-out cameras the video has seen as well (DyCheck, Gao et al. 2022, arXiv:2210.13445)."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from nsff.cli import progress_bar
from nsff.errors import InputError
from nsff.io import Image, Mask, read_frames, read_image, write_image
from nsff.prep.flow import FlowMethod, consistent
from nsff.scene_folder import SceneFolder

LEAST_FRAMES, LEAST_SHARE = 5, 0.1  # frames of the video that must show a pixel: the larger of both


def covisible(view: Image, frames: Iterable[Image], method: FlowMethod) -> Mask:
    """The pixels of a view that flow finds, there and back, in enough frames of the video.

    Args:
        view: what a held-out camera saw.
        frames: of the video, of the same size.
        method: optical flow.
    """
    seen, count = np.zeros(view.shape[:2], np.int32), 0
    for frame in frames:
        there, back = method(view, frame), method(frame, view)
        seen += consistent(there, back) & arrives(there)
        count += 1
    return seen >= max(LEAST_FRAMES, LEAST_SHARE * count)


def arrives(flow: np.ndarray) -> Mask:
    """Where flow leads to a place inside the frame."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    x, y = x + flow[..., 0], y + flow[..., 1]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def make_covisibility(folder: SceneFolder, method: FlowMethod, height: int | None = None) -> str:
    """Write `covisible/00000/cam01.png` for every file of `mv_images`; those that are there stay.

    Returns:
        A line about what was made.

    Raises:
        InputError: no held-out cameras.
    """
    views = sorted((folder.root / "mv_images").glob("*/*.jpg"))
    if not views:
        raise InputError(f"{folder.root / 'mv_images'} holds no 00000/cam01.jpg: masks are made for held-out cameras")
    frames = list(read_frames(folder.list_frames(height)))
    size = frames[0].shape[1::-1]
    todo = [(view, path) for view in views if not (path := _mask_path(folder, view)).is_file()]
    for view, path in progress_bar(todo, "covisible", unit="view"):
        image = cv2.resize(read_image(view), size, interpolation=cv2.INTER_AREA)
        write_image(path, np.uint8(255) * covisible(image, frames, method).astype(np.uint8))
    shares = [float((read_image(_mask_path(folder, view)) > 0).mean()) for view in views]
    return f"covisible: {len(views)} views, {100.0 * np.mean(shares):.1f}% of their pixels are in the video too"


def _mask_path(folder: SceneFolder, view: Path) -> Path:
    return folder.root / "covisible" / view.parent.name / f"{view.stem}.png"
