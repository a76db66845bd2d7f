"""First stage of the preparation: undistorted frames and cameras from a video or a folder of images."""

import dataclasses
import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
import torch
from filelock import FileLock, Timeout
from jaxtyping import Bool

from nsff.errors import InputError
from nsff.io import TMP_PREFIX, Mask, write_text
from nsff.prep.colmap import (
    MAX_ERROR_RETRY,
    MIN_RAY_ANGLE,
    N_FEATURES_RETRY,
    OVERLAP_RETRY,
    SfmResult,
    SfmSettings,
    advice,
    check_registered,
    longest_run,
    ray_angle,
    reconstruct,
    undistort,
)
from nsff.prep.focal_check import check_focal_length
from nsff.prep.semantic_masks import load_mask_rcnn_if_present
from nsff.prep.sfm_masks import find_moving, write_colmap_masks
from nsff.prep.user_masks import read_user_masks
from nsff.prep.video import ExtractedFrames, FrameSource, extract_frames

log = logging.getLogger("nsff")

REPORT, LOCK = "sfm.json", ".lock"
SAME_ASPECT = 0.01  # Relative difference of aspect ratios up to which a mask is one of the whole frame.
MIN_MOVING_FRACTION = 0.002  # Of the pixels; below it, masks would not change the reconstruction.


@dataclasses.dataclass(frozen=True)
class CaptureSettings:
    """Settings of frames and cameras.

    Attributes:
        source: frames to use.
        masks: folder of the user's motion masks, white = moving; None detects motion.
        camera_model: COLMAP's name of the camera model.
    """

    source: FrameSource
    masks: Path | None = None
    camera_model: str = "SIMPLE_RADIAL"


def make_cameras(scene: Path, settings: CaptureSettings, device: torch.device) -> str:
    """Write `frames/` and `dense/{images,sparse,sfm.json}` of a scene.

    Args:
        scene: folder of the scene.
        settings: frames and camera model.
        device: device of Mask R-CNN, which runs if its weights are present and no masks are given.

    Returns:
        A summary line.

    Raises:
        InputError: the frames are unusable or give no cameras, or another run holds the lock of the scene.
    """
    _protect_foreign_images(scene / "dense")
    scene.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(scene / LOCK, timeout=0):
            return _make_cameras(scene, settings, device)
    except Timeout as error:
        raise InputError(f"another run is making the cameras of {scene}; wait for it, or stop it") from error


def _make_cameras(scene: Path, settings: CaptureSettings, device: torch.device) -> str:
    for stale_folder in scene.glob(f"{TMP_PREFIX}*"):  # left by a killed run
        shutil.rmtree(stale_folder, ignore_errors=True)
    frames = extract_frames(scene / "frames", settings.source)
    names = [path.name for path in frames.paths]
    with tempfile.TemporaryDirectory(dir=scene, prefix=TMP_PREFIX) as temporary:
        result = _register(frames, settings, device, Path(temporary))
    check_focal_length(result.model)  # first: a zoom is also a reason why frames do not register
    run = longest_run(names, result.registered)
    check_registered(names, run, settings.masks is not None)
    angle = ray_angle(result.model)
    if angle < MIN_RAY_ANGLE:
        raise InputError(
            f"the camera only rotates: rays to a point differ by {angle:.2f} degrees (median), {MIN_RAY_ANGLE:.0f} is "
            "needed; depth cannot be measured unless the camera moves sideways"
        )
    _deregister_others(result.model, run)
    camera = next(iter(result.model.cameras.values()))
    report = {
        "frames": len(names), "registered": len(run), "error_px": result.error, "focal_px": camera.mean_focal_length(),
        "left_out": sorted(set(names) - set(run)), "ray_angle_deg": angle,
        "lens": {
            "model": camera.model_name, "width": camera.width, "height": camera.height, "params": list(camera.params)
        },
        "source": _source_report(frames, [names.index(name) for name in run]),
    }  # fmt: skip
    write_text(scene / "dense" / REPORT, json.dumps(report, indent=1) + "\n")  # first: it marks images/ as ours
    undistort(dataclasses.replace(result, registered=run), scene / "frames", scene / "dense")
    summary = (
        f"cameras: {len(run)} of {len(names)} frames, error {result.error:.2f} px, focal length "
        f"{camera.mean_focal_length():.1f} px"
    )
    log.info("%s", summary)
    return summary


