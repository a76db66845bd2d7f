"""Camera paths of novel views: the published circles, and where the further paths aim."""

import numpy as np
import pytest
from nsff.geometry.camera_paths import bullet_time_loop, lemniscate, space_time_offsets, spiral


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
