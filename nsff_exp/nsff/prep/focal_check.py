"""Detection of a zoom while filming, which structure from motion takes for a motion of the camera."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pycolmap
from jaxtyping import Float

from nsff.errors import InputError

log = logging.getLogger("nsff")

# Largest over least focal length, minus 1. The fit finds 3 to 7 % less than there is, so these stand for 3 and 15 %.
WARN_SPREAD, REFUSE_SPREAD = 0.028, 0.142
MAX_FRAMES, MIN_FRAMES = 30, 8  # Frames that take part, evenly spaced; with fewer nothing is said.
MAX_POINTS = 2500  # Points that take part: those of the longest tracks.
MIN_TRACK = 3  # Frames that see a point.
MAX_ITERATIONS = 50
WINDOW = 5  # Frames over which the focal length is taken to change linearly.
# Squared differences of neighbours over squared deviations from the mean: 2 for noise, near 0 for a zoom. Cameras of a
# rig, and frames that hardly determine their focal length, are above.
MAX_ROUGHNESS = 0.5


@dataclasses.dataclass(frozen=True)
class FocalFit:
    """Focal lengths of frames, each fitted freely.

    Attributes:
        names: of the frames, without suffix, in temporal order.
        focal: pixels, per frame. Ratios are right to a few percent; all together may be 20 % too long, because a scene
            further away fits nearly as well.
        shared_error: mean reprojection error with one focal length for all frames, pixels.
        free_error: the same with one per frame.
    """

    names: list[str]
    focal: Float[np.ndarray, " n"]
    shared_error: float
    free_error: float


def check_focal_length(model: pycolmap.Reconstruction) -> None:
    """Warn about a focal length that changes by 3 % or more.

    Args:
        model: reconstruction with one camera for all frames.

    Raises:
        InputError: it changes by 15 % or more.
    """
    fit = fit_focal_lengths(model)
    if fit is None:
        return
    focal = smooth_focal(fit.focal)
    least, largest = int(focal.argmin()), int(focal.argmax())
    log.debug(
        "focal length of each frame: %.1f to %.1f px, error %.3f px instead of %.3f",
        focal[least], focal[largest], fit.free_error, fit.shared_error,
    )  # fmt: skip
    ratio = float(focal[largest] / focal[least])
    if ratio - 1.0 < WARN_SPREAD or not fit.free_error < fit.shared_error:
        return
    text = (
        f"the focal length changes by {100 * (ratio - 1.0):.0f} % while filming (a zoom): it is {ratio:.2f} times as "
        f"long at frame {fit.names[largest]} as at {fit.names[least]}, but all frames must share one"
    )
    if ratio - 1.0 >= REFUSE_SPREAD:
        raise InputError(f"{text}; take a stretch without zoom (--start, --end)")
    log.warning("%s; cameras and depth are inexact: better take a stretch without zoom (--start, --end)", text)


def smooth_focal(focal: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Fit a smooth change over time to focal lengths; their mean everywhere where the values only scatter."""
    logs = np.log(focal)
    deviation = np.square(logs - logs.mean()).sum()
    if np.square(np.diff(logs)).sum() > MAX_ROUGHNESS * deviation:
        return np.full(len(focal), np.exp(logs.mean()))
    smooth = []
    for index in range(len(logs)):
        first = min(max(0, index - WINDOW // 2), len(logs) - WINDOW)
        frames = np.arange(first, first + WINDOW)
        smooth.append(np.polyval(np.polyfit(frames, logs[frames], 1), index))
    return np.exp(smooth)


def fit_focal_lengths(model: pycolmap.Reconstruction) -> FocalFit | None:
    """Adjust poses, points and one camera per frame, from a reconstruction with one camera for all frames.

    Returns:
        The focal lengths; None if the frames are too few, or the adjustment fails.
    """
    images = sorted((image for image in model.images.values() if image.has_pose), key=lambda image: image.name)
    if len(images) < MIN_FRAMES:
        return None
    images = images[:: -(-len(images) // MAX_FRAMES)]
    free = _camera_per_frame(model, images)
    if free.num_points3D() < MIN_TRACK * len(images):
        return None
    free.update_point_3d_errors()
    shared_error = free.compute_mean_reprojection_error()
    options = pycolmap.BundleAdjustmentOptions(print_summary=False)
    options.ceres.loss_function_type, options.ceres.loss_function_scale = pycolmap.LossFunctionType.CAUCHY, 1.0
    options.ceres.solver_options.max_num_iterations = MAX_ITERATIONS
    options.ceres.solver_options.num_threads = 1
    config = pycolmap.BundleAdjustmentConfig()
    for image in images:
        config.add_image(image.image_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    pycolmap.create_default_bundle_adjuster(options, config, free).solve()
    free.update_point_3d_errors()
    focal = np.array([free.cameras[image.image_id].mean_focal_length() for image in images])
    error = free.compute_mean_reprojection_error()
    if not (np.isfinite(error) and (focal > 0.0).all()):
        return None
    return FocalFit([Path(image.name).stem for image in images], focal, shared_error, error)


def _camera_per_frame(model: pycolmap.Reconstruction, images: list[pycolmap.Image]) -> pycolmap.Reconstruction:
    """Copy some frames of a reconstruction, each with a camera of its own, and the points with the longest tracks."""
    copy = pycolmap.Reconstruction()
    for image in images:
        camera = model.cameras[image.camera_id]
        own = pycolmap.Camera(
            model=camera.model_name, width=camera.width, height=camera.height, params=camera.params.copy()
        )
        own.camera_id = image.image_id
        copy.add_camera_with_trivial_rig(own)
        frame = pycolmap.Image(name=image.name, camera_id=own.camera_id, image_id=image.image_id)
        frame.points2D = pycolmap.Point2DList([pycolmap.Point2D(point.xy) for point in image.points2D])
        copy.add_image_with_trivial_frame(frame, image.cam_from_world())
    used = {image.image_id for image in images}
    tracks = []
    for point_id, point in sorted(model.points3D.items()):
        elements = [element for element in point.track.elements if element.image_id in used]
        if len(elements) >= MIN_TRACK:
            tracks.append((len(elements), point_id, elements))
    for _, point_id, elements in sorted(tracks, key=lambda track: (-track[0], track[1]))[:MAX_POINTS]:
        track = pycolmap.Track([pycolmap.TrackElement(e.image_id, e.point2D_idx) for e in elements])
        copy.add_point3D(model.points3D[point_id].xyz, track)
    return copy
