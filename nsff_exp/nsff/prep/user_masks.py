"""Motion masks that the user gives."""

from collections.abc import Sequence
from pathlib import Path

from nsff.errors import InputError
from nsff.images import list_images
from nsff.io import Mask
from nsff.masks import COVERS_ALL, MaskFolder, coverage_text


def read_user_masks(folder: Path, n_frames: int, indices: Sequence[int] = (), n_source: int = 0) -> list[Mask]:
    """Read the user's motion masks, one per frame in natural order, of any kind that `masks` knows.

    Args:
        folder: folder of the masks.
        n_frames: number of frames in use.
        indices: their indices in the source, for a folder with one mask per source frame.
        n_source: number of frames of the source.

    Raises:
        InputError: the number of masks fits neither the frames in use nor the source, or the masks cover nothing or
            nearly all.
    """
    paths = list_images(folder, "give a folder with a mask for each frame")
    masks = MaskFolder(paths)
    if len(paths) == n_source and len(indices) == n_frames:
        paths = [paths[k] for k in indices]
    if len(paths) != n_frames:
        raise InputError(f"{folder} has {len(paths)} masks for {n_frames} frames; give one mask per frame")
    moving = [masks.read(path) for path in paths]
    if not any(mask.any() for mask in moving):
        raise InputError(f"{folder}: all masks are black; paint moving things white")
    if masks.rule.coverage >= COVERS_ALL:
        raise InputError(
            f"{coverage_text(masks.rule, paths[0])}: invert them (COLMAP and nerfstudio have it the other way round)"
        )
    return moving
