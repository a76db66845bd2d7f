"""The stage that makes undistorted frames and cameras of a video or a folder of images."""

import dataclasses
import json
import logging
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pycolmap
from filelock import FileLock, Timeout

from nsff.errors import InputError
from nsff.io import TMP_PREFIX, write_text
from nsff.prep.colmap import (
    LEAST_ANGLE,
    LOOSE_OFF,
    MORE_FEATURES,
    MORE_OVERLAP,
    SfmResult,
    SfmSettings,
    check_registered,
    longest_run,
    ray_angle,
    reconstruct,
    undistort,
)
from nsff.prep.masks import find_moving, read_own_masks, write_masks
from nsff.prep.semantic_masks import mask_rcnn_if_there
from nsff.prep.video import Source, chosen, extract_frames

log = logging.getLogger("nsff")

REPORT, LOCK = "sfm.json", ".lock"
MASKS_WORTH = 0.002  # share of the pixels: if less moves, a second try with masks changes nothing


@dataclasses.dataclass(frozen=True)
class CaptureSettings:
    """Which frames of what, and how SfM sees them; `masks` is a folder, white = moving."""

    source: Source
    masks: Path | None = None
    camera_model: str = "SIMPLE_RADIAL"


def make_cameras(scene: Path, settings: CaptureSettings) -> str:
    """Write `frames/` and `dense/{images,sparse,sfm.json}` of a scene; returns a line about what was made.

    Raises:
        InputError: no usable frames, or no cameras; what to try is said. Or another run is at it.
    """
    _spare_images_of_others(scene / "dense")
    scene.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(scene / LOCK, timeout=0):
            return _make_cameras(scene, settings)
    except Timeout as error:
        raise InputError(f"another run is making the cameras of {scene}; wait for it, or stop it") from error


def _make_cameras(scene: Path, settings: CaptureSettings) -> str:
    for rubble in scene.glob(f"{TMP_PREFIX}*"):
        shutil.rmtree(rubble, ignore_errors=True)  # of a run that was killed
    frames = extract_frames(scene / "frames", settings.source)
    names = [path.name for path in frames]
    with tempfile.TemporaryDirectory(dir=scene, prefix=TMP_PREFIX) as aside:
        result = _register(frames, settings, Path(aside))
    kept = longest_run(names, result.registered)
    check_registered(names, kept)
    if (angle := ray_angle(result.model)) < LEAST_ANGLE:
        raise InputError(
            f"the camera only turns: rays to a point differ by {angle:.2f} degrees (median), {LEAST_ANGLE:.0f} is "
            "needed; depth cannot be seen without moving sideways"
        )
    _drop_others(result.model, kept)
    camera = next(iter(result.model.cameras.values()))
    report = {
        "frames": len(names), "registered": len(kept), "error_px": result.error, "focal_px": camera.mean_focal_length(),
        "left_out": sorted(set(names) - set(kept)), "ray_angle_deg": angle,
        "lens": {
            "model": camera.model_name, "width": camera.width, "height": camera.height, "params": list(camera.params)
        },
    }  # fmt: skip
    write_text(scene / "dense" / REPORT, json.dumps(report, indent=1) + "\n")  # first: it says that images/ are ours
    undistort(dataclasses.replace(result, registered=kept), scene / "frames", scene / "dense")
    summary = (
        f"cameras: {len(kept)} of {len(names)} frames, error {result.error:.2f} px, focal length "
        f"{camera.mean_focal_length():.1f} px"
    )
    log.info("%s", summary)
    return summary


def _spare_images_of_others(dense: Path) -> None:
    """Only frames that an earlier run made are replaced."""
    if (dense / "images").exists() and not (dense / REPORT).is_file():
        raise InputError(
            f"{dense / 'images'} was not made by run_colmap.py and would be replaced; keep your frames elsewhere, and "
            "give them with --images"
        )


def _register(frames: list[Path], settings: CaptureSettings, aside: Path) -> SfmResult:
    """SfM, in up to three tries: plain (or with given masks), with masks of what moves, with more features.

    Raises:
        InputError: no try gives cameras.
    """
    images, sfm = frames[0].parent, SfmSettings(settings.camera_model)
    masks = None
    if settings.masks is not None:
        masks = write_masks(
            aside / "given", frames, read_own_masks(settings.masks, len(frames), *chosen(settings.source))
        )
    movable = mask_rcnn_if_there() if masks is None else None  # bad weights are refused before the long part
    best = _try(images, masks, sfm, None)
    if masks is None:
        moving = find_moving(frames, best, movable)
        share = float(np.mean([mask.mean() for mask in moving]))
        if share > MASKS_WORTH:
            log.info("%.1f %% of the pixels move: trying again without them", 100 * share)
            masks = write_masks(aside / "moving", frames, moving)
            best = _try(images, masks, sfm, best)
    if best is None or len(best.registered) < len(frames):
        log.info("not all frames registered: trying again with more features, wider overlap, looser matches")
        more = dataclasses.replace(sfm, features=MORE_FEATURES, overlap=MORE_OVERLAP, off=LOOSE_OFF)
        best = _try(images, masks, more, best)
    if best is None:
        raise InputError(
            "no cameras could be found: frames must share things that stand still and have texture, seen by a camera "
            "that moves sideways; try --masks DIR, another stretch (--start, --end), more frames (--fps)"
        )
    return best


def _try(images: Path, masks: Path | None, sfm: SfmSettings, best: SfmResult | None) -> SfmResult | None:
    """The new result if it registers more, or as many with a smaller error; else the best so far."""
    result = reconstruct(images, masks, sfm)
    if result is None:
        return best
    log.info("SfM: %d frames registered, error %.2f px", len(result.registered), result.error)
    if best is None or (len(result.registered), -result.error) > (len(best.registered), -best.error):
        return result
    return best


def _drop_others(model: pycolmap.Reconstruction, kept: list[str]) -> None:
    for image in list(model.images.values()):
        if image.has_pose and image.name not in set(kept):
            model.deregister_frame(image.frame_id)
