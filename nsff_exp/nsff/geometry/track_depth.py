"""Depth of moving regions from their whole tracks. Not part of the paper.

A single camera does not determine the depth of a moving thing in one frame. Over a whole clip the depths can be those
at which the thing moves least: trajectory triangulation (Avidan and Shashua 2000), with a prior on the motion (Park et
al. 2010). Where the camera moves smoothly, small depths near the camera fit the prior as well as true ones do; such
tracks are recognised by their uncertainty and rejected (Park et al.: reconstructability).
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from nsff.io import Flow, Mask

MIN_REGION_FRACTION = 0.001  # Of the frame; smaller regions are not tracked.
MIN_LINKED_FRACTION = 0.5  # Of the pixels of a region that must flow into the next region of its track.
MAX_POINTS = 200  # Per region and step, on a regular subset of its pixels.
MIN_POINTS = 8  # A track ends where fewer points have consistent flow.
MIN_TRACK_FRAMES = 6  # Shorter tracks are off by 20 to 30 % on rendered scenes.
MAX_UNCERTAINTY = 0.85  # Of `TrackDepth.uncertainty`: 0.1 to 0.7 for cameras that jump, above 1.5 for a hand-held one.
MIN_CONDITION = 1e-8  # Smallest over largest eigenvalue; below it, depths are determined by rounding errors.
# Offsets and factors of the differences whose squares are summed: the motion, half of it from the points of either
# frame, and the acceleration.
HALF = 0.5**0.5
DIFFERENCES = (((0, 1), (-HALF, HALF)), ((-1, 0), (-HALF, HALF)), ((-1, 0, 1), (1.0, -2.0, 1.0)))


@dataclasses.dataclass(frozen=True)
class MovingFlow:
    """The moving pixels of a frame and their flow, in the order of `np.nonzero`.

    Attributes:
        moving: the pixels.
        flows: flow of each to the frames before (-1) and after (1), as far as there are; pixels (right, down).
        trusted: whether each of these flows is consistent with the flow back.
    """

    moving: Mask
    flows: dict[int, Float[np.ndarray, "m 2"]]
    trusted: dict[int, Bool[np.ndarray, " m"]]


@dataclasses.dataclass(frozen=True)
class Track:
    """A moving region through consecutive frames.

    Attributes:
        start: index of its first frame.
        labels: its label in `label_regions` of each frame.
    """

    start: int
    labels: list[int]

    def shows(self, frame: int) -> bool:
        """Whether the track extends to a frame."""
        return self.start <= frame < self.start + len(self.labels)

    def label(self, frame: int) -> int:
        """Label of the region in a frame that it extends to."""
        return self.labels[frame - self.start]


@dataclasses.dataclass(frozen=True)
class TrackDepth:
    """Depths of a track.

    Attributes:
        depths: along the axis of the camera, per frame; may be negative.
        uncertainty: relative distance at which the depths of least acceleration lie at most; infinite where some change
            of the depths costs no acceleration. Motion does not count: things that move as steadily as the camera and
            along its path look like things at rest at a wrong depth.
        scale_bounds: factors of all depths by regression of the accelerations of rays and camera on each other. Errors
            of flow and accelerations of the thing draw the first, least squares, towards the camera, and the second,
            its reverse, away from it; the truth lies between (Frisch 1934). (0, infinity) where they say nothing.
    """

    depths: Float[np.ndarray, " t"]
    uncertainty: float
    scale_bounds: tuple[float, float]

    @property
    def is_reliable(self) -> bool:
        """The track is long enough, and its depths are positive and well determined."""
        long_enough = len(self.depths) >= MIN_TRACK_FRAMES
        return long_enough and self.uncertainty <= MAX_UNCERTAINTY and bool((self.depths > 0.0).all())


def label_regions(moving: Mask) -> Int[np.ndarray, "H W"]:
    """Number the connected regions of a mask from 1 on; 0 = outside."""
    return cv2.connectedComponents(moving.astype(np.uint8), connectivity=8)[1]


def _dense(moving: Mask, values: Shaped[np.ndarray, "m ..."]) -> Shaped[np.ndarray, "H W ..."]:
    """Values of the moving pixels as an image; 0 at other pixels."""
    image = np.zeros((*moving.shape, *values.shape[1:]), values.dtype)
    image[moving] = values
    return image


@dataclasses.dataclass(frozen=True)
class _Step:
    """Flow of the moving pixels of a frame into an adjacent one.

    Attributes:
        labels: regions of the frame.
        flow: flow to the adjacent frame.
        trusted: moving pixels whose flow is consistent.
        targets: label of the adjacent frame's region into which each trusted pixel flows; else 0.
    """

    labels: Int[np.ndarray, "H W"]
    flow: Flow
    trusted: Mask
    targets: Int[np.ndarray, "H W"]


def _follow(frames: Sequence[MovingFlow], index: int, step: int) -> _Step:
    """Follow the moving pixels of a frame into the one before (-1) or after (1)."""
    frame, adjacent = frames[index], frames[index + step]
    height, width = frame.moving.shape
    flow, trusted = (_dense(frame.moving, values[step]) for values in (frame.flows, frame.trusted))
    rows, columns = np.nonzero(trusted)
    x, y = np.rint(np.stack([columns, rows]) + flow[rows, columns].T).astype(int)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    targets = np.zeros((height, width), np.int32)
    targets[rows[inside], columns[inside]] = label_regions(adjacent.moving)[y[inside], x[inside]]
    return _Step(label_regions(frame.moving), flow, trusted, targets)


def link_regions(frames: Sequence[MovingFlow]) -> list[Track]:
    """Link the moving regions of consecutive frames into tracks.

    A region continues in the one into which most of its pixels flow. Of several that flow into the same one, that with
    most pixels continues and the others end; the lesser parts of a region that splits begin new tracks.

    Args:
        frames: all frames of the video.

    Returns:
        All tracks, those of a single frame included. Each region that is large enough is in one track.
    """
    minimum = MIN_REGION_FRACTION * frames[0].moving.size
    tracks: list[Track] = []
    open_tracks: dict[int, Track] = {}  # by label in the frame at hand
    for index, frame in enumerate(frames):
        areas = np.bincount(label_regions(frame.moving).ravel())
        continued = {}
        if index > 0:
            links = _links(_follow(frames, index - 1, 1), list(open_tracks))
            continued = {new: open_tracks[old] for old, new in links.items() if areas[new] >= minimum}
        for label, track in continued.items():
            track.labels.append(label)
        for label in range(1, len(areas)):
            if label not in continued and areas[label] >= minimum:
                continued[label] = Track(index, [label])
                tracks.append(continued[label])
        open_tracks = continued
    return tracks


def _links(step: _Step, labels: list[int]) -> dict[int, int]:
    """Match regions to those of the next frame; each at most once."""
    candidates = []
    for label in labels:
        region = step.labels == label
        votes = np.bincount(step.targets[region], minlength=2)
        votes[0] = 0  # outside of all regions
        best = int(votes.argmax())
        # Only trusted pixels vote: where they are few, there is no flow to measure by either.
        if votes[best] >= max(MIN_POINTS, MIN_LINKED_FRACTION * step.trusted[region].sum()):
            candidates.append((int(votes[best]), label, best))
    links: dict[int, int] = {}
    for _, label, best in sorted(candidates, reverse=True):
        if best not in links.values():
            links[label] = best
    return links


class _SquaredSum:
    """A sum of squares in the depths, d^T N d - 2 r^T d + c."""

    def __init__(self, n_frames: int) -> None:
        self.normal = np.zeros((n_frames, n_frames))
        self.right = np.zeros(n_frames)
        self.constant = 0.0

    def add(
        self,
        first: int,
        factors: Float[np.ndarray, " m"],
        centres: Float[np.ndarray, "m 3"],
        rays: Float[np.ndarray, "m n 3"],
    ) -> None:
        """Add the mean over n points of |sum_j factor_j (centre_j + d_{first + j} ray_j)|^2."""
        scaled, offset = factors[:, None, None] * rays, factors @ centres
        here = slice(first, first + len(factors))
        self.normal[here, here] += np.einsum("ikx,jkx->ij", scaled, scaled) / rays.shape[1]
        self.right[here] -= scaled.mean(1) @ offset
        self.constant += float(offset @ offset)

    def at(self, depths: Float[np.ndarray, " t"]) -> float:
        """Value of the sum."""
        return max(0.0, float(depths @ self.normal @ depths - 2.0 * self.right @ depths) + self.constant)

    def scale_bounds(self, depths: Float[np.ndarray, " t"]) -> tuple[float, float]:
        """Factor of the depths with the least value, r^T d / d^T N d, and of the reverse regression, c / r^T d."""
        product, square = float(self.right @ depths), float(depths @ self.normal @ depths)
        return (product / square, self.constant / product) if product > 0.0 else (0.0, np.inf)


def _solve(motion: _SquaredSum, acceleration: _SquaredSum) -> TrackDepth:
    """Minimise the sum of both, and bound the error by the acceleration alone.

    A sum of squares of value v at d has no minimum farther from d than sqrt(v) over its smallest singular value.
    """
    unsolvable = TrackDepth(np.zeros_like(motion.right), np.inf, (0.0, np.inf))
    values, vectors = np.linalg.eigh(motion.normal + acceleration.normal)
    if values[0] <= MIN_CONDITION * values[-1]:
        return unsolvable
    depths = vectors @ (vectors.T @ (motion.right + acceleration.right) / values)
    stiffness = np.linalg.eigvalsh(acceleration.normal)
    if stiffness[0] <= MIN_CONDITION * stiffness[-1] or not depths.any():
        return unsolvable
    bound = np.sqrt(acceleration.at(depths) / stiffness[0])
    return TrackDepth(depths, float(bound / np.linalg.norm(depths)), acceleration.scale_bounds(depths))


def measure_tracks(
    tracks: Sequence[Track],
    frames: Sequence[MovingFlow],
    w2c: Float[np.ndarray, "n 3 4"],
    intrinsics: Float[np.ndarray, "3 3"],
) -> list[TrackDepth]:
    """Find the depths at which each track moves and accelerates least.

    With X_t = centre_t + d_t ray_t for each point of the region, all of one depth d_t per frame, the sum over frames of
    |X_{t+1} - X_t|^2 + |X_{t+1} - 2 X_t + X_{t-1}|^2, in the mean over points, is quadratic in all d_t. The first term
    alone is biased where a thing moves on steadily, the second alone is loose at the ends.

    Args:
        tracks: the tracks.
        frames: all frames of the video.
        w2c: poses of all frames, axes right, down, forward.
        intrinsics: intrinsics at the size of the frames.
    """
    centres = -np.einsum("nji,nj->ni", w2c[:, :, :3], w2c[:, :, 3])
    sums = [(_SquaredSum(len(track.labels)), _SquaredSum(len(track.labels))) for track in tracks]
    for frame in range(len(frames)):
        here = [(track, both) for track, both in zip(tracks, sums, strict=True) if track.shows(frame)]
        if not here:
            continue
        steps = {step: _follow(frames, frame, step) for step in (-1, 1) if 0 <= frame + step < len(frames)}
        for track, (motion, acceleration) in here:
            for offsets, factors in DIFFERENCES:
                if not all(track.shows(frame + offset) for offset in offsets):
                    continue
                points = _points(track, frame, {offset: steps[offset] for offset in offsets if offset != 0})
                if len(points[0]):
                    cameras = [frame + offset for offset in offsets]
                    rays = np.stack([_rays(points[k - frame], w2c[k], intrinsics) for k in cameras])
                    total = motion if len(factors) == 2 else acceleration
                    total.add(cameras[0] - track.start, np.array(factors), centres[cameras], rays)
    return [_solve(motion, acceleration) for motion, acceleration in sums]


def _points(track: Track, frame: int, steps: dict[int, _Step]) -> dict[int, Float[np.ndarray, "n 2"]]:
    """Points (right, down) of the region in a frame that stay in the track, by offset of the frame."""
    stay = next(iter(steps.values())).labels == track.label(frame)
    for offset, step in steps.items():
        stay &= step.targets == track.label(frame + offset)
    rows, columns = np.nonzero(stay)
    every = max(1, len(rows) // MAX_POINTS)
    rows, columns = rows[::every], columns[::every]
    start = np.stack([columns, rows], axis=1).astype(np.float64)
    return {0: start} | {offset: start + step.flow[rows, columns] for offset, step in steps.items()}


def _rays(
    pixels: Float[np.ndarray, "n 2"], camera: Float[np.ndarray, "3 4"], intrinsics: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "n 3"]:
    """Rays in the world, of depth 1 along the axis of the camera (w2c)."""
    directions = (pixels - intrinsics[:2, 2]) / intrinsics[0, 0]
    return np.concatenate([directions, np.ones((len(pixels), 1))], axis=1) @ camera[:, :3]


def inverse_depths_by_frame(tracks: Sequence[tuple[Track, TrackDepth]], n_frames: int) -> list[dict[int, float]]:
    """Inverse depth of the regions of tracks, by frame and by label."""
    by_frame: list[dict[int, float]] = [{} for _ in range(n_frames)]
    for track, depth in tracks:
        for frame, (label, value) in enumerate(zip(track.labels, depth.depths, strict=True), track.start):
            by_frame[frame][label] = 1.0 / float(value)
    return by_frame
