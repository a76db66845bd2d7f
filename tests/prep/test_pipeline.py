"""From a video to a scene that training reads, as typed; run again, and after a stage was lost."""

import dataclasses
import json
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pycolmap
import pytest
import torch
from nsff.config_loader import load_config
from nsff.data.scene import load_scene
from nsff.errors import InputError
from nsff.io import list_images, read_image
from nsff.prep.colmap import SfmResult, SfmSettings, is_complete, reconstruct, undistort
from nsff.prep.heldout_views import camera_from_report, list_views, undistort_image, undistort_views
from nsff.prep.poses_bounds import load_cameras
from nsff.scene_folder import SceneFolder
from skimage.transform import SimilarityTransform


def test_all_files_are_there_and_readable(prepared):
    _, scene, printed = prepared
    assert "cameras: 12 of 12 frames" in printed
    config = load_config(["--expname", "x", "--use_viewdirs", "--end_frame", "12", "--final_height", "72"])
    read = load_scene(dataclasses.replace(config, datadir=str(scene / "dense")), torch.device("cpu"))
    assert len(read.images) == 12
    assert 0.001 < float(read.motion_masks.float().mean()) < 0.6
    page = (scene / "dense" / "prepared.html").read_text()
    assert page.count("data:image/") == 4
    assert "12 of 12 frames" in page
    assert not list(scene.rglob("*partial*"))


def test_cameras_are_the_true_ones(prepared):
    clip, scene, _ = prepared
    found, true = (load_cameras(SceneFolder(folder)) for folder in (scene / "dense", clip.parent / "truth"))
    assert found.focal == pytest.approx(true.focal, rel=0.03)
    found_at, true_at = (-np.einsum("nji,nj->ni", each.w2c[..., :3], each.w2c[..., 3]) for each in (found, true))
    off = true_at - SimilarityTransform.from_estimate(found_at, true_at)(found_at)
    assert np.linalg.norm(off, axis=1).max() < 0.02 * np.linalg.norm(np.ptp(true_at, axis=0))


def test_the_same_frames_give_the_same_cameras(prepared):
    _, scene, _ = prepared
    first, again = (reconstruct(scene / "frames", None, SfmSettings(n_features=500)) for _ in range(2))
    assert len(first.registered) == 12
    for image_id, image in first.model.images.items():
        expected = again.model.images[image_id].cam_from_world().matrix()
        np.testing.assert_array_equal(image.cam_from_world().matrix(), expected)


