"""Cameras of a COLMAP model: their file, and warnings about them."""

import numpy as np
from nsff.io import write_array, write_image
from nsff.prep.colmap import longest_run
from nsff.prep.poses_bounds import camera_warnings, load_cameras, poses_bounds
from nsff.prep.sparse_model import SparseModel
from nsff.scene_folder import SceneFolder
from toy_frames import look_from, textured


def ideal_model(**changes) -> SparseModel:
    points = np.array([[0.0, 0.0, z] for z in range(1, 22)])
    values = {
        "names": ["a.png"], "size": (64, 36), "focal": (80.0, 80.0), "principal_point": (32.0, 18.0),
        "w2c": look_from(2.0)[None], "points": points, "observed": [np.arange(21)],
    }  # fmt: skip
    return SparseModel(**(values | changes))


def test_poses_bounds_hand_values():
    row = poses_bounds(ideal_model())[0]
    matrix = row[:15].reshape(3, 5)
    # down = +y, right = +x, back = -z, centre = (2, 0, 0), then height, width, focal length
    np.testing.assert_allclose(matrix, [[0, 1, 0, 2, 36], [1, 0, 0, 0, 64], [0, 0, -1, 0, 80]])
    assert row[15:].tolist() == [2.0, 20.0]  # 5th and 95th percentile of 1..21


def test_camera_warnings_of_deviating_cameras():
    assert camera_warnings(ideal_model()) == []
    assert "differ by 2.5%" in camera_warnings(ideal_model(focal=(80.0, 82.0)))[0]
    assert "principal point (35.0, 18.0)" in camera_warnings(ideal_model(principal_point=(35.0, 18.0)))[0]


def test_load_cameras_inverts_poses_bounds(tmp_path):
    folder = SceneFolder(tmp_path)
    write_image(folder.images / "a.png", textured(0, 36, 64))
    write_array(folder.poses_bounds, poses_bounds(ideal_model()))
    cameras = load_cameras(folder)
    np.testing.assert_allclose(cameras.w2c[0], look_from(2.0), atol=1e-12)
    np.testing.assert_allclose(cameras.intrinsics(32, 18), [[40, 0, 16], [0, 40, 9], [0, 0, 1]])


def test_longest_run_of_registered_frames():
    names = [f"{k}" for k in range(9)]
    assert longest_run(names, ["0", "1", "3", "4", "5", "8"]) == ["3", "4", "5"]
    assert longest_run(names, []) == []
