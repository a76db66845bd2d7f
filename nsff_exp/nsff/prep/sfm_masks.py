"""Masks that keep moving things out of structure from motion: detected from optical flow, written for COLMAP."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float

from nsff.cli import progress_bar
from nsff.images import image_size, read_frames, read_image
from nsff.input_checks import check_aspect
from nsff.io import Flow, Image, Mask, write_image
from nsff.prep.colmap import SfmResult
from nsff.prep.flow import DisFlow, consistent
from nsff.prep.motion_masks import epipolar_distance, epipolar_mask, fundamental, motion_mask

DETECTION_WIDTH = 480  # Pixels; frames are reduced to this width to detect motion.
MOVING_ABOVE = 1.5  # Pixels of epipolar distance at that width; generous, as first cameras are not exact.
MAX_OUTLIER_FRACTION = 0.4  # If more pixels contradict the cameras of a pair, the cameras are not believed.
RANSAC_PIXELS, RANSAC_STRIDE = 1.0, 8  # Inlier threshold; every 8th row and column takes part.
RANSAC_MIN_POINTS = 50  # With fewer consistent pixels no geometry is fitted.
RANSAC_CONFIDENCE, RANSAC_ITERATIONS = 0.999, 2000


def write_colmap_masks(folder: Path, frames: list[Path], moving: list[Mask]) -> Path:
    """Write motion masks as COLMAP reads them: `<image name>.png` at the size of the frame, black = no features.

    Raises:
        InputError: a mask has another aspect ratio than its frame.
    """
    for path, mask in zip(frames, moving, strict=True):
        size = image_size(path)
        remedy = "give masks of the frames as they are shown, upright and not cropped"
        check_aspect(f"the mask of frame {path.stem}", mask.shape[::-1], "the frame", size, remedy)
        static = cv2.resize((~mask).astype(np.uint8) * 255, size, interpolation=cv2.INTER_NEAREST)
        write_image(folder / f"{path.name}.png", static)
    return folder


def find_moving(
    frames: list[Path], result: SfmResult | None, movable: Callable[[Image], Mask] | None = None
) -> list[Mask]:
    """Detect moving pixels from optical flow and the cameras of the first attempt.

    Pairs without cameras, or whose cameras most pixels contradict, use the epipolar geometry that RANSAC finds.

    Args:
        frames: paths of the frames.
        result: result of the first attempt; None if it failed.
        movable: detector of movable things, whose masks are added.

    Returns:
        One mask per frame, `DETECTION_WIDTH` pixels wide.
    """
    first = read_image(frames[0])
    size = (DETECTION_WIDTH, round(first.shape[0] * DETECTION_WIDTH / first.shape[1]))
    images = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in read_frames(frames)]
    poses, intrinsics = _poses(result, size, first.shape[1])
    method = DisFlow()
    distances: list[list[Float[np.ndarray, "H W"]]] = [[] for _ in frames]
    agreements: list[list[Mask]] = [[] for _ in frames]
    for index in progress_bar(range(len(frames) - 1), desc="motion", unit="pair"):
        fwd, bwd = method(images[index], images[index + 1]), method(images[index + 1], images[index])
        for source, target, flow, inverse in ((index, index + 1, fwd, bwd), (index + 1, index, bwd, fwd)):
            agree = consistent(flow, inverse)
            first_pose, second_pose = poses.get(frames[source].name), poses.get(frames[target].name)
            distance = None
            if first_pose is not None and second_pose is not None:
                distance = epipolar_distance(flow, fundamental(first_pose, second_pose, intrinsics))
            if distance is None or np.mean(distance[agree] > MOVING_ABOVE) > MAX_OUTLIER_FRACTION:
                distance = _distance_by_ransac(flow, agree)
            if distance is not None:
                distances[source].append(distance)
                agreements[source].append(agree)
    masks = []
    for image, per_pair, agree_per_pair in zip(images, distances, agreements, strict=True):
        epipolar = np.zeros(size[::-1], bool)
        if per_pair:
            epipolar = epipolar_mask(per_pair, agree_per_pair, MOVING_ABOVE)
        masks.append(motion_mask(epipolar, None if movable is None else movable(image)))
    return masks


def _poses(
    result: SfmResult | None, size: tuple[int, int], width: int
) -> tuple[dict[str, Float[np.ndarray, "3 4"]], Float[np.ndarray, "3 3"]]:
    """w2c by frame name, and intrinsics of frames resized from `width` to `size` (lens distortion is neglected)."""
    if result is None:
        return {}, np.eye(3)
    camera = next(iter(result.model.cameras.values()))
    focal = camera.mean_focal_length() * size[0] / width
    intrinsics = np.array([[focal, 0.0, size[0] / 2], [0.0, focal, size[1] / 2], [0.0, 0.0, 1.0]])
    images = [image for image in result.model.images.values() if image.has_pose]
    return {image.name: image.cam_from_world().matrix() for image in images}, intrinsics


def _distance_by_ransac(flow: Flow, agree: Mask) -> Float[np.ndarray, "H W"] | None:
    """Distances from the epipolar geometry that most consistent pixels follow; None if RANSAC finds none."""
    rows, columns = np.nonzero(agree[::RANSAC_STRIDE, ::RANSAC_STRIDE])
    start = np.stack([columns, rows], axis=1) * RANSAC_STRIDE
    if len(start) < RANSAC_MIN_POINTS:
        return None
    arrival = start + flow[start[:, 1], start[:, 0]]
    matrix, _ = cv2.findFundamentalMat(
        start.astype(np.float64), arrival, cv2.USAC_MAGSAC, RANSAC_PIXELS, RANSAC_CONFIDENCE, RANSAC_ITERATIONS
    )
    return epipolar_distance(flow, matrix) if matrix is not None and matrix.shape == (3, 3) else None
