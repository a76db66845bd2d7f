"""From a video to a scene that training reads, as typed; run again, and after a stage was lost."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pycolmap
import pytest
import torch
from nsff.config import load_config
from nsff.scene import load_scene
from nsff_prep.cameras import load_cameras
from nsff_prep.demo_scene import Settings, write_demo_scene
from nsff_prep.folder import SceneFolder, list_images, read_image
from nsff_prep.sfm import SfmResult, SfmSettings, is_whole, reconstruct, undistort
from skimage.transform import SimilarityTransform

SCRIPTS = Path(__file__).resolve().parents[2] / "nsff_scripts"


def prepare(clip: Path, scene: Path, *more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "prepare_video.py", "--video", str(clip), "--data_path", str(scene)]
    return subprocess.run(
        [*command, "--resize_height", "72", "--input_flow_w", "256", *more],
        cwd=SCRIPTS, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """(clip, scene, what was printed): the built-in room, seen by a hand-held camera; its truth is beside the clip."""
    folder = tmp_path_factory.mktemp("video")
    write_demo_scene(folder / "truth", Settings(160, 90, n_frames=12, path="smooth"))
    frames = [read_image(path) for path in list_images(folder / "truth" / "images", "")]
    iio.imwrite(folder / "a clip.mp4", np.stack(frames), plugin="FFMPEG", fps=10, macro_block_size=2, quality=10)
    out = prepare(folder / "a clip.mp4", folder / "my scene")
    assert out.returncode == 0, out.stderr[-2000:]
    return folder / "a clip.mp4", folder / "my scene", out.stderr


def test_all_files_are_there_and_readable(prepared):
    _, scene, printed = prepared
    assert "cameras: 12 of 12 frames" in printed
    config = load_config(["--expname", "x", "--end_frame", "12", "--final_height", "72"])
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
    first, again = (reconstruct(scene / "frames", None, SfmSettings(features=500)) for _ in range(2))
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
    assert is_whole(tmp_path / "again", result)
    for name in ("images/00004.png", "sparse/images.bin"):
        path = tmp_path / "again" / name
        content = path.read_bytes()
        path.write_bytes(content[:-2] if path.suffix == ".png" else b"")
        assert not is_whole(tmp_path / "again", result)
        path.write_bytes(content)
    (tmp_path / "again" / "images" / "00007.png").unlink()
    assert not is_whole(tmp_path / "again", result)


def test_again_nothing_is_made_twice(prepared):
    clip, scene, _ = prepared
    before = {path: path.stat().st_mtime_ns for path in scene.rglob("*.n*")}
    out = prepare(clip, scene)
    assert out.returncode == 0
    assert out.stderr.count("is done") == 4
    assert {path: path.stat().st_mtime_ns for path in scene.rglob("*.n*")} == before


def test_what_was_lost_is_made_again(prepared):
    clip, scene, _ = prepared
    poses = np.load(scene / "dense" / "poses_bounds.npy")
    (scene / "dense" / "disp" / "00003.npy").unlink()
    out = prepare(clip, scene)
    assert out.returncode == 0
    assert "== poses is done" in out.stderr
    assert "== depth is done" not in out.stderr
    assert "== flow is done" not in out.stderr  # it was made from the frames that depth makes anew
    assert (scene / "dense" / "disp" / "00003.npy").is_file()
    np.testing.assert_array_equal(np.load(scene / "dense" / "poses_bounds.npy"), poses)
