"""Cameras that the user brings: COLMAP models of any layout, and nerfstudio's transforms.json."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from nsff.geometry.poses import from_llff, homogeneous
from nsff.images import natural_order
from nsff.io import write_image, write_text
from nsff.prep.ply import read_ply_points
from nsff.prep.poses_bounds import read_model, save_poses
from nsff.scene_folder import SceneFolder
from script_runs import error_of
from toy_frames import textured

N_FRAMES = 12
X_STEP = 0.1


def write_model(
    root: Path, place="sparse", name="{:05d}.png", focal=lambda k: 100.0, centre=lambda k: 64.0, n=N_FRAMES
):
    """A COLMAP model of cameras that move to the right, one camera an image, and its images."""
    folder = root / place
    folder.mkdir(parents=True, exist_ok=True)
    points = np.random.default_rng(0).uniform([-2, -1, 4], [2, 1, 8], (60, 3))
    cameras, images = [], []
    for k in range(n):
        cameras.append(f"{k + 1} PINHOLE 128 72 {focal(k)} {focal(k)} {centre(k)} 36\n")
        uv = (points[:, :2] - [X_STEP * k, 0]) / points[:, 2:] * focal(k) + [64, 36]
        images.append(f"{k + 1} 1 0 0 0 {-X_STEP * k} 0 0 {k + 1} {name.format(k)}\n")
        images.append(" ".join(f"{u} {v} {q + 1}" for q, (u, v) in enumerate(uv)) + "\n")
        write_image(root / "images" / name.format(k), textured(k, 72, 128))
    tracks = [" ".join(f"{k + 1} {q}" for k in range(n)) for q in range(60)]
    write_text(folder / "cameras.txt", "".join(cameras))
    write_text(folder / "images.txt", "".join(images))
    lines = (f"{q + 1} {x} {y} {z} 1 1 1 0.5 {tracks[q]}\n" for q, (x, y, z) in enumerate(points))
    write_text(folder / "points3D.txt", "".join(lines))


def centres_of_rows(root: Path) -> list[float]:
    c2w, _, _ = from_llff(np.load(root / "poses_bounds.npy"))
    return c2w[:, 0, 3].round(6).tolist()


RISING = [round(X_STEP * k, 6) for k in range(N_FRAMES)]


def test_frames_named_without_zeros_keep_their_order(tmp_path, caplog):
    write_model(tmp_path, name="frame_{}.png")
    save_poses(SceneFolder(tmp_path))
    assert centres_of_rows(tmp_path) == RISING
    assert "natural order, frame_2.png before frame_10.png" in caplog.text


def test_images_of_another_suffix_belong_to_the_model(tmp_path):
    write_model(tmp_path)
    for path in (tmp_path / "images").iterdir():
        path.rename(path.with_suffix(".PNG"))
    (tmp_path / "images" / "._00000.png").write_bytes(b"\0\5\26\7")
    save_poses(SceneFolder(tmp_path))
    assert centres_of_rows(tmp_path) == RISING


@pytest.mark.parametrize("places", [("sparse/0", "sparse/1"), ("sparse/1", "sparse"), (".", "sparse/0")])
def test_model_with_most_frames_is_taken_and_said(tmp_path, caplog, places):
    write_model(tmp_path, places[0], n=3)
    write_model(tmp_path, places[1])
    save_poses(SceneFolder(tmp_path))
    assert centres_of_rows(tmp_path) == RISING
    small = tmp_path / places[0]
    assert f"{tmp_path / places[1]} is taken, with most frames: 12 ({small} has 3)" in caplog.text


def test_broken_model_beside_a_good_one_is_named(tmp_path, caplog):
    write_model(tmp_path, "sparse/0", n=3)
    write_text(tmp_path / "sparse/0/cameras.txt", "1 PINHOLE\n")
    write_model(tmp_path, "sparse/1")
    save_poses(SceneFolder(tmp_path))
    assert centres_of_rows(tmp_path) == RISING
    assert "sparse/0 cannot be read as a COLMAP model" in caplog.text


@pytest.mark.parametrize(("step", "outcome"), [(0.0, ""), (0.002, ""), (0.01, "warned"), (0.04, "refused")])
def test_focal_lengths_that_differ(tmp_path, caplog, step, outcome):
    write_model(tmp_path, focal=lambda k: 100.0 * (1.0 + step * k))
    most = 100.0 * (1.0 + step * (N_FRAMES - 1))
    span = f"focal length differs between the frames: 100.0 (00000.png) to {most:.1f} (00011.png), {most - 100.0:.0f}%"
    if outcome == "refused":
        assert f"{span}; one camera for all" in error_of("save_poses_nerf.py", "--data_path", tmp_path)
        assert not (tmp_path / "poses_bounds.npy").exists()
        return
    save_poses(SceneFolder(tmp_path))
    assert (span in caplog.text) == (outcome == "warned")
    focal = np.load(tmp_path / "poses_bounds.npy")[:, 14]
    np.testing.assert_allclose(focal, 100.0 * (1.0 + step * (N_FRAMES - 1) / 2))  # the median


def test_principal_points_that_differ_are_refused(tmp_path):
    write_model(tmp_path, centre=lambda k: 64.0 + 2.0 * k)
    error = error_of("save_poses_nerf.py", "--data_path", tmp_path)
    assert "principal point (right) differs between the frames: 64.0 (00000.png) to 86.0 (00011.png), 17%" in error


def test_cameras_of_two_sizes_are_refused_with_both(tmp_path):
    write_model(tmp_path)
    text = (tmp_path / "sparse/cameras.txt").read_text().replace("5 PINHOLE 128 72", "5 PINHOLE 96 72")
    write_text(tmp_path / "sparse/cameras.txt", text)
    error = error_of("save_poses_nerf.py", "--data_path", tmp_path)
    assert "differ in size, 96x72 (00004.png) to 128x72 (00000.png)" in error


def test_images_cropped_after_colmap_are_refused(tmp_path):
    write_model(tmp_path)
    path = tmp_path / "images" / "00007.png"
    PIL.Image.open(path).crop((0, 10, 128, 62)).save(path)
    error = error_of("save_poses_nerf.py", "--data_path", tmp_path)
    assert "00007.png is 128x52, the camera is 128x72: their aspect ratios differ; put back" in error


def test_distortion_names_the_undistorter(tmp_path):
    write_model(tmp_path)
    pinhole, radial = "1 PINHOLE 128 72 100.0 100.0 64.0 36\n", "1 SIMPLE_RADIAL 128 72 100 64 36 0.1\n"
    text = (tmp_path / "sparse/cameras.txt").read_text()
    assert text.startswith(pinhole)
    text = text.replace(pinhole, radial, 1)
    write_text(tmp_path / "sparse/cameras.txt", text)
    error = error_of("save_poses_nerf.py", "--data_path", tmp_path)
    assert "lens distortion (SIMPLE_RADIAL); undistort frames and model: colmap image_undistorter" in error


def test_names_cut_at_blanks_are_told(tmp_path):
    write_model(tmp_path, name="frame {}.png")
    assert "12 images are named frame; COLMAP's text format" in error_of("save_poses_nerf.py", "--data_path", tmp_path)


# transforms.json

POINTS = np.random.default_rng(0).uniform([-1, -1, -9], [1, 1, -3], (500, 3))  # 3 to 9 in front of the cameras


def transforms_of(scene: Path, path_of="images/{}") -> dict:
    """The cameras of a scene as nerfstudio writes them."""
    c2w, hwf, _ = from_llff(np.load(scene / "poses_bounds.npy"))
    height, width, focal = hwf[0]
    names = sorted(path.name for path in (scene / "images").iterdir())
    frames = [
        {"file_path": path_of.format(name), "transform_matrix": homogeneous(pose).tolist(), "colmap_im_id": k}
        for k, (name, pose) in enumerate(zip(names, c2w, strict=True))
    ]
    return {
        "w": int(width), "h": int(height), "fl_x": focal, "fl_y": focal, "cx": width / 2, "cy": height / 2,
        "k1": 0.0, "k2": 0.0, "p1": 0, "p2": 0, "camera_model": "OPENCV", "ply_file_path": "sparse_pc.ply",
        "frames": frames,
    }  # fmt: skip


def write_cloud(path: Path, points: np.ndarray = POINTS) -> None:
    header = "ply\nformat ascii 1.0\nelement vertex 500\nproperty float x\nproperty float y\nproperty float z\n"
    write_text(path, header + "end_header\n" + "".join(f"{x} {y} {z}\n" for x, y, z in points))


@pytest.fixture
def nerfstudio(small_scene: Path, tmp_path: Path) -> Path:
    """The images of the built-in scene and a point cloud, to be given a transforms.json."""
    shutil.copytree(small_scene / "images", tmp_path / "scene" / "images")
    write_cloud(tmp_path / "scene" / "sparse_pc.ply")
    return tmp_path / "scene"


def save(root: Path, content: dict) -> np.ndarray:
    write_text(root / "transforms.json", "\ufeff" + json.dumps(content))
    save_poses(SceneFolder(root))
    return np.load(root / "poses_bounds.npy")


def test_transforms_in_any_order_give_the_same_rows(small_scene, nerfstudio):
    content = transforms_of(small_scene)
    content["frames"] = content["frames"][::-1]
    del content["ply_file_path"]
    rows, truth = save(nerfstudio, content), np.load(small_scene / "poses_bounds.npy")
    np.testing.assert_allclose(rows[:, :15], truth[:, :15], atol=1e-9)
    near, far = rows[:, 15], rows[:, 16]  # percentiles of measured points, truth: of all pixels
    assert (np.abs(near / truth[:, 15] - 1.0) < 0.25).all()
    assert (np.abs(far / truth[:, 16] - 1.0) < 0.25).all()


def test_applied_transform_is_undone(small_scene, nerfstudio):
    content = transforms_of(small_scene)
    applied = np.array([[1.0, 0, 0, 0.3], [0, 0, 1, -0.1], [0, -1, 0, 2.0]])
    for frame in content["frames"]:
        frame["transform_matrix"] = (homogeneous(applied) @ np.array(frame["transform_matrix"])).tolist()
    write_cloud(nerfstudio / "sparse_pc.ply", POINTS @ applied[:, :3].T + applied[:, 3])
    rows = save(nerfstudio, content | {"applied_transform": applied.tolist()})
    np.testing.assert_allclose(rows[:, 15:].mean(axis=0), [3.3, 8.7], atol=0.3)
    np.testing.assert_allclose(rows[:, :15], np.load(small_scene / "poses_bounds.npy")[:, :15], atol=1e-9)


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_point_cloud_gives_the_depths(small_scene, nerfstudio, kind):
    points = POINTS.astype(np.float32)
    header = f"ply\nformat {kind} 1.0\ncomment made here\nelement vertex 500\nproperty float x\nproperty float y\n"
    header += "property float z\nproperty uint8 red\nend_header\n"
    if kind == "ascii":
        body = "".join(f"{x} {y} {z} 255\n" for x, y, z in points).encode()
    else:
        order = "<" if "little" in kind else ">"
        record = np.dtype([(axis, f"{order}f4") for axis in "xyz"] + [("red", "u1")])
        vertices = np.zeros(500, record)
        for k, axis in enumerate("xyz"):
            vertices[axis] = points[:, k]
        body = vertices.tobytes()
    (nerfstudio / "sparse_pc.ply").write_bytes(header.encode() + body)
    np.testing.assert_allclose(read_ply_points(nerfstudio / "sparse_pc.ply"), points, rtol=1e-6)
    rows = save(nerfstudio, transforms_of(small_scene))
    np.testing.assert_allclose(rows[:, 15], 3.3, atol=0.45)  # 5th and 95th percentile of 3..9, as cameras look along -z
    np.testing.assert_allclose(rows[:, 16], 8.7, atol=0.45)


def test_frames_elsewhere_are_copied(small_scene, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    root = tmp_path / "scene"
    shutil.copytree(small_scene / "images", root / "train")
    write_cloud(root / "sparse_pc.ply")
    content = transforms_of(small_scene, "./train/{}")
    for frame in content["frames"]:
        frame["file_path"] = frame["file_path"].removesuffix(".png")
    rows = save(root, content)
    np.testing.assert_allclose(rows[:, :15], np.load(small_scene / "poses_bounds.npy")[:, :15], atol=1e-9)
    assert len(list((root / "images").iterdir())) == N_FRAMES
    assert "copying 12 images" in caplog.text


def test_angle_of_view_and_sizes_may_be_left_out(small_scene, nerfstudio):
    content = transforms_of(small_scene)
    angle = 2.0 * np.arctan(0.5 * content["w"] / content["fl_x"])
    for name in ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_model"):
        del content[name]
    rows = save(nerfstudio, content | {"camera_angle_x": angle})
    np.testing.assert_allclose(rows[:, :15], np.load(small_scene / "poses_bounds.npy")[:, :15], atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k1": 0.05}, "frame 0 has lens distortion (OPENCV k1); undistort frames and cameras with COLMAP's"),
        ({"camera_model": "OPENCV_FISHEYE"}, "has lens distortion (OPENCV_FISHEYE)"),
        ({"frames": []}, "has no list 'frames'"),
        ({"fl_x": None}, "has no focal length (fl_x or camera_angle_x)"),
        ({"fl_x": "wide"}, "fl_x = 'wide' is no number"),
        ({"h": 100}, "00000.png is 128x72, the camera is 128x100: their aspect ratios differ"),
        ({"applied_transform": [[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0]]}, "applied_transform must be a rotation"),
        ({"ply_file_path": "broken.ply"}, "broken.ply cannot be read"),
    ],
)
def test_unusable_transforms_are_refused_in_one_line(small_scene, nerfstudio, change, message):
    (nerfstudio / "broken.ply").write_bytes(
        b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nend_header\n1\n"
    )
    write_text(nerfstudio / "transforms.json", json.dumps(transforms_of(small_scene) | change))
    assert message in error_of("save_poses_nerf.py", "--data_path", nerfstudio)
    assert not (nerfstudio / "poses_bounds.npy").exists()


def change_frame(content: dict, **values) -> dict:
    content["frames"][3] |= values
    return content


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"transform_matrix": [[1, 0, 0, 0]]}, "frame 3: transform_matrix must be 16 finite numbers"),
        ({"transform_matrix": (2.0 * np.eye(4)).tolist()}, "frame 3: the last row of transform_matrix"),
        ({"file_path": "images/gone.png"}, "gone.png is missing, which"),
        ({"file_path": "images/00004.png"}, "names two frames 00004.png"),
        ({"fl_x": 200.0, "fl_y": 200.0}, "focal length differs between the frames"),
    ],
)
def test_unusable_frame_of_transforms_is_named(small_scene, nerfstudio, values, message):
    write_text(nerfstudio / "transforms.json", json.dumps(change_frame(transforms_of(small_scene), **values)))
    assert message in error_of("save_poses_nerf.py", "--data_path", nerfstudio)


def test_image_without_pose_in_transforms_is_named(small_scene, nerfstudio):
    content = transforms_of(small_scene)
    del content["frames"][5]
    write_text(nerfstudio / "transforms.json", json.dumps(content))
    assert "1 of 12 frames have no pose, 00005.png first" in error_of("save_poses_nerf.py", "--data_path", nerfstudio)


def test_colmap_model_goes_before_transforms(tmp_path):
    write_model(tmp_path)
    write_text(tmp_path / "transforms.json", "{}")
    names = [f"{k:05d}.png" for k in range(N_FRAMES)]
    assert read_model(SceneFolder(tmp_path)).names == sorted(names, key=natural_order)
