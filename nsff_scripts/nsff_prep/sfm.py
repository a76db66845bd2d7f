"""Structure from motion with pycolmap: one shared camera with one focal length, frames in order."""

import dataclasses
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pycolmap

from nsff_prep.script import PrepError, log

FEATURES, MORE_FEATURES = 1500, 6000  # a frame, at most
OVERLAP, MORE_OVERLAP = 6, 15  # frames ahead that are matched
LEAST_REGISTERED = 10
LEAST_ANGLE = 1.0  # degrees between rays to a point, median: below, the camera only turned


@dataclasses.dataclass(frozen=True)
class SfmSettings:
    """What a try of SfM is given."""

    camera_model: str = "SIMPLE_RADIAL"
    features: int = FEATURES
    overlap: int = OVERLAP


@dataclasses.dataclass(frozen=True)
class SfmResult:
    """A reconstruction with the names of the frames that it has."""

    model: pycolmap.Reconstruction
    registered: list[str]
    error: float  # mean reprojection error in pixels


def reconstruct(images: Path, masks: Path | None, settings: SfmSettings) -> SfmResult | None:
    """The largest model that the frames give; None if they give none.

    Args:
        images: folder of frames.
        masks: folder of `<image name>.png`, 0 = no features here; None = everywhere.
        settings: of this try.
    """
    pycolmap.logging.minloglevel = pycolmap.logging.Level.WARNING.value
    with tempfile.TemporaryDirectory() as aside:
        database = Path(aside) / "database.db"
        reader = pycolmap.ImageReaderOptions(camera_model=settings.camera_model)
        if masks is not None:
            reader.mask_path = str(masks)
        extraction = pycolmap.FeatureExtractionOptions()
        extraction.sift.max_num_features, extraction.sift.first_octave = settings.features, 0
        log.info("SfM: finding features")
        pycolmap.extract_features(
            database,
            images,
            camera_mode=pycolmap.CameraMode.SINGLE,
            reader_options=reader,
            extraction_options=extraction,
        )
        log.info("SfM: matching")
        pycolmap.match_sequential(
            database,
            pairing_options=pycolmap.SequentialPairingOptions(overlap=settings.overlap, quadratic_overlap=True),
        )
        log.info("SfM: mapping")
        options = pycolmap.IncrementalPipelineOptions(min_model_size=3, random_seed=0)
        models = pycolmap.incremental_mapping(database, images, Path(aside) / "models", options)
        if not models:
            return None
        model = max(models.values(), key=lambda m: m.num_reg_images())
    names = sorted(image.name for image in model.images.values() if image.has_pose)
    return SfmResult(model, names, model.compute_mean_reprojection_error())


def ray_angle(model: pycolmap.Reconstruction) -> float:
    """Median over the points of the largest angle, in degrees, between the rays of two cameras that see it."""
    centres = {image.image_id: image.projection_center() for image in model.images.values() if image.has_pose}
    angles = []
    for point in model.points3D.values():
        rays = np.array([point.xyz - centres[e.image_id] for e in point.track.elements])
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        angles.append(np.degrees(np.arccos(np.clip((rays @ rays.T).min(), -1.0, 1.0))))
    return float(np.median(angles)) if angles else 0.0


def undistort(result: SfmResult, images: Path, dense: Path) -> None:
    """Write `dense/images` and `dense/sparse`, each whole: the camera an ideal one, frames resampled to it."""
    dense.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dense.parent, prefix=".partial-") as aside:
        model, out = Path(aside) / "model", Path(aside) / "dense"
        model.mkdir()
        result.model.write(model)
        options = pycolmap.UndistortCameraOptions(blank_pixels=0.0)
        pycolmap.undistort_images(out, model, images, image_names=result.registered, undistort_options=options)
        dense.mkdir(exist_ok=True)
        for name in ("images", "sparse"):
            shutil.rmtree(dense / name, ignore_errors=True)
            (out / name).replace(dense / name)


def longest_run(names: list[str], registered: list[str]) -> list[str]:
    """The longest stretch of frames, in order, that are all registered."""
    there = set(registered)
    best: list[str] = []
    run: list[str] = []
    for name in names:
        run = [*run, name] if name in there else []
        if len(run) > len(best):
            best = run
    return best


def check_registered(names: list[str], kept: list[str]) -> None:
    """Say which frames were lost.

    Raises:
        PrepError: too few are left.
    """
    if len(kept) < min(LEAST_REGISTERED, len(names)):
        raise PrepError(
            f"only {len(kept)} of {len(names)} frames could be registered in a row: the camera must move sideways, and "
            "things that stand still must be in sight; try --masks DIR, a shorter stretch (--start, --end), more "
            "frames (--fps)"
        )
    if lost := [name for name in names if name not in set(kept)]:
        shown = ", ".join(lost[:8]) + (", ..." if len(lost) > 8 else "")
        log.warning("warning: %d of %d frames are left out: %s", len(lost), len(names), shown)
