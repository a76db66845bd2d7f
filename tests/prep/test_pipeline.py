"""prepare_video.py from a video to a scene that training loads; resumed, with lost files, with held-out views."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import prepare_video
import pycolmap
import pytest
import torch
from nsff.config_loader import load_config
from nsff.data.scene import load_scene
from nsff.errors import InputError, UsageError
from nsff.images import list_images, read_image
from nsff.io import digest_of_files
from nsff.prep.colmap import SfmResult, SfmSettings, is_complete, reconstruct, undistort
from nsff.prep.heldout_views import camera_from_report, list_views, undistort_image, undistort_views
from nsff.prep.pipeline import Stage, summary_if_current
from nsff.prep.poses_bounds import load_cameras
from nsff.scene_folder import SceneFolder
from skimage.transform import SimilarityTransform


def test_prepare_video_writes_loadable_scene_and_page(prepared):
    _, scene, printed = prepared
    assert "cameras: 12 of 12 frames" in printed
    config = load_config(["--expname", "x", "--use_viewdirs", "--end_frame", "12", "--final_height", "72"])
    loaded = load_scene(dataclasses.replace(config, datadir=str(scene / "dense")), torch.device("cpu"))
    assert len(loaded.images) == 12
    assert 0.001 < float(loaded.motion_masks.float().mean()) < 0.6
    source = json.loads((scene / "dense" / "sfm.json").read_text())["source"]
    assert source["indices"] == list(range(12))
    np.testing.assert_allclose(source["times_s"], np.arange(12) / 12, atol=1e-6)
    assert source["fps"] == pytest.approx(12.0)
    assert (source["full_size"], source["picture"]) == ([320, 180], None)
    page = (scene / "dense" / "prepared.html").read_text()
    assert "focal length changes" not in page
    assert page.count("data:image/") == 4
    assert "12 of 12 frames" in page
    assert not list(scene.rglob("*partial*"))


def test_prepare_video_cameras_match_truth(prepared):
    video, scene, _ = prepared
    estimated, true = (load_cameras(SceneFolder(folder)) for folder in (scene / "dense", video.parent / "truth"))
    assert estimated.focal == pytest.approx(true.focal, rel=0.03)
    centres, true_centres = (
        -np.einsum("nji,nj->ni", cameras.w2c[..., :3], cameras.w2c[..., 3]) for cameras in (estimated, true)
    )
    error = true_centres - SimilarityTransform.from_estimate(centres, true_centres)(centres)
    assert np.linalg.norm(error, axis=1).max() < 0.02 * np.linalg.norm(np.ptp(true_centres, axis=0))


@pytest.mark.nightly
def test_reconstruct_is_deterministic(prepared):
    _, scene, _ = prepared
    first, again = (reconstruct(scene / "frames", None, SfmSettings(n_features=500)) for _ in range(2))
    assert len(first.registered) == 12
    for image_id, image in first.model.images.items():
        expected = again.model.images[image_id].cam_from_world().matrix()
        np.testing.assert_array_equal(image.cam_from_world().matrix(), expected)


def test_is_complete_detects_truncated_files(prepared, tmp_path):
    """On a full disk COLMAP truncates files without an error (observed on a small tmpfs)."""
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


@pytest.fixture
def prepare_again(prepared, caplog, capsys) -> Callable[..., tuple[str, str]]:
    """Repeats the command of `prepared` in-process, with further options; returns its log and its output."""
    video, scene, _ = prepared
    caplog.set_level("INFO", "nsff")

    def run(*options: str) -> tuple[str, str]:
        caplog.clear()
        sizes = ["--resize_height", "72", "--input_flow_w", "256"]
        prepare_video.main(["--video", str(video), "--data_path", str(scene), *sizes, *options])
        return caplog.text, capsys.readouterr().out

    return run


def test_prepare_video_again_changes_no_file(prepared, prepare_again):
    _, scene, _ = prepared
    before = {path: path.stat().st_mtime_ns for path in scene.rglob("*.n*")}
    log, _ = prepare_again()
    assert log.count("is up to date") == 4
    assert {path: path.stat().st_mtime_ns for path in scene.rglob("*.n*")} == before


@pytest.mark.nightly
def test_prepare_video_lost_file_reruns_its_stage_and_later_ones(prepared, prepare_again):
    _, scene, _ = prepared
    poses = np.load(scene / "dense" / "poses_bounds.npy")
    (scene / "dense" / "disp" / "00003.npy").unlink()
    log, _ = prepare_again()
    assert "== poses is up to date" in log
    assert "== depth is up to date" not in log
    assert "== flow is up to date" not in log  # outdated by the new frames of the depth stage
    assert (scene / "dense" / "disp" / "00003.npy").is_file()
    np.testing.assert_array_equal(np.load(scene / "dense" / "poses_bounds.npy"), poses)


def test_another_video_of_the_same_name_outdates_the_cameras(prepared):
    """Also one that is older than what was made of the first, as `mv` and `cp -p` leave it."""
    video, scene, _ = prepared
    stamp, before = scene / "dense/.prepared/cameras.json", video.stat()
    settings = json.loads(stamp.read_text())["settings"]
    stage = Stage("cameras", settings, lambda: "", lambda: [scene / "dense/poses_bounds.npy"])

    def is_current() -> bool:
        digest = digest_of_files([video.resolve()])
        return summary_if_current(stage, stamp, digest, video.stat().st_mtime) is not None

    assert is_current()
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns - 10**9))
    assert not is_current()
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert is_current()


@pytest.fixture
def views(prepared, tmp_path) -> Path:
    """Two held-out views that equal the distorted frames 3 and 4 of the video."""
    for frame in (3, 4):
        raw = read_image(prepared[1] / "frames" / f"{frame:05d}.png")
        mask = np.zeros(raw.shape[:2], np.uint8)
        mask[:, : raw.shape[1] // 2] = 255
        for name, picture in (("mv_images/{}/cam01.jpg", raw), ("mv_masks/{}/cam01.png", mask)):
            path = tmp_path / "views" / name.format(f"{frame:05d}")
            path.parent.mkdir(parents=True, exist_ok=True)
            iio.imwrite(path, picture, **({"quality": 99, "subsampling": 0} if path.suffix == ".jpg" else {}))
    return tmp_path / "views"


def test_views_are_undistorted_like_frames(prepared, prepare_again, views):
    _, scene, _ = prepared
    camera = camera_from_report(json.loads((scene / "dense" / "sfm.json").read_text())["lens"])
    raw, ideal = (read_image(scene / name / "00003.png") for name in ("frames", "dense/images"))
    np.testing.assert_array_equal(undistort_image(raw, camera), ideal)
    log, output = prepare_again("--views", str(views))
    assert log.count("is up to date") == 4
    assert "held-out views: 2" in output
    undistorted = read_image(scene / "dense/mv_images/00003/cam01.jpg").astype(int)
    assert np.abs(undistorted - ideal).mean() < 4.0  # JPEG of the given view
    mask = iio.imread(scene / "dense/mv_masks/00003/cam01.png")
    assert mask.shape == ideal.shape[:2]
    assert set(np.unique(mask)) == {0, 255}
    assert prepare_again("--views", str(views))[0].count("is up to date") == 5
    shutil.rmtree(views / "mv_images/00004")
    assert prepare_again("--views", str(views))[0].count("is up to date") == 4
    assert not (scene / "dense/mv_images/00004").exists()  # files of removed views are removed


def test_unusable_views_are_refused(prepared, prepare_again, views, tmp_path):
    _, scene, _ = prepared
    with pytest.raises(InputError, match="is not a folder"):
        list_views(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no mv_images/00000/cam01\.jpg"):
        list_views(scene)
    with pytest.raises(UsageError, match="are matched by frame number"):
        prepare_again("--views", str(views), "--fps", "5")
    copy = SceneFolder(tmp_path / "dense")
    shutil.copytree(scene / "dense", copy.root)
    iio.imwrite(views / "mv_images/00003/cam01.jpg", np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(InputError, match=r"00003/cam01\.jpg is 60x40, the video's frames are .* not a camera like"):
        undistort_views(views, copy, 1024)
    report = json.loads((copy.root / "sfm.json").read_text())
    skipped = report["source"] | {"indices": [0, 1, *range(3, 13)]}
    (copy.root / "sfm.json").write_text(json.dumps(report | {"source": skipped}))
    with pytest.raises(InputError, match="the video repeats frames, which were left out"):
        undistort_views(views, copy, 1024)
    shutil.copy(copy.root / "images" / "00011.png", copy.root / "images" / "00012.png")
    (copy.root / "images" / "00000.png").unlink()
    (copy.root / "sfm.json").write_text(json.dumps(report | {"left_out": ["00000.png"]}))
    with pytest.raises(InputError, match=r"frame 00000\.png has no camera"):
        undistort_views(views, copy, 1024)
