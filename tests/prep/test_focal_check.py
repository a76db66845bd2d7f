"""A zoom while filming is found from the frames, and nothing is said of clips without one."""

import re

import numpy as np
import pycolmap
import pytest
from nsff.errors import InputError
from nsff.prep.focal_check import check_focal_length, fit_focal_lengths, smooth_focal

N_FRAMES, SHARED = 16, 450.0


def filmed(focal: np.ndarray, noise: float = 0.3) -> pycolmap.Reconstruction:
    """A room filmed by a camera that moves sideways, with one focal length per frame, registered with a shared one."""
    rng = np.random.default_rng(0)
    points = rng.uniform([-3.0, -1.5, 4.0], [3.0, 1.5, 9.0], (250, 3))
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model="SIMPLE_RADIAL", width=480, height=270, params=[SHARED, 240.0, 135.0, 0.0])
    camera.camera_id = 1
    model.add_camera_with_trivial_rig(camera)
    elements: dict[int, list[pycolmap.TrackElement]] = {k: [] for k in range(len(points))}
    for index, length in enumerate(focal):
        centre = np.array([0.15 * (index - len(focal) / 2), 0.05 * np.sin(index), 0.04 * np.cos(index)])
        turned = pycolmap.Rotation3d(np.array([0.02 * np.sin(index), 0.02 * np.cos(1.3 * index), 0.0]))
        pose = pycolmap.Rigid3d(turned, -(turned.matrix() @ centre))
        seen = points @ turned.matrix().T + pose.translation
        pixels = length * seen[:, :2] / seen[:, 2:] + [240.0, 135.0] + rng.normal(0.0, noise, (len(points), 2))
        inside = np.flatnonzero((np.abs(pixels - [240.0, 135.0]) < [240.0, 135.0]).all(axis=1))
        image = pycolmap.Image(name=f"{index:05d}.png", camera_id=1, image_id=index + 1)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(pixels[k]) for k in inside])
        model.add_image_with_trivial_frame(image, pose)
        for position, k in enumerate(inside):
            elements[k].append(pycolmap.TrackElement(index + 1, position))
    for k, track in elements.items():
        if len(track) >= 3:
            model.add_point3D(points[k] * [1.0, 1.0, SHARED / np.mean(focal)], pycolmap.Track(track))
    return model


def test_fit_finds_the_focal_lengths_of_a_zoom():
    focal = np.linspace(400.0, 500.0, N_FRAMES)
    fit = fit_focal_lengths(filmed(focal))
    assert fit is not None
    np.testing.assert_allclose(fit.focal / fit.focal.mean(), focal / focal.mean(), rtol=0.01)
    assert fit.free_error < 0.5 < fit.shared_error


@pytest.mark.parametrize("path", ["smooth", "step"])
def test_zoom_is_refused_with_its_range(path):
    progress = np.linspace(0.0, 1.0, N_FRAMES)
    focal = 400.0 * (1.0 + 0.25 * (progress if path == "smooth" else progress > 0.5))
    told = r"changes by 2[3-7] % while filming .* 1\.2[3-7] times as long at frame 000(\d\d) as at 000(\d\d),"
    with pytest.raises(InputError, match=told) as error:
        check_focal_length(filmed(focal))
    longest, shortest = (int(number) for number in re.search(told, str(error.value)).groups())
    assert shortest < N_FRAMES // 2 < longest


def test_small_zoom_is_warned_about(caplog):
    check_focal_length(filmed(np.linspace(400.0, 424.0, N_FRAMES)))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "the focal length changes by 6 % while filming" in record.getMessage()


@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_constant_focal_length_is_not_mentioned(spread, caplog):
    """Cameras of a rig scatter by some percent without any order."""
    scatter = 1.0 + spread * np.random.default_rng(2).choice([-1.0, 1.0], N_FRAMES)
    check_focal_length(filmed(440.0 * scatter))
    assert not caplog.records


def test_few_frames_say_nothing():
    assert fit_focal_lengths(filmed(np.linspace(400.0, 600.0, 7))) is None


def test_smooth_focal_by_hand_values():
    np.testing.assert_allclose(smooth_focal(np.full(12, 400.0)), 400.0)
    zoom = 400.0 * 1.02 ** np.arange(12)
    np.testing.assert_allclose(smooth_focal(zoom), zoom)
    alternating = 400.0 * 1.1 ** (np.arange(12) % 2)
    np.testing.assert_allclose(smooth_focal(alternating), 400.0 * 1.1**0.5)  # scatter: the mean
