"""Structure from motion with pycolmap: one shared camera with one focal length, frames in order."""

import dataclasses
import logging
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pycolmap

from nsff.errors import InputError
from nsff.io import TMP_PREFIX, read_image

log = logging.getLogger("nsff")

FEATURES, MORE_FEATURES = 1500, 6000  # a frame, at most
OVERLAP, MORE_OVERLAP = 6, 15  # frames ahead that are matched
FINE_BELOW = 640  # pixels: features of frames not longer than this are also looked for at twice their size
# pixels that a match may be off at 960 pixels and below (COLMAP: 4): moving things slip in if it is more, and pull the
# focal length away; only where frames stay unregistered is it doubled
LEAST_OFF, LOOSE_OFF, OFF_WIDTH = 1.0, 2.0, 960
SEEDS = 3  # of the random choices of mapping, until one registers all frames
FOCAL_RATIO = 0.3, 5.0  # of the focal length to the long side, least and most: 118 and 11 degrees wide
BYTES_A_FEATURE = 400  # of COLMAP's database: 160 for a feature, the rest for its matches
PNG_END = b"IEND\xaeB`\x82"  # the last bytes of a whole PNG file
LEAST_REGISTERED = 10
LEAST_ANGLE = 1.0  # degrees between rays to a point, median: below, the camera only turned
IDEAL = pycolmap.UndistortCameraOptions(blank_pixels=0.0)  # what becomes of the lens: no borders that nobody saw


@dataclasses.dataclass(frozen=True)
class SfmSettings:
    """What a try of SfM is given."""

    camera_model: str = "SIMPLE_RADIAL"
    features: int = FEATURES
    overlap: int = OVERLAP
    off: float = LEAST_OFF


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

    Raises:
        InputError: no room beside `images` for what COLMAP notes down.
    """
    pycolmap.logging.minloglevel = pycolmap.logging.Level.ERROR.value  # small models that it drops are no news
    names = sorted(path.name for path in images.glob("*.png"))
    long_side = max(read_image(images / names[0]).shape[:2])
    off = settings.off * max(long_side / OFF_WIDTH, 1.0)
    _check_room(images.parent, settings.features * len(names))
    with tempfile.TemporaryDirectory(dir=images.parent, prefix=TMP_PREFIX) as aside:
        database = Path(aside) / "database.db"
        _match(database, images, names, masks, settings, off, fine=long_side <= FINE_BELOW)
        log.info("SfM: mapping")
        best: pycolmap.Reconstruction | None = None
        for seed in range(SEEDS):
            model = _map(database, images, Path(aside) / f"models{seed}", off, seed)
            if best is None or (model is not None and model.num_reg_images() > best.num_reg_images()):
                best = model
            if best is not None and best.num_reg_images() == len(names):
                break
    if best is None:
        return None
    registered = sorted(image.name for image in best.images.values() if image.has_pose)
    return SfmResult(best, registered, best.compute_mean_reprojection_error())


def _check_room(folder: Path, n_features: int) -> None:
    """COLMAP would abort the whole program if its database did not fit."""
    free, needed = shutil.disk_usage(folder).free, n_features * BYTES_A_FEATURE
    if free < needed:
        raise InputError(f"{folder}: {free / 1e6:.0f} MB are free, {needed / 1e6:.0f} MB are needed; make room")


def _match(
    database: Path, images: Path, names: list[str], masks: Path | None, settings: SfmSettings, off: float, fine: bool
) -> None:
    """Features of all frames, and which of them are the same point; the same every time."""
    reader = pycolmap.ImageReaderOptions(camera_model=settings.camera_model)
    if masks is not None:
        reader.mask_path = str(masks)
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.sift.max_num_features = settings.features
    extraction.sift.first_octave = -1 if fine else 0
    log.info("SfM: finding features")
    mode = pycolmap.CameraMode.SINGLE
    pycolmap.Database.open(database).close()
    pycolmap.import_images(database, images, mode, image_names=names, options=reader)  # numbers them in order
    pycolmap.extract_features(
        database, images, image_names=names, camera_mode=mode, reader_options=reader, extraction_options=extraction
    )
    log.info("SfM: matching")
    matching = pycolmap.FeatureMatchingOptions(num_threads=1)  # with more, now and then a match is another
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed, verification.ransac.max_error = 0, off
    pycolmap.match_sequential(
        database,
        matching_options=matching,
        pairing_options=pycolmap.SequentialPairingOptions(overlap=settings.overlap, quadratic_overlap=True),
        verification_options=verification,
    )


def _map(database: Path, images: Path, out: Path, off: float, seed: int) -> pycolmap.Reconstruction | None:
    """The largest model; one thread and a fixed seed, so that the same frames give the same cameras."""
    options = pycolmap.IncrementalPipelineOptions(min_model_size=3, random_seed=seed, num_threads=1)
    options.mapper.random_seed = options.triangulation.random_seed = seed
    options.mapper.num_threads = 1
    options.mapper.init_max_error = options.mapper.filter_max_reproj_error = off
    options.mapper.abs_pose_max_error = 3 * off  # as many times as in COLMAP
    options.triangulation.merge_max_reproj_error = options.triangulation.complete_max_reproj_error = off
    options.min_focal_length_ratio, options.max_focal_length_ratio = FOCAL_RATIO
    models = pycolmap.incremental_mapping(database, images, out, options)
    return max(models.values(), key=lambda model: model.num_reg_images(), default=None)


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
    """Write `dense/images` and `dense/sparse`, each whole: the camera an ideal one, frames resampled to it.

    Raises:
        InputError: they cannot be written.
    """
    dense.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dense.parent, prefix=TMP_PREFIX) as aside:
        model, out = Path(aside) / "model", Path(aside) / "dense"
        model.mkdir()
        try:
            result.model.write(model)
            pycolmap.undistort_images(out, model, images, image_names=result.registered, undistort_options=IDEAL)
            whole = is_whole(out, result)
        except Exception as error:  # whatever it meets; the model was fine, so that it is the writing that failed
            raise InputError(f"cannot write {dense} ({type(error).__name__}): is the disk full?") from error
        if not whole:
            raise InputError(f"cannot write {dense}: is the disk full?")
        dense.mkdir(exist_ok=True)
        for name in ("images", "sparse"):
            shutil.rmtree(dense / name, ignore_errors=True)
            (out / name).replace(dense / name)


def is_whole(out: Path, result: SfmResult) -> bool:
    """Whether COLMAP wrote all; on a full disk it leaves cut-off files and says nothing."""
    try:
        model = pycolmap.Reconstruction(out / "sparse")
    except Exception:  # whatever a cut-off file gives
        return False
    images = sorted((out / "images").iterdir())
    return (
        model.num_reg_images() == len(result.registered)
        and model.num_points3D() == result.model.num_points3D()
        and [path.name for path in images] == sorted(result.registered)
        and all(path.read_bytes().endswith(PNG_END) for path in images)
    )


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
        InputError: too few are left.
    """
    if len(kept) < min(LEAST_REGISTERED, len(names)):
        raise InputError(
            f"only {len(kept)} of {len(names)} frames could be registered in a row: the camera must move sideways, and "
            "things that stand still must be in sight; try --masks DIR, a shorter stretch (--start, --end), more "
            "frames (--fps)"
        )
    if lost := [name for name in names if name not in set(kept)]:
        shown = ", ".join(lost[:8]) + (", ..." if len(lost) > 8 else "")
        log.warning("%d of %d frames are left out: %s", len(lost), len(names), shown)
