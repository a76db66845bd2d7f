"""Motion masks that the user gives."""

from collections.abc import Sequence
from pathlib import Path

from nsff.errors import InputError
from nsff.images import list_images, natural_order, read_image
from nsff.io import Mask


def read_user_masks(folder: Path, n_frames: int, indices: Sequence[int] = (), n_source: int = 0) -> list[Mask]:
    """Read the user's motion masks, one per frame in natural order: 0 = static, bright (or any label) = moving.

    Args:
        folder: folder of the masks.
        n_frames: number of frames in use.
        indices: their indices in the source, for a folder with one mask per source frame.
        n_source: number of frames of the source.

    Raises:
        InputError: the number of masks fits neither the frames in use nor the source, or all masks are black.
    """
    paths = sorted(list_images(folder, "give a folder with a mask for each frame"), key=natural_order)
    if len(paths) == n_source and len(indices) == n_frames:
        paths = [paths[k] for k in indices]
    if len(paths) != n_frames:
        raise InputError(f"{folder} has {len(paths)} masks for {n_frames} frames; give one mask per frame")
    masks = []
    for path in paths:
        brightest = read_image(path).max(axis=-1)
        masks.append(brightest > 0.5 * max(1, brightest.max()))
    if not any(mask.any() for mask in masks):
        raise InputError(f"{folder}: all masks are black; paint moving things white")
    return masks
