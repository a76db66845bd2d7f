"""Key points carried from one frame to the others by scene flow: PCK-T (DyCheck, Gao et al. 2022, arXiv:2210.13445).

`keypoints/00000.json` of a scene holds [right, down, seen] of every point in pixels of `images/`, the same points in
the same order in each file; seen is 1 or 0.
"""

import json
import logging
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nsff.config import Config
from nsff.data.cameras import Cameras
from nsff.errors import InputError
from nsff.fields import Fields
from nsff.geometry.rays import make_rays
from nsff.geometry.space import ndc_to_world
from nsff.io import list_images, read_pixels
from nsff.rendering.ray_sampling import DepthSampling, choose_depths
from nsff.rendering.volume_rendering import composite, intervals

log = logging.getLogger("nsff")

LEAST_WEIGHT = 1e-3  # of the samples of a ray together: below it nothing is seen
CORRECT_WITHIN = 0.05  # of the larger side of a frame


def read_keypoints(config: Config, cameras: Cameras) -> dict[int, Float[np.ndarray, "p 3"]]:
    """The key points of the frames that have a file, [right, down, seen] in pixels of the training size, by frame.

    Raises:
        InputError: a file is no list of points, or two have not the same number of them.
    """
    folder = Path(config.datadir)
    found: dict[int, np.ndarray] = {}
    width = read_pixels(list_images(folder / "images")[0]).shape[1]
    for frame in range(len(cameras.c2w)):
        path = folder / "keypoints" / f"{config.start_frame + frame:05d}.json"
        if not path.is_file():
            continue
        try:
            points = np.array(json.loads(path.read_text()), dtype=np.float64)
        except Exception as error:  # whatever a broken file gives
            raise InputError(f"{path} cannot be read as JSON ({' '.join(str(error).split())[:80]})") from error
        if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
            raise InputError(f"{path} must hold a list of [right, down, seen]")
        if found and len(points) != len(next(iter(found.values()))):
            raise InputError(f"{path} has {len(points)} points, others have {len(next(iter(found.values())))}")
        points[:, :2] *= cameras.intrinsics.width / width
        found[frame] = points
    return found


@torch.no_grad()
def carry(
    fields: Fields, config: Config, cameras: Cameras, uv: Float[Tensor, "p 2"], start: int, end: int
) -> Float[Tensor, "p 2"]:
    """Where points seen in one frame are seen in another, pixels (right, down).

    The point that a pixel shows is the mean of the dynamic field's samples; from there scene flow leads from frame to
    frame, looked up at the ray of the point in the camera of each.

    Args:
        fields: static and dynamic.
        config: samples a ray.
        cameras: of the scene.
        uv: points in frame `start`.
        start: frame that they are given in.
        end: frame that they are wanted in.
    """
    timeline, device = cameras.timeline, uv.device
    step = 1 if end > start else -1
    sampling = DepthSampling.of(config).without_jitter()
    for frame in range(start, end, step):
        camera = cameras.camera(frame, device)
        rays = make_rays(uv, camera.c2w, camera.intrinsics)
        depths = choose_depths(fields, rays, timeline.time_of(frame), sampling)
        points_ndc = rays.points_ndc(depths)
        time = points_ndc.new_full((len(rays),), timeline.time_of(frame))
        samples = fields.dynamic(points_ndc, time, rays.viewdirs)
        weights = composite(samples, depths, intervals(depths, rays.directions_ndc)).weights[..., None]
        moved = points_ndc + (samples.sf_fwd if step > 0 else samples.sf_bwd)
        target = cameras.camera(frame + step, device)
        seen = (weights * moved).sum(-2) / weights.sum(-2).clamp(min=LEAST_WEIGHT)
        uv = target.image(ndc_to_world(seen, camera.ndc_intrinsics))
    return uv


def percentage_of_correct_keypoints(fields: Fields, config: Config, cameras: Cameras) -> float | None:
    """Share of key points that scene flow carries to within 5 % of the larger side, over all pairs of frames.

    Only points that are seen in both frames count. None where there are no key points, which is said.
    """
    points = read_keypoints(config, cameras)
    if len(points) < 2:
        log.warning("no two files in %s/keypoints, PCK-T is left out", config.datadir)
        return None
    device = next(fields.parameters()).device
    limit = CORRECT_WITHIN * max(cameras.intrinsics.width, cameras.intrinsics.height)
    correct: list[np.ndarray] = []
    for start, given in points.items():
        for end, wanted in points.items():
            seen = (given[:, 2] > 0) & (wanted[:, 2] > 0)
            if start == end or not seen.any():
                continue
            uv = torch.from_numpy(given[seen, :2].astype(np.float32)).to(device)
            found = carry(fields, config, cameras, uv, start, end).cpu().numpy()
            correct.append(np.linalg.norm(found - wanted[seen, :2], axis=1) < limit)
    return float(np.concatenate(correct).mean()) if correct else None
