"""Structure from motion with pycolmap: one shared camera with one focal length, frames in temporal order."""

import dataclasses
import logging
import shutil
import signal
import tempfile
import threading
from pathlib import Path

import numpy as np
import pycolmap

from nsff.errors import InputError
from nsff.images import read_image
from nsff.io import TMP_PREFIX

log = logging.getLogger("nsff")

N_FEATURES, N_FEATURES_RETRY = 1500, 6000  # SIFT features per frame, at most.
OVERLAP, OVERLAP_RETRY = 6, 15  # Following frames that each frame is matched with.
UPSAMPLE_BELOW = 640  # Detect features at twice the size too where the long side is at most this many pixels.
# Inlier threshold in pixels, up to a long side of MAX_ERROR_SIDE; proportionally larger beyond. A looser threshold
# (COLMAP's default is 4) lets moving points in and biases the focal length, so it is only relaxed where frames fail to
# register.
MAX_ERROR, MAX_ERROR_RETRY, MAX_ERROR_SIDE = 1.0, 2.0, 960
POSE_ERROR_RATIO = 3.0  # Threshold of absolute poses over MAX_ERROR, as in COLMAP's defaults.
N_SEEDS = 3  # Random seeds of the mapper to try until one registers all frames.
FOCAL_RATIO = 0.3, 5.0  # Bounds of focal length over long side: fields of view of 118 and 11 degrees.
BYTES_PER_FEATURE = 400  # Size of COLMAP's database: 160 for a feature, the rest for its matches.
PNG_END = b"IEND\xaeB`\x82"  # The last bytes of a complete PNG file.
MIN_REGISTERED = 10
MIN_RAY_ANGLE = 1.0  # Degrees, median over the points; below it the camera rotated without translating.
UNDISTORTION = pycolmap.UndistortCameraOptions(blank_pixels=0.0)  # Crop to pixels that the distorted frame covers.


@dataclasses.dataclass(frozen=True)
class SfmSettings:
    """Settings of one attempt at structure from motion; the thresholds are explained at the constants."""

    camera_model: str = "SIMPLE_RADIAL"
    n_features: int = N_FEATURES
    overlap: int = OVERLAP
    max_error: float = MAX_ERROR


@dataclasses.dataclass(frozen=True)
class SfmResult:
    """A reconstruction, the names of its registered frames, and its mean reprojection error in pixels."""

    model: pycolmap.Reconstruction
    registered: list[str]
    error: float


def tame_pycolmap() -> None:
    """Keep COLMAP's own log quiet but for `--verbose`, and SIGTERM from ending in a stack trace of its library."""
    level = pycolmap.logging.Level.ERROR if log.isEnabledFor(logging.DEBUG) else pycolmap.logging.Level.FATAL
    pycolmap.logging.minloglevel = level.value
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # in the place of that library's handler, unknown to Python


def reconstruct(images: Path, masks: Path | None, settings: SfmSettings) -> SfmResult | None:
    """Reconstruct the largest model that the frames give, deterministically.

    Args:
        images: folder of frames.
        masks: folder of `<image name>.png`, 0 = no features here; None = features everywhere.
        settings: settings of this attempt.

    Returns:
        The model that registers most frames; None if no pair of frames initialises one.

    Raises:
        InputError: the disk has no room for COLMAP's database beside `images`.
    """
    tame_pycolmap()
    names = sorted(path.name for path in images.glob("*.png"))
    long_side = max(read_image(images / names[0]).shape[:2])
    settings = dataclasses.replace(settings, max_error=settings.max_error * max(long_side / MAX_ERROR_SIDE, 1.0))
    _check_disk_space(images.parent, settings.n_features * len(names))
    with tempfile.TemporaryDirectory(dir=images.parent, prefix=TMP_PREFIX) as temporary:
        database = Path(temporary) / "database.db"
        _extract_features(database, images, names, masks, settings, upsample=long_side <= UPSAMPLE_BELOW)
        _match_features(database, settings)
        log.info("SfM: mapping")
        best: pycolmap.Reconstruction | None = None
        for seed in range(N_SEEDS):
            model = _map(database, images, Path(temporary) / f"models{seed}", settings.max_error, seed)
            if best is None or (model is not None and model.num_reg_images() > best.num_reg_images()):
                best = model
            if best is not None and best.num_reg_images() == len(names):
                break
    if best is None:
        return None
    registered = sorted(image.name for image in best.images.values() if image.has_pose)
    return SfmResult(best, registered, best.compute_mean_reprojection_error())


def _check_disk_space(folder: Path, n_features: int) -> None:
    """Refuse a full disk here: COLMAP aborts the process if its database does not fit."""
    free, needed = shutil.disk_usage(folder).free, n_features * BYTES_PER_FEATURE
    if free < needed:
        raise InputError(
            f"{folder}: structure from motion needs {needed / 1e6:.0f} MB of disk, {free / 1e6:.0f} MB are free; "
            "make room"
        )


def _extract_features(
    database: Path, images: Path, names: list[str], masks: Path | None, settings: SfmSettings, upsample: bool
) -> None:
    """Detect SIFT features of all frames."""
    reader = pycolmap.ImageReaderOptions(camera_model=settings.camera_model)
    if masks is not None:
        reader.mask_path = str(masks)
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.sift.max_num_features = settings.n_features
    extraction.sift.first_octave = -1 if upsample else 0
    log.info("SfM: finding features")
    mode = pycolmap.CameraMode.SINGLE
    pycolmap.Database.open(database).close()
    # Import first, so that images are numbered in temporal order.
    pycolmap.import_images(database, images, mode, image_names=names, options=reader)
    pycolmap.extract_features(
        database, images, image_names=names, camera_mode=mode, reader_options=reader, extraction_options=extraction
    )


