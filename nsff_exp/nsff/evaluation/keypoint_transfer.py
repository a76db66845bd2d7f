"""Key points tracked by scene flow: PCK-T (DyCheck, Gao et al. 2022, arXiv:2210.13445).

`keypoints/00000.json` of a scene lists [right, down, visible] per point in pixels of `images/`, the same points in the
same order in every file; visible is 1 or 0.
"""

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nsff.config import Config
from nsff.data.cameras import Cameras
from nsff.errors import InputError, reason_of
from nsff.fields import Fields
from nsff.geometry.rays import make_rays
from nsff.images import list_images, read_pixels
from nsff.io import read_text
from nsff.rendering.ray_sampling import DepthSampling, choose_depths
from nsff.rendering.volume_rendering import composite, intervals

log = logging.getLogger("nsff")

MIN_OPACITY = 1e-3  # a ray whose weights sum to less hits nothing; keeps its expected point finite
CORRECT_WITHIN = 0.05  # of the larger side of a frame


def read_keypoints(config: Config, cameras: Cameras) -> dict[int, Float[np.ndarray, "p 3"]]:
    """Read the key points of every frame that has a file.

    Returns:
        (p, 3) of [right, down, visible] per frame index, in pixels of the training size.

    Raises:
        InputError: a file is not a list of points, or two files differ in their number.
    """
    folder = Path(config.datadir)
    keypoints: dict[int, np.ndarray] = {}
    width = read_pixels(list_images(folder / "images")[0]).shape[1]
    for frame in range(len(cameras.c2w)):
        path = folder / "keypoints" / f"{config.start_frame + frame:05d}.json"
        if not path.is_file():
            continue
        try:
            points = np.array(json.loads(read_text(path)), dtype=np.float64)
        except Exception as error:  # a broken file can raise anything
            raise InputError(f"{path} cannot be read as JSON ({reason_of(error)})") from error
        if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
            raise InputError(f"{path} must hold a list of [right, down, visible]")
        if keypoints and len(points) != len(next(iter(keypoints.values()))):
            raise InputError(f"{path} has {len(points)} points, others have {len(next(iter(keypoints.values())))}")
        points[:, :2] *= cameras.intrinsics.width / width
        keypoints[frame] = points
    return keypoints


@dataclasses.dataclass(frozen=True)
class PointTracker:
    """Follows image points from frame to frame by the scene flow of the dynamic field.

    A pixel is lifted to the expected point of the dynamic field along its ray, moved by the expected scene flow, and
    projected into the camera of the neighbouring frame, where it is lifted anew.
    """

    fields: Fields
    cameras: Cameras
    sampling: DepthSampling

    @staticmethod
    def of(fields: Fields, config: Config, cameras: Cameras) -> "PointTracker":
        return PointTracker(fields, cameras, DepthSampling.of(config).without_jitter())

    @torch.no_grad()
    def advance(self, uv: Float[Tensor, "p 2"], frame: int, step: int) -> Float[Tensor, "p 2"]:
        """Move points, in pixels (right, down), from `frame` to the next (`step` 1) or the previous frame (-1)."""
        timestamp = self.cameras.timeline.time_of(frame)
        camera, target = (self.cameras.camera(index, uv.device) for index in (frame, frame + step))
        rays = make_rays(uv, camera.c2w, camera.intrinsics, camera.space)
        depths = choose_depths(self.fields, rays, timestamp, self.sampling)
        points = rays.points(depths)
        samples = self.fields.dynamic(points, points.new_full((len(rays),), timestamp), rays.viewdirs)
        weights = composite(samples, depths, intervals(rays, depths)).weights
        moved = points + (samples.sf_fwd if step > 0 else samples.sf_bwd)
        expected = (weights[..., None] * moved).sum(-2) / weights.sum(-1, keepdim=True).clamp(min=MIN_OPACITY)
        return target.project(camera.space.to_world(expected))

    def track(self, uv: Float[Tensor, "p 2"], start: int, end: int) -> Iterator[tuple[int, Float[Tensor, "p 2"]]]:
        """Yield (frame, tracked points) for every frame after `start` up to and including `end`, forward or back."""
        step = 1 if end > start else -1
        for frame in range(start, end, step):
            uv = self.advance(uv, frame, step)
            yield frame + step, uv


def percentage_of_correct_keypoints(fields: Fields, config: Config, cameras: Cameras) -> float | None:
    """PCK-T: fraction of key points tracked to within 5 % of the larger side, over all pairs of annotated frames.

    Points count in pairs in which they are visible in both frames. Every start is tracked once to the last annotated
    frame and once to the first. None, with a warning, where fewer than two frames are annotated.
    """
    keypoints = read_keypoints(config, cameras)
    if len(keypoints) < 2:
        log.warning("PCK-T is left out: %s/keypoints annotates fewer than two frames", config.datadir)
        return None
    device = next(fields.parameters()).device
    tracker = PointTracker.of(fields, config, cameras)
    limit = CORRECT_WITHIN * max(cameras.intrinsics.width, cameras.intrinsics.height)
    correct: list[np.ndarray] = []
    for start, source in keypoints.items():
        visible = source[:, 2] > 0
        if not visible.any():
            continue
        uv = torch.from_numpy(source[visible, :2].astype(np.float32)).to(device)
        for end in (max(keypoints), min(keypoints)):
            for frame, tracked in tracker.track(uv, start, end):
                if frame not in keypoints:
                    continue
                target = keypoints[frame][visible]
                distance = np.linalg.norm(tracked.cpu().numpy() - target[:, :2], axis=1)
                correct.append(distance[target[:, 2] > 0] < limit)
    return float(np.concatenate(correct).mean()) if any(map(len, correct)) else None
