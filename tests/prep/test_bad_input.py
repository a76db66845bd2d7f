"""Bad input: one line that says what is wrong and where, and an exit status; nothing is written."""

import pickle
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from disk import list_files
from nsff.errors import InputError
from nsff.io import write_image
from nsff.prep.weights import read_weights
from script_runs import error_line, error_of, run_as_typed, run_main
from toy_frames import textured, write_frames, write_frames_of_two_sizes


def write_blank_frames(folder: Path) -> None:
    for k in range(12):
        write_image(folder / f"{k}.png", np.zeros((60, 80, 3), np.uint8))


def write_three_frames(folder: Path) -> None:
    for k in range(3):
        write_image(folder / f"{k}.png", textured(k))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_blank_frames, "12 of 12 frames are black or blank"),
        (write_frames_of_two_sizes, "07.png is 84x60, 00.png is 80x60"),
        (write_three_frames, "gives 3 of 3 frames, at least 10"),
        (lambda folder: folder.mkdir(), "holds no image (png, jpg"),
        (lambda folder: None, "is missing"),
    ],
)
def test_run_colmap_rejects_unusable_folder(write, message, tmp_path):
    write(tmp_path / "in")
    assert message in error_of("run_colmap.py", "--images", tmp_path / "in", "--data_path", tmp_path / "scene")
    assert not any((tmp_path / "scene").rglob("*.png"))


def write_text_file(path: Path) -> None:
    path.write_text("not a video")


def video_of(n_frames: int, frame: Callable[[int], np.ndarray]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        frames = np.stack([frame(k) for k in range(n_frames)])
        iio.imwrite(path, frames, plugin="FFMPEG", fps=10, macro_block_size=2)

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_text_file, "cannot be read as a video"),
        (lambda path: None, "is missing; give --video"),
        (video_of(3, textured), "gives 3 of 3 frames, at least 10"),
        (video_of(12, lambda k: np.zeros((120, 200, 3), np.uint8)), "12 of 12 frames are black or blank"),
        (video_of(12, textured), "no cameras could be found: frames must share textured static things"),
    ],
)
def test_prepare_video_rejects_unusable_video(write, message, tmp_path):
    write(tmp_path / "video.mp4")
    assert message in error_of("prepare_video.py", "--video", tmp_path / "video.mp4", "--data_path", tmp_path / "scene")
    assert not (tmp_path / "scene" / "dense" / "images").exists()


def test_run_colmap_does_not_replace_foreign_images(tmp_path):
    write_three_frames(tmp_path / "scene" / "dense" / "images")
    write_frames_of_two_sizes(tmp_path / "in")
    error = error_of("run_colmap.py", "--images", tmp_path / "in", "--data_path", tmp_path / "scene")
    assert "was not made by run_colmap.py" in error
    assert len(list((tmp_path / "scene" / "dense" / "images").iterdir())) == 3


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("save_poses_nerf.py", "holds no COLMAP model"),
        ("run_flows_video.py", "run run_midas.py --data_path"),
        ("run_midas.py", "no weights at"),
    ],
)
def test_scripts_out_of_order_name_missing_input(script, message, tmp_path):
    write_three_frames(tmp_path / "images")
    assert message in error_of(script, "--data_path", tmp_path)


def test_input_error_as_typed_is_one_line_with_status_1(tmp_path):
    write_text_file(tmp_path / "video.mp4")
    run = run_as_typed("prepare_video.py", "--video", tmp_path / "video.mp4", "--data_path", tmp_path / "scene")
    assert "video.mp4 cannot be read as a video" in error_line(run)


def test_scripts_without_images_write_nothing(scene):
    for path in (scene / "images").iterdir():
        path.unlink()
    before = list_files(scene)
    for script in ("save_poses_nerf.py", "run_midas.py", "run_flows_video.py"):
        error = error_of(script, "--data_path", scene)
        assert f"{scene / 'images'} holds no image (png, jpg" in error
        assert "; run run_colmap.py" in error
    assert list_files(scene) == before


@pytest.mark.parametrize("script", ["run_midas.py", "run_flows_video.py"])
def test_html_page_as_weights_is_refused_before_anything_is_written(script, scene, tmp_path):
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"<!doctype html>")
    before = list_files(scene)
    error = error_of(script, "--data_path", scene, "--model", weights)
    assert f"{weights} holds no weights" in error
    assert list_files(scene) == before


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", pickle.dumps(["a list"], protocol=2)])
def test_read_weights_rejects_broken_file(content, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"w\.pth holds no weights .*; run download_models\.py again"):
        read_weights(tmp_path / "w.pth")


def write_square_masks(folder: Path, size: tuple[int, int], inverted: bool) -> None:
    for k in range(12):
        mask = np.full(size, 255 * inverted, np.uint8)
        mask[10:30, 10:30] = 255 * (not inverted)
        write_image(folder / f"{k}.png", mask)


@pytest.mark.parametrize(
    ("size", "inverted", "message"),
    [
        ((120, 200), True, "cover 98% of the frames; white means moving: invert them (COLMAP and nerfstudio"),
        (
            (200, 120),
            False,
            "the mask of frame 00000 is 120x200, the frame is 200x120: their aspect ratios differ (turn",
        ),
        (
            (120, 160),
            False,
            "the mask of frame 00000 is 160x120, the frame is 200x120: their aspect ratios differ; give",
        ),
    ],
)
def test_unusable_masks_are_refused_before_the_long_part(size, inverted, message, tmp_path, monkeypatch):
    write_frames(tmp_path / "in")
    write_square_masks(tmp_path / "masks", size, inverted)
    monkeypatch.setattr("nsff.prep.capture.reconstruct", None)
    arguments = ("--images", tmp_path / "in", "--data_path", tmp_path / "scene", "--masks", tmp_path / "masks")
    assert message in error_of("run_colmap.py", *arguments)


def test_turned_semantic_masks_are_refused_before_the_long_part(scene, tmp_path):
    write_square_masks(tmp_path / "masks", (128, 72), inverted=False)
    before = list_files(scene)
    error = error_of("run_flows_video.py", "--data_path", scene, "--flow", "dis", "--semantic", tmp_path / "masks")
    assert "the mask of 00000.png is 72x128, the frame is 128x72: their aspect ratios differ (turned" in error
    assert list_files(scene) == before


@pytest.mark.parametrize(("name", "available", "expected"), [("cpu", True, "cpu"), ("auto", True, "cuda")])
def test_run_colmap_device_reaches_mask_rcnn(name, available, expected, tmp_path, monkeypatch):
    class LoadedError(Exception):
        pass

    def load(device):
        raise LoadedError(device.type)

    write_frames(tmp_path / "in")
    monkeypatch.setattr("torch.cuda.is_available", lambda: available)
    monkeypatch.setattr("nsff.prep.capture.load_mask_rcnn_if_present", load)
    arguments = ("--images", tmp_path / "in", "--data_path", tmp_path / "scene", "--device", name)
    with pytest.raises(LoadedError, match=expected):
        run_main("run_colmap.py", *arguments)


def test_device_cuda_without_gpu_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    error = error_of("run_colmap.py", "--images", tmp_path, "--data_path", tmp_path, "--device", "cuda")
    assert "torch finds no CUDA device; use --device cpu" in error
