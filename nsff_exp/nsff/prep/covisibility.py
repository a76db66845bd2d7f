"""Co-visibility masks of held-out cameras (DyCheck, Gao et al. 2022, arXiv:2210.13445)."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from nsff.cli import progress_bar
from nsff.errors import InputError
from nsff.images import is_image, read_frames, read_image
from nsff.io import Flow, Image, Mask, digest_of_files, read_or_raise, read_text, write_image, write_text
from nsff.prep.flow import FlowMethod, consistent
from nsff.scene_folder import SceneFolder

# A pixel is co-visible if this many frames of the video show it, the larger of both: a number, a fraction of them.
MIN_FRAMES, MIN_FRAME_FRACTION = 5, 0.1
COVISIBLE = "covisible"  # folder of the masks
NOTE = "made_from.json"  # in that folder: the view and frames of each mask that was made here, as a digest

log = logging.getLogger("nsff")


def covisible(view: Image, frames: Iterable[Image], method: FlowMethod) -> Mask:
    """Mask the pixels of a view that consistent flow finds in enough frames of the video.

    Args:
        view: image of a held-out camera.
        frames: frames of the video, of the same size.
        method: optical flow.
    """
    n_visible, n_frames = np.zeros(view.shape[:2], np.int32), 0
    for frame in frames:
        fwd, bwd = method(view, frame), method(frame, view)
        n_visible += consistent(fwd, bwd) & ends_inside(fwd)
        n_frames += 1
    return n_visible >= max(MIN_FRAMES, MIN_FRAME_FRACTION * n_frames)


def ends_inside(flow: Flow) -> Mask:
    """Mask the pixels whose flow ends inside the frame."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    x, y = x + flow[..., 0], y + flow[..., 1]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def make_covisibility(folder: SceneFolder, method: FlowMethod, height: int | None = None) -> str:
    """Write `covisible/00000/cam01.png` for every file of `mv_images` that has none of this view and these frames.

    Masks that this function has not made, such as downloaded ones, are kept.

    Args:
        folder: folder of the scene.
        method: optical flow.
        height: training height, where the scene has frames of several sizes.

    Returns:
        A summary line.

    Raises:
        InputError: the scene has no held-out cameras.
    """
    views = sorted(path for path in (folder.root / "mv_images").glob("*/*") if is_image(path))
    if not views:
        raise InputError(f"{folder.root / 'mv_images'} holds no 00000/cam01.jpg: masks are made for held-out cameras")
    frame_paths = folder.list_frames(height)
    frames = list(read_frames(frame_paths))
    size, note = frames[0].shape[1::-1], folder.root / COVISIBLE / NOTE
    remedy = f"delete {note.parent} and run make_covisibility.py again"
    made = read_or_raise(note, lambda: dict(json.loads(read_text(note))), remedy) if note.is_file() else {}
    sources = {view: digest_of_files([view, *frame_paths], folder.root) for view in views}
    names = {view: str(view.relative_to(folder.root)) for view in views}

    def is_current(view: Path) -> bool:
        return _mask_path(folder, view).is_file() and made.get(names[view], sources[view]) == sources[view]

    missing = [view for view in views if not is_current(view)]
    if kept := [view for view in views if view not in missing and names[view] not in made]:
        log.info("covisible: %d masks that were not made by this script are kept as they are", len(kept))
    for view in progress_bar(missing, "covisible", unit="view"):
        image = cv2.resize(read_image(view), size, interpolation=cv2.INTER_AREA)
        write_image(_mask_path(folder, view), np.uint8(255) * covisible(image, frames, method).astype(np.uint8))
        made[names[view]] = sources[view]
        write_text(note, json.dumps(made, indent=1) + "\n")
    fractions = [float((read_image(_mask_path(folder, view)) > 0).mean()) for view in views]
    return f"covisible: {len(views)} views, {100.0 * np.mean(fractions):.1f}% of their pixels are in the video too"


def _mask_path(folder: SceneFolder, view: Path) -> Path:
    return folder.root / COVISIBLE / view.parent.name / f"{view.stem}.png"