def _source_report(frames: ExtractedFrames, positions: list[int]) -> dict[str, Any]:
    """Origin of the registered frames: numbers in the source and times in seconds, median rate, picture kept."""
    times = None if frames.times is None else frames.times[positions]
    return {
        "indices": [frames.indices[k] for k in positions],
        "times_s": None if times is None else times.round(6).tolist(),
        "fps": None if times is None else float(1.0 / np.median(np.diff(times))),
        "full_size": list(frames.full_size),
        "picture": None if frames.picture is None else dataclasses.asdict(frames.picture),
    }


def _protect_foreign_images(dense: Path) -> None:
    """Refuse to replace frames that no earlier run made."""
    if (dense / "images").exists() and not (dense / REPORT).is_file():
        raise InputError(
            f"{dense / 'images'} was not made by run_colmap.py and would be replaced; keep your frames elsewhere, and "
            "give them with --images"
        )


def _register(
    extracted: ExtractedFrames, settings: CaptureSettings, device: torch.device, temporary: Path
) -> SfmResult:
    """Run structure from motion up to three times: plain (or with given masks), with motion masks, with more features.

    Raises:
        InputError: no attempt gives cameras.
    """
    frames = extracted.paths
    images, sfm = frames[0].parent, SfmSettings(settings.camera_model)
    masks = None
    if settings.masks is not None:
        given = read_user_masks(settings.masks, len(frames), extracted.indices, extracted.n_source)
        masks = write_colmap_masks(temporary / "given", frames, [_without_bars(mask, extracted) for mask in given])
    # Load the network first, so that bad weights are refused before the long part.
    movable = load_mask_rcnn_if_present(device) if masks is None else None
    best = _attempt(images, masks, sfm, None)
    if masks is None:
        moving = find_moving(frames, best, movable)
        fraction = float(np.mean([mask.mean() for mask in moving]))
        if fraction > MIN_MOVING_FRACTION:
            log.info("%.1f %% of the pixels move: trying again without them", 100 * fraction)
            masks = write_colmap_masks(temporary / "moving", frames, moving)
            best = _attempt(images, masks, sfm, best)
    if best is None or len(best.registered) < len(frames):
        log.info("not all frames registered: trying again with more features, wider overlap and a looser threshold")
        retry = dataclasses.replace(sfm, n_features=N_FEATURES_RETRY, overlap=OVERLAP_RETRY, max_error=MAX_ERROR_RETRY)
        best = _attempt(images, masks, retry, best)
    if best is None:
        raise InputError(
            "no cameras could be found: frames must share textured static things, filmed by a camera that moves "
            f"sideways; {advice(settings.masks is not None)}"
        )
    return best


def _without_bars(mask: Mask, frames: ExtractedFrames) -> Bool[np.ndarray, "h w"]:
    """Cut a mask of the whole frame to the picture inside black bars; a mask of the picture stays as it is."""
    (width, height), (mask_height, mask_width) = frames.full_size, mask.shape
    if frames.picture is None or abs(mask_width * height / (mask_height * width) - 1.0) > SAME_ASPECT:
        return mask
    full = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return frames.picture.crop(full).astype(bool)


def _attempt(images: Path, masks: Path | None, sfm: SfmSettings, best: SfmResult | None) -> SfmResult | None:
    """Return the new result if it registers more frames, or as many with a smaller error; else the best so far."""
    result = reconstruct(images, masks, sfm)
    if result is None:
        return best
    log.info("SfM: %d frames registered, error %.2f px", len(result.registered), result.error)
    if best is None or (len(result.registered), -result.error) > (len(best.registered), -best.error):
        return result
    return best


def _deregister_others(model: pycolmap.Reconstruction, names: list[str]) -> None:
    """Remove the poses of all frames that are not named."""
    for image in list(model.images.values()):
        if image.has_pose and image.name not in set(names):
            model.deregister_frame(image.frame_id)
