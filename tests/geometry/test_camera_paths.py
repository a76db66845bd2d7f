"""Camera paths of novel views: the published circles, and where the further paths aim."""

import numpy as np
import pytest
from nsff.errors import InputError
from nsff.geometry.camera_paths import bullet_time_loop, lemniscate, looked_at, orbit, space_time_offsets, spiral


def test_published_paths_circle_around_the_target():
    path = bullet_time_loop(np.eye(4)[:3], 96.0)
    np.testing.assert_allclose(path[:, :, :3], np.broadcast_to(np.eye(3), (60, 3, 3)))
    np.testing.assert_allclose(path[0, :, 3], [0, -0.5 / 3, -0.5 / 3])
    np.testing.assert_allclose(path[15, :, 3], [-0.5, 0, 0], atol=1e-12)
    np.testing.assert_allclose(path[:, :, 3].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(space_time_offsets(64.0)[10, :3, 3], [-0.5, 0, 0], atol=1e-12)


@pytest.mark.parametrize("path", [spiral, lemniscate])
def test_path_cameras_aim_at_the_focus_point(path):
    target = np.array([[0.0, 0, 1, 2], [0, 1, 0, 4], [-1, 0, 0, 6]])
    aim_point = np.array([2.0 - 5.0, 4.0, 6.0])  # 5 in front: the camera looks along -back = (-1, 0, 0)
    for pose in path(target, 96.0, 5.0, 12):
        to_aim = aim_point - pose[:, 3]
        np.testing.assert_allclose(-pose[:, 2], to_aim / np.linalg.norm(to_aim), atol=1e-12)
        np.testing.assert_allclose(pose[:, :3].T @ pose[:, :3], np.eye(3), atol=1e-12)


def cameras_on_an_arc(degrees: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """Upright cameras on a horizontal arc around a point, aimed at it."""
    a, zero = np.radians(degrees), np.zeros(len(degrees))
    back = np.stack([np.sin(a), zero, np.cos(a)], axis=1)
    right, up = np.stack([np.cos(a), zero, -np.sin(a)], axis=1), np.tile([0.0, 1.0, 0.0], (len(a), 1))
    return np.stack([right, up, back, centre + radius * back], axis=2)


@pytest.mark.parametrize("span", [120.0, 330.0])
def test_orbit_keeps_to_the_filmed_arc_and_looks_at_its_centre(span):
    centre = np.array([1.0, -2.0, -5.0])
    c2w = cameras_on_an_arc(np.linspace(-0.25 * span, 0.75 * span, 40), centre, 4.0)
    path = orbit(c2w, c2w[10], 4.0, 24)
    np.testing.assert_allclose(np.linalg.norm(path[:, :, 3] - centre, axis=1), 4.0, atol=0.02)
    np.testing.assert_allclose(path[:, :, 3] - centre, 4.0 * path[:, :, 2], atol=0.05)
    ends = path[[6, 18], :, 3]  # a quarter and three quarters of the turn
    np.testing.assert_allclose(ends, c2w[[-1, 0], :, 3], atol=0.1)
    np.testing.assert_allclose(path[:, 1, 1], 1.0)


def test_parallel_cameras_look_at_the_focus_and_diverging_ones_at_nothing():
    row = np.repeat(np.eye(4)[None, :3], 5, axis=0)
    row[:, 0, 3] = np.linspace(-0.2, 0.2, 5)
    np.testing.assert_allclose(looked_at(row, np.array([0.0, 0.0, -3.0])), [0.0, 0.0, -3.0], atol=1e-9)
    outwards = cameras_on_an_arc(np.linspace(-60, 60, 9), np.zeros(3), -2.0)
    with pytest.raises(InputError, match="--path orbit: the cameras look away"):
        orbit(outwards, outwards[4], 3.0, 8)