def _match_features(database: Path, settings: SfmSettings) -> None:
    """Match each frame with the following ones and verify the matches geometrically."""
    log.info("SfM: matching")
    matching = pycolmap.FeatureMatchingOptions(num_threads=1)  # multi-threaded matching is not deterministic
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed, verification.ransac.max_error = 0, settings.max_error
    pycolmap.match_sequential(
        database,
        matching_options=matching,
        pairing_options=pycolmap.SequentialPairingOptions(overlap=settings.overlap, quadratic_overlap=True),
        verification_options=verification,
    )


def _map(database: Path, images: Path, output: Path, max_error: float, seed: int) -> pycolmap.Reconstruction | None:
    """Run incremental mapping and return its largest model; one thread and a fixed seed make it deterministic."""
    options = pycolmap.IncrementalPipelineOptions(min_model_size=3, random_seed=seed, num_threads=1)
    options.mapper.random_seed = options.triangulation.random_seed = seed
    options.mapper.num_threads = 1
    options.mapper.init_max_error = options.mapper.filter_max_reproj_error = max_error
    options.mapper.abs_pose_max_error = POSE_ERROR_RATIO * max_error
    options.triangulation.merge_max_reproj_error = options.triangulation.complete_max_reproj_error = max_error
    options.min_focal_length_ratio, options.max_focal_length_ratio = FOCAL_RATIO
    models = pycolmap.incremental_mapping(database, images, output, options)
    return max(models.values(), key=lambda model: model.num_reg_images(), default=None)


def ray_angle(model: pycolmap.Reconstruction) -> float:
    """Median over the points of the largest angle, in degrees, between the rays of two cameras that observe the point.

    Returns:
        0 for a model without points.
    """
    centres = {image.image_id: image.projection_center() for image in model.images.values() if image.has_pose}
    angles = []
    for point in model.points3D.values():
        rays = np.array([point.xyz - centres[element.image_id] for element in point.track.elements])
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        angles.append(np.degrees(np.arccos(np.clip((rays @ rays.T).min(), -1.0, 1.0))))
    return float(np.median(angles)) if angles else 0.0


def undistort(result: SfmResult, images: Path, dense: Path) -> None:
    """Resample the registered frames to an ideal pinhole camera: write `dense/images` and `dense/sparse`.

    Each folder is replaced as a whole, once COLMAP has written all of both.

    Raises:
        InputError: they cannot be written.
    """
    dense.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dense.parent, prefix=TMP_PREFIX) as temporary:
        model, output = Path(temporary) / "model", Path(temporary) / "dense"
        model.mkdir()
        try:
            result.model.write(model)
            pycolmap.undistort_images(
                output, model, images, image_names=result.registered, undistort_options=UNDISTORTION
            )
            complete = is_complete(output, result)
        except Exception as error:  # of many types; the model was valid, so writing it is what failed
            raise InputError(f"cannot write {dense} ({type(error).__name__}): is the disk full?") from error
        if not complete:
            raise InputError(f"cannot write {dense}: is the disk full?")
        dense.mkdir(exist_ok=True)
        for name in ("images", "sparse"):
            shutil.rmtree(dense / name, ignore_errors=True)
            (output / name).replace(dense / name)


def is_complete(output: Path, result: SfmResult) -> bool:
    """Check that COLMAP wrote all frames and the whole model: on a full disk it truncates files without an error."""
    try:
        model = pycolmap.Reconstruction(output / "sparse")
    except Exception:  # of many types, for a truncated file
        return False
    images = sorted((output / "images").iterdir())
    return (
        model.num_reg_images() == len(result.registered)
        and model.num_points3D() == result.model.num_points3D()
        and [path.name for path in images] == sorted(result.registered)
        and all(path.read_bytes().endswith(PNG_END) for path in images)
    )


def longest_run(names: list[str], registered: list[str]) -> list[str]:
    """Find the longest run of consecutive frames that are all registered."""
    is_registered = set(registered)
    longest: list[str] = []
    run: list[str] = []
    for name in names:
        run = [*run, name] if name in is_registered else []
        if len(run) > len(longest):
            longest = run
    return longest


def advice(masked: bool) -> str:
    """Advice where structure from motion fails, with or without masks of the user."""
    masks = "look at the masks (white = moving)" if masked else "try --masks DIR"
    return f"{masks}, a shorter stretch (--start, --end), more frames (--fps)"


def check_registered(names: list[str], run: list[str], masked: bool = False) -> None:
    """Warn about frames outside the run of registered frames.

    Args:
        names: of all frames.
        run: names of those that are kept.
        masked: the user gave masks: the advice is not to do so.

    Raises:
        InputError: the run is too short.
    """
    if len(run) < min(MIN_REGISTERED, len(names)):
        raise InputError(
            f"only {len(run)} of {len(names)} frames could be registered in a row: the camera must move sideways, and "
            f"static things must be in sight; {advice(masked)}"
        )
    if lost := [name for name in names if name not in set(run)]:
        shown = ", ".join(lost[:8]) + (", ..." if len(lost) > 8 else "")
        log.warning("%d of %d frames are left out: %s", len(lost), len(names), shown)
