"""Check the prior depth of what moves against its tracks, and correct it where they contradict it.

Neither flow nor colours contradict a wrong depth of a moving thing: with another scene flow it looks the same in every
frame. The depths at which it moves and accelerates least over its whole track can (`geometry.track_depth`), provided
that the path of the camera lets them; otherwise the prior stays as it is. An extension of the paper.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float16
from torch import Tensor

from nsff.data.flow_check import check_flow
from nsff.data.scene import MASK_MARGIN, Scene
from nsff.geometry.moving_regions import MovingFlow, MovingRegions, Track, link_regions
from nsff.geometry.track_depth import MIN_TRACK_FRAMES, TrackDepth, measure_tracks
from nsff.io import Mask

log = logging.getLogger("nsff")

TOLERANCE = 1.1  # factor between prior and track, beyond the bounds of the track, from which on they contradict
CACHED_FRAMES = 8  # their flow is kept in memory
MAX_REGION_FRACTION = 0.5  # of the frame; a larger region is no single thing at one depth

InverseDepth = Float[Tensor, "H W"]


@dataclasses.dataclass(frozen=True)
class MovingRegion:
    """A moving region whose track gives its depth.

    Attributes:
        track: of the region, with labels of the motion masks without their rims.
        nearest: depth of the track over that of the prior, median of the frames; lower bound.
        farthest: upper bound of the same.
    """

    track: Track
    nearest: float
    farthest: float

    @property
    def frames(self) -> range:
        """The frames that show the region."""
        return range(self.track.start, self.track.start + len(self.track.labels))

    @property
    def factor(self) -> float:
        """Depth of the track over that of the prior: the geometric mean of its bounds."""
        return float(np.sqrt(self.nearest * self.farthest))

    @property
    def contradicts(self) -> bool:
        """Whether the prior lies outside the bounds of the track by more than `TOLERANCE`."""
        return self.farthest * TOLERANCE < 1.0 or self.nearest > TOLERANCE


@dataclasses.dataclass(frozen=True)
class MovingDepth:
    """All moving regions whose tracks give their depth, and the pixels of all regions."""

    regions: tuple[MovingRegion, ...]
    pixels: MovingRegions

    @staticmethod
    def of(scene: Scene, inverse_depth: Callable[[int], InverseDepth], believed: Sequence[bool]) -> "MovingDepth":
        """Compare the prior with the tracks of all moving regions, and name those that it contradicts.

        Args:
            scene: the scene.
            inverse_depth: aligned prior of a frame, scene units.
            believed: per frame, whether its prior is aligned well enough to be used.
        """
        pixels = MovingRegions.of(MovingFlows(scene))
        tracks = link_regions(pixels)
        intrinsics = np.diag([scene.intrinsics.focal, scene.intrinsics.focal, 1.0])
        intrinsics[:2, 2] = scene.intrinsics.width * 0.5, scene.intrinsics.height * 0.5
        depths = measure_tracks(tracks, pixels, _world_to_camera(scene.cameras.c2w), intrinsics)
        regions = []
        for track, depth in zip(tracks, depths, strict=True):
            if depth.is_reliable and np.isfinite(depth.scale_bounds).all():
                region = _compare(track, depth, pixels, inverse_depth, believed)
                regions += [region] if region is not None else []
        found = MovingDepth(tuple(regions), pixels)
        found.report()
        if tracks and not regions:
            log.info("no path of what moves tells its depth: it is taken as given there, unchecked")
        return found

    def report(self) -> None:
        """Warn of each region whose prior contradicts its track."""
        for region in self.regions:
            if region.contradicts:
                log.warning(
                    "given depth of a moving region (frames %d to %d) contradicts its path: it moves as if it were at "
                    "%.2f (%.2f to %.2f) times that depth, which is corrected; look at disp/ there", region.frames[0],
                    region.frames[-1], region.factor, region.nearest, region.farthest,
                )  # fmt: skip
        if self.common_factor != 1.0:
            log.warning(
                "all that could be judged is off the same way: the other moving pixels are corrected by %.2f, too",
                self.common_factor,
            )

    @property
    def common_factor(self) -> float:
        """Factor of the moving pixels that no track judges: 1 unless all that can be judged is wrong the same way.

        Depth that errs on everything that can be checked is not believed about the rest either: as a thing enters and
        leaves regions that tracks judge, its depth would jump.
        """
        factors = [region.factor for region in self.regions if region.contradicts for _ in region.frames]
        same_way = all(factor < 1.0 for factor in factors) or all(factor > 1.0 for factor in factors)
        unanimous = same_way and all(region.contradicts for region in self.regions)
        return float(np.median(factors)) if factors and unanimous else 1.0

    def correction(self, motion_masks: Bool[Tensor, "N H W"]) -> Float16[Tensor, "N H W"] | None:
        """Factor of the prior's inverse depth per pixel; None where no region is to be corrected.

        Args:
            motion_masks: of all frames; their pixels belong to the region that they touch.
        """
        if not self.doubted_frames():
            return None
        factors = [self._correct_frame(frame, mask) for frame, mask in enumerate(motion_masks)]
        return torch.stack(factors).to(motion_masks.device)

    def _correct_frame(self, frame: int, mask: Bool[Tensor, "H W"]) -> Float16[Tensor, "H W"]:
        moving = mask.cpu().numpy()
        labels = self.pixels.image(frame).astype(np.float32)
        whole = np.where(moving, cv2.dilate(labels, _disk(moving.shape[1], 1)), 0.0)
        factors = np.where(moving, 1.0 / self.common_factor, 1.0).astype(np.float16)
        for region in self.regions:
            if region.contradicts and region.track.shows(frame):
                factors[whole == region.track.label(frame)] = 1.0 / region.factor
        return torch.from_numpy(factors)

    def doubted_frames(self) -> tuple[int, ...]:
        """Frames that show a region whose prior contradicts its track."""
        return tuple(sorted({frame for region in self.regions if region.contradicts for frame in region.frames}))


def _disk(width: int, more: int = 0) -> np.ndarray:
    """Disk of the radius `MASK_MARGIN` and some pixels more."""
    size = 2 * (max(1, round(MASK_MARGIN * width)) + more) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))


def _core(mask: Mask) -> Mask:
    """Motion mask without its rim, which belongs to the background where the mask is coarse."""
    return cv2.erode(mask.astype(np.uint8), _disk(mask.shape[1])) > 0


class MovingFlows(Sequence[MovingFlow]):
    """Flow of the moving pixels of all frames, without the rims of the masks; frames are read when they are needed."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._read = lru_cache(CACHED_FRAMES)(self._follow)

    def __len__(self) -> int:
        return self.scene.timeline.n_frames

    def __getitem__(self, frame: int) -> MovingFlow:  # type: ignore[override]
        if not 0 <= frame < len(self):
            raise IndexError(frame)
        return self._read(frame)

    def _follow(self, frame: int) -> MovingFlow:
        scene, flows, trusted = self.scene, {}, {}
        core = _core(scene.motion_masks[frame].cpu().numpy())
        index = frame * scene.n_pixels + torch.from_numpy(np.flatnonzero(core)).to(scene.device)
        for step in (-1, 1):
            if 0 <= frame + step < len(self):
                target, _, consistent = check_flow(scene, index, step)
                flows[step] = (target - scene.pixel_coordinates(index)).cpu().numpy()
                trusted[step] = consistent.cpu().numpy()
        scene.release_pages()
        return MovingFlow(core, flows, trusted)


def _world_to_camera(c2w: Float[np.ndarray, "n 3 4"]) -> Float[np.ndarray, "n 3 4"]:
    """Invert poses (axes right, up, back) to w2c (right, down, forward)."""
    rotation = np.swapaxes(c2w[:, :, :3].astype(np.float64) * [1.0, -1.0, -1.0], 1, 2)
    return np.concatenate([rotation, -rotation @ c2w[:, :, 3:]], axis=2)


def _compare(
    track: Track,
    depth: TrackDepth,
    pixels: MovingRegions,
    inverse_depth: Callable[[int], InverseDepth],
    believed: Sequence[bool],
) -> MovingRegion | None:
    """Compare the depths of a track with the prior; None if too few frames have one or the region is too large."""
    ratios = []
    for frame, value in enumerate(depth.depths, track.start):
        region = pixels.image(frame) == track.label(frame)
        if believed[frame] and region.mean() <= MAX_REGION_FRACTION:
            ratios.append(value * float(np.median(inverse_depth(frame).cpu().numpy()[region])))
    if len(ratios) < MIN_TRACK_FRAMES:
        return None
    ratio = float(np.median(ratios))
    return MovingRegion(track, *(ratio * bound for bound in depth.scale_bounds))
