"""Masks that keep what moves out of structure from motion: the user's own, or found from optical flow."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float

from nsff.cli import progress_bar
from nsff.errors import InputError
from nsff.io import Image, Mask, list_images, natural_order, read_frames, read_image, write_image
from nsff.prep.colmap import SfmResult
from nsff.prep.flow import DisFlow, consistent
from nsff.prep.motion_masks import epipolar_distance, epipolar_mask, fundamental, motion_mask

WIDTH = 480  # pixels: moving things are looked for at this width
MOVING_ABOVE = 1.5  # pixels there; cameras of the first try are not exact
MOSTLY = 0.4  # share of the pixels: if more than these contradict the cameras of a pair, the cameras are wrong
RANSAC_PIXELS, RANSAC_STEP = 1.0, 8  # pairs without (right) cameras: the geometry that every 8th pixel agrees on


def write_masks(folder: Path, frames: list[Path], moving: list[Mask]) -> Path:
    """Masks as COLMAP wants them: `<image name>.png` at the size of the frame, black = no features."""
    for path, mask in zip(frames, moving, strict=True):
        size = read_image(path).shape[1::-1]
        still = cv2.resize((~mask).astype(np.uint8) * 255, size, interpolation=cv2.INTER_NEAREST)
        write_image(folder / f"{path.name}.png", still)
    return folder


def find_moving(
    frames: list[Path], result: SfmResult | None, movable: Callable[[Image], Mask] | None = None
) -> list[Mask]:
    """What moves, at a small size, from flow and the cameras of the first try (or, without, RANSAC).

    Args:
        frames: their files.
        result: of the first try.
        movable: finds things that are able to move as well.
    """
    first = read_image(frames[0])
    size = (WIDTH, round(first.shape[0] * WIDTH / first.shape[1]))
    small = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in read_frames(frames)]
    poses, intrinsics = _poses(result, size, first.shape[1])
    method = DisFlow()
    found: list[tuple[list, list]] = [([], []) for _ in frames]
    for index in progress_bar(range(len(frames) - 1), desc="what moves", unit="pair"):
        fwd, bwd = method(small[index], small[index + 1]), method(small[index + 1], small[index])
        for here, there, flow, back in ((index, index + 1, fwd, bwd), (index + 1, index, bwd, fwd)):
            agree, names = consistent(flow, back), (frames[here].name, frames[there].name)
            distance = None
            if all(name in poses for name in names):
                distance = epipolar_distance(flow, fundamental(poses[names[0]], poses[names[1]], intrinsics))
            if distance is None or np.mean(distance[agree] > MOVING_ABOVE) > MOSTLY:
                distance = _distance_from_flow(flow, agree)
            if distance is not None:
                found[here][0].append(distance)
                found[here][1].append(agree)
    masks = []
    for image, each in zip(small, found, strict=True):
        moves = epipolar_mask(*each, MOVING_ABOVE) if each[0] else np.zeros(size[::-1], bool)
        masks.append(motion_mask(moves, None if movable is None else movable(image)))
    return masks


def _poses(
    result: SfmResult | None, size: tuple[int, int], width: int
) -> tuple[dict[str, Float[np.ndarray, "3 4"]], Float[np.ndarray, "3 3"]]:
    """w2c of each registered frame, and intrinsics at the small size (the little lens distortion is left out)."""
    if result is None:
        return {}, np.eye(3)
    camera = next(iter(result.model.cameras.values()))
    focal = camera.mean_focal_length() * size[0] / width
    intrinsics = np.array([[focal, 0.0, size[0] / 2], [0.0, focal, size[1] / 2], [0.0, 0.0, 1.0]])
    images = [image for image in result.model.images.values() if image.has_pose]
    return {image.name: image.cam_from_world().matrix() for image in images}, intrinsics


def _distance_from_flow(flow: Float[np.ndarray, "H W 2"], agree: Mask) -> Float[np.ndarray, "H W"] | None:
    """Distances from the epipolar geometry that most pixels follow; None if there is none."""
    rows, columns = np.nonzero(agree[::RANSAC_STEP, ::RANSAC_STEP])
    start = np.stack([columns, rows], axis=1) * RANSAC_STEP
    if len(start) < 50:
        return None
    arrival = start + flow[start[:, 1], start[:, 0]]
    matrix, _ = cv2.findFundamentalMat(start.astype(np.float64), arrival, cv2.USAC_MAGSAC, RANSAC_PIXELS, 0.999, 2000)
    return epipolar_distance(flow, matrix) if matrix is not None and matrix.shape == (3, 3) else None


def read_own_masks(folder: Path, n_frames: int, chosen: Sequence[int] = (), n_all: int = 0) -> list[Mask]:
    """Masks that the user made, one a frame, in the order of their names: 0 = still, bright (or any label) = moving.

    Args:
        folder: of the masks.
        n_frames: the frames that are used.
        chosen: which frames of their source these are; a mask for each of all `n_all` of them is welcome as well.
        n_all: frames of the source.

    Raises:
        InputError: not one for each frame, or nothing in any of them.
    """
    paths = sorted(list_images(folder, "give a folder with a mask for each frame"), key=natural_order)
    if len(paths) == n_all and len(chosen) == n_frames:
        paths = [paths[k] for k in chosen]
    if len(paths) != n_frames:
        raise InputError(f"{folder} has {len(paths)} masks for {n_frames} frames; give one for each")
    masks = []
    for path in paths:
        brightest = read_image(path).max(axis=-1)
        masks.append(brightest > 0.5 * max(1, brightest.max()))
    if not any(mask.any() for mask in masks):
        raise InputError(f"{folder}: all masks are black; what moves must be white")
    return masks
