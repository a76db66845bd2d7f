"""Depth stage without weights: all frames are measured, then the tracks of what moves, then the rest is filled in."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from nsff.cli import progress_bar
from nsff.errors import InputError
from nsff.geometry.moving_regions import MovingRegions, Track, link_regions
from nsff.geometry.track_depth import TrackDepth, inverse_depths_by_frame, measure_tracks
from nsff.images import read_image
from nsff.io import Image, write_array, write_image
from nsff.prep.flow import DisFlow
from nsff.prep.multiview.clean_plate import MeasuredFrames, sharpen_edges
from nsff.prep.multiview.inpaint_depth import contact_inverse_depth, inpaint_depth
from nsff.prep.multiview.plane_sweep import NEAREST_PLANE_RATIO
from nsff.prep.multiview.triangulate import MeasuredDepth, follow_moving, measure_depth
from nsff.prep.network_sizes import resize_image, shrink_disparity, working_size
from nsff.prep.poses_bounds import Cameras, load_cameras
from nsff.prep.previews import mask_picture, preview_indices, write_contact_sheet
from nsff.prep.threads import map_in_threads
from nsff.scene_folder import SceneFolder

log = logging.getLogger("nsff")

MIN_SWEEP_SCALE = 0.5  # Of the working size: the plane sweep runs at training size, but not below this.
MIN_MEASURED_FRACTION = 0.3  # Of the pixels; below it, warn that most of the depth is a guess.
SHARPENING_ROUNDS = 2  # The second knows better where the neighbours show the background.
CACHED_FRAMES = 32  # Frames kept in memory: twice as many as measuring one needs.
FARTHEST_RATIO = 1.5  # Of the farthest depth of the reconstructed points; a track beyond it is not believed.
MAX_BEHIND = 1.25  # Depth of a track over that of the surface right below it; beyond it, it is not believed.


class WorkingFrames(Sequence[Image]):
    """The frames at the working size, read when they are needed.

    Attributes:
        size: working size (width, height).
        training_size: training size.
    """

    def __init__(self, sources: list[Path], paths: list[Path]) -> None:
        """Take the source frames, and the frames at training size."""
        height, width = read_image(paths[0]).shape[:2]
        source_height, source_width = read_image(sources[0]).shape[:2]
        self.training_size = width, height
        self.size = working_size((source_width, source_height), self.training_size)
        self.paths = paths if self.size == self.training_size else sources
        self._read = lru_cache(CACHED_FRAMES)(lambda index: resize_image(read_image(self.paths[index]), self.size))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:  # type: ignore[override]
        return self._read(index)


def measure_from_neighbours(folder: SceneFolder, paths: list[Path]) -> str:
    """Write disparity, moving masks and a contact sheet of multi-view depth; return a summary line.

    Depth and masks are computed at the working size; masks are written at that size, disparity at training size.

    Args:
        folder: the scene.
        paths: the frames at training size.

    Raises:
        InputError: there is one frame only.
    """
    if len(paths) < 2:
        raise InputError(
            f"{folder.images} holds one frame: depth cannot be measured from neighbours; choose another --depth"
        )
    frames, cameras = WorkingFrames(folder.list_images(), paths), load_cameras(folder)
    measured = _measure(frames, cameras)
    regions = MovingRegions.of(follow_moving(measured))
    tracked, summary = _track(measured, regions, cameras, frames.size)
    previewed, rows = set(preview_indices(len(frames))), []
    for index in progress_bar(range(len(frames)), desc="filling in", unit="frame"):
        depth = measured[index]
        disparity = inpaint_depth(depth, frames[index], regions.image(index), tracked[index])
        small = shrink_disparity(disparity, depth.moving, frames.training_size)
        write_array(folder.disparity(index), small.astype(np.float32))
        write_image(folder.moving(index), depth.moving.astype(np.uint8) * 255)
        if index in previewed:
            rows.append([mask_picture(frames[index], mask) for mask in (depth.moving, ~depth.valid)])
    write_contact_sheet(folder.root / "sheets" / "multiview.jpg", rows)
    fraction = float(np.mean([depth.valid.mean() for depth in measured]))
    if fraction < MIN_MEASURED_FRACTION:
        log.warning("depth was measured on %.0f %% of the pixels only; the rest is a guess", 100 * fraction)
    filled = f"{fraction:.0%} of the pixels measured from neighbouring frames, {1 - fraction:.0%} filled in"
    return f"depth: {filled}; {summary}"


def _measure(frames: WorkingFrames, cameras: Cameras) -> list[MeasuredDepth]:
    """Measure all frames."""
    intrinsics, nearest = cameras.intrinsics(*frames.size), float(cameras.bounds[:, 0].min())
    sweep_scale = min(1.0, max(MIN_SWEEP_SCALE, frames.training_size[0] / frames.size[0]))

    def measure(index: int) -> MeasuredDepth:
        return measure_depth(frames, index, cameras.w2c, intrinsics, nearest, DisFlow(), sweep_scale)

    with map_in_threads(measure, range(len(frames))) as results:
        measured = list(progress_bar(results, total=len(frames), desc="multiview", unit="frame"))
    sharp = measured
    for _ in range(SHARPENING_ROUNDS):
        around = MeasuredFrames(frames, sharp, cameras.w2c, intrinsics)

        def sharpen(index: int, around: MeasuredFrames = around) -> MeasuredDepth:
            return sharpen_edges(around, index, measured[index])

        with map_in_threads(sharpen, range(len(frames))) as results:
            sharp = list(progress_bar(results, total=len(frames), desc="edges", unit="frame"))
    return sharp


def _track(
    measured: list[MeasuredDepth], regions: MovingRegions, cameras: Cameras, size: tuple[int, int]
) -> tuple[list[dict[int, float]], str]:
    """Inverse depth of the moving regions whose tracks give it, by frame and label, and a summary."""
    tracks = link_regions(regions)
    depths = measure_tracks(tracks, regions, cameras.w2c, cameras.intrinsics(*size))
    bounds = float(cameras.bounds[:, 0].min()), float(cameras.bounds[:, 1].max())
    believed = []
    for track, depth in zip(tracks, depths, strict=True):
        is_believed = depth.is_reliable and _is_plausible(track, depth, measured, regions, bounds)
        log.debug(
            "moving region from frame %d on, %d frames: depth %.3g to %.3g, uncertainty %.2f, %s", track.start,
            len(track.labels), depth.depths.min(), depth.depths.max(), depth.uncertainty,
            "measured" if is_believed else "guessed",
        )  # fmt: skip
        if is_believed:
            believed.append((track, depth))
    tracked = inverse_depths_by_frame(believed, len(measured))
    n_moving = sum(int(depth.moving.sum()) for depth in measured)
    n_measured = sum(
        int(np.isin(labels, list(tracked_labels)).sum())
        for labels, tracked_labels in zip(regions.labels, tracked, strict=True)
    )
    summary = (
        f"of what moves, {len(believed)} tracks measured ({n_measured / max(1, n_moving):.0%} of its pixels) "
        f"and {len(tracks) - len(believed)} guessed"
    )
    return tracked, summary


def _is_plausible(
    track: Track,
    depth: TrackDepth,
    measured: list[MeasuredDepth],
    regions: MovingRegions,
    bounds: tuple[float, float],
) -> bool:
    """Whether the track stays within the scene and mostly not behind the surface right below it."""
    nearest, farthest = NEAREST_PLANE_RATIO * bounds[0], FARTHEST_RATIO * bounds[1]
    if not ((depth.balanced > nearest) & (depth.balanced < farthest)).all():
        return False
    frames = enumerate(track.labels, track.start)
    contacts = np.array([contact_inverse_depth(measured[k], regions.image(k) == label) for k, label in frames])
    return bool(np.median(contacts * depth.balanced) <= MAX_BEHIND)