def test_cut_off_files_of_colmap_are_noticed(prepared, tmp_path):
    """On a full disk it writes what fits and says nothing (seen on a small tmpfs)."""
    _, scene, _ = prepared
    model = pycolmap.Reconstruction(scene / "dense" / "sparse")
    result = SfmResult(model, [path.name for path in list_images(scene / "dense" / "images", "")], 0.0)
    undistort(result, scene / "dense" / "images", tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").iterdir()} == {"images", "sparse"}
    assert is_complete(tmp_path / "again", result)
    for name in ("images/00004.png", "sparse/images.bin"):
        path = tmp_path / "again" / name
        content = path.read_bytes()
        path.write_bytes(content[:-2] if path.suffix == ".png" else b"")
        assert not is_complete(tmp_path / "again", result)
        path.write_bytes(content)
    (tmp_path / "again" / "images" / "00007.png").unlink()
    assert not is_complete(tmp_path / "again", result)


def test_again_nothing_is_made_twice(prepared, prepare):
    clip, scene, _ = prepared
    before = {path: path.stat().st_mtime_ns for path in scene.rglob("*.n*")}
    out = prepare(clip, scene)
    assert out.returncode == 0
    assert out.stderr.count("is up to date") == 4
    assert {path: path.stat().st_mtime_ns for path in scene.rglob("*.n*")} == before


def test_what_was_lost_is_made_again(prepared, prepare):
    clip, scene, _ = prepared
    poses = np.load(scene / "dense" / "poses_bounds.npy")
    (scene / "dense" / "disp" / "00003.npy").unlink()
    out = prepare(clip, scene)
    assert out.returncode == 0
    assert "== poses is up to date" in out.stderr
    assert "== depth is up to date" not in out.stderr
    assert "== flow is up to date" not in out.stderr  # it was made from the frames that depth makes anew
    assert (scene / "dense" / "disp" / "00003.npy").is_file()
    np.testing.assert_array_equal(np.load(scene / "dense" / "poses_bounds.npy"), poses)


@pytest.fixture
def views(prepared, tmp_path) -> Path:
    """Two held-out views, as the camera of the video would have seen them: its raw frames 3 and 4."""
    for frame in (3, 4):
        raw = read_image(prepared[1] / "frames" / f"{frame:05d}.png")
        mask = np.zeros(raw.shape[:2], np.uint8)
        mask[:, : raw.shape[1] // 2] = 255
        for name, picture in (("mv_images/{}/cam01.jpg", raw), ("mv_masks/{}/cam01.png", mask)):
            path = tmp_path / "views" / name.format(f"{frame:05d}")
            path.parent.mkdir(parents=True, exist_ok=True)
            iio.imwrite(path, picture, **({"quality": 99, "subsampling": 0} if path.suffix == ".jpg" else {}))
    return tmp_path / "views"


def test_held_out_views_lose_their_lens_as_the_frames_did(prepared, prepare, views):
    clip, scene, _ = prepared
    lens = camera_from_report(json.loads((scene / "dense" / "sfm.json").read_text())["lens"])
    raw, ideal = (read_image(scene / name / "00003.png") for name in ("frames", "dense/images"))
    np.testing.assert_array_equal(undistort_image(raw, lens), ideal)
    out = prepare(clip, scene, "--views", str(views))
    assert out.returncode == 0, out.stderr[-2000:]
    assert out.stderr.count("is up to date") == 4
    assert "held-out views: 2" in out.stdout
    made = read_image(scene / "dense/mv_images/00003/cam01.jpg").astype(int)
    assert np.abs(made - ideal).mean() < 4.0  # JPEG of the given picture
    mask = iio.imread(scene / "dense/mv_masks/00003/cam01.png")
    assert mask.shape == ideal.shape[:2]
    assert set(np.unique(mask)) == {0, 255}
    assert prepare(clip, scene, "--views", str(views)).stderr.count("is up to date") == 5
    shutil.rmtree(views / "mv_images/00004")
    assert prepare(clip, scene, "--views", str(views)).stderr.count("is up to date") == 4
    assert not (scene / "dense/mv_images/00004").exists()  # nothing of other views stays


def test_held_out_views_that_cannot_be_used(prepared, prepare, views, tmp_path):
    clip, scene, _ = prepared
    with pytest.raises(InputError, match="is not a folder"):
        list_views(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no mv_images/00000/cam01\.jpg"):
        list_views(scene)
    assert "are matched by frame number" in prepare(clip, scene, "--views", str(views), "--fps", "5").stderr
    copy = SceneFolder(tmp_path / "dense")
    shutil.copytree(scene / "dense", copy.root)
    iio.imwrite(views / "mv_images/00003/cam01.jpg", np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(InputError, match=r"00003/cam01\.jpg is 60x40, the video's frames are .* not a camera like"):
        undistort_views(views, copy, 1024)
    report = json.loads((copy.root / "sfm.json").read_text())
    shutil.copy(copy.root / "images" / "00011.png", copy.root / "images" / "00012.png")
    (copy.root / "images" / "00000.png").unlink()
    (copy.root / "sfm.json").write_text(json.dumps(report | {"left_out": ["00000.png"]}))
    with pytest.raises(InputError, match=r"frame 00000\.png has no camera"):
        undistort_views(views, copy, 1024)
