"""Bad input and full disks: one line that says what is wrong and where, an exit status, no partial files."""

import contextlib
import importlib
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
from filelock import FileLock
from nsff.cli import Parser
from nsff.errors import InputError, UsageError
from nsff.io import write_image, write_text
from nsff.prep.options import add_capture, add_depth, add_flow, capture_settings
from nsff.prep.weights import read_weights
from toy_frames import textured

SCRIPTS = Path(__file__).resolve().parents[2] / "nsff_scripts"


def run_as_typed(script: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, timeout=300, check=False)


def run_main(script: str, *arguments: str | Path) -> None:
    importlib.import_module(script.removesuffix(".py")).main([str(argument) for argument in arguments])


def error_of(script: str, *arguments: str | Path) -> str:
    """Run the main function of a script that fails, and return its error message."""
    with pytest.raises(InputError) as caught:
        run_main(script, *arguments)
    return str(caught.value)


def error_line(run: subprocess.CompletedProcess, status: int = 1) -> str:
    """The error of a failed process, checked to be a single line."""
    assert run.returncode == status, run.stderr[-2000:]
    assert "Traceback" not in run.stderr
    errors = [line for line in run.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    return errors[0]


@contextlib.contextmanager
def file_size_limit(max_bytes: int) -> Iterator[None]:
    """Let no file grow beyond a size, which fails like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def list_files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def write_blank_frames(folder: Path) -> None:
    for k in range(12):
        write_image(folder / f"{k}.png", np.zeros((60, 80, 3), np.uint8))


def write_frames(folder: Path) -> None:
    for k in range(12):
        write_image(folder / f"{k:02d}.png", textured(k))


def write_frames_of_two_sizes(folder: Path) -> None:
    for k in range(12):
        write_image(folder / f"{k:02d}.png", textured(k, 60, 80 if k < 7 else 84))


def write_three_frames(folder: Path) -> None:
    for k in range(3):
        write_image(folder / f"{k}.png", textured(k))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_blank_frames, "12 of 12 frames are black or blank"),
        (write_frames_of_two_sizes, "07.png is 84x60, 00.png is 80x60"),
        (write_three_frames, "gives 3 frames, at least 10"),
        (lambda folder: folder.mkdir(), "holds no png or jpg image"),
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
        (video_of(3, textured), "gives 3 frames, at least 10"),
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


@pytest.mark.parametrize(
    "arguments",
    [[], ["--video", "a.mp4"], ["--data_path", "x"], ["--data_path", "x", "--video", "a", "--images", "b"],
     ["--data_path", "x", "--video", "a", "--fps", "many"], ["--data_path", "x", "--images", "a", "--fps", "5"]],
)  # fmt: skip
def test_capture_options_reject_missing_or_contradictory_ones(arguments):
    parser = Parser(None)
    parser.add_argument("--data_path", required=True)
    add_capture(parser)
    with pytest.raises(UsageError):
        capture_settings(parser.parse_args(arguments))


def test_input_error_as_typed_is_one_line_with_status_1(tmp_path):
    write_text_file(tmp_path / "video.mp4")
    run = run_as_typed("prepare_video.py", "--video", tmp_path / "video.mp4", "--data_path", tmp_path / "scene")
    assert "video.mp4 cannot be read as a video" in error_line(run)


def test_usage_error_as_typed_is_one_line_with_status_2():
    run = run_as_typed("run_colmap.py", "--data_path", "x", "--fps", "many")
    assert "--fps: 'many' is not 0.01 to 1000; see --help" in error_line(run, status=2)
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [(["--resize", "144"], "resize_height", 144), (["--input_flow", "512"], "input_flow_w", 512),
     (["--epi_thres", "2"], "epi_threshold", "2"), (["--mix"], "mixed_precision", True)],
)  # fmt: skip
def test_options_accept_unambiguous_abbreviation(arguments, name, value):
    parser = Parser(None)
    add_depth(parser, model_option=False)
    add_flow(parser)
    assert getattr(parser.parse_args(arguments), name) == value


def test_ambiguous_abbreviation_names_candidates():
    with pytest.raises(UsageError, match="--input_semantic could match --input_semantic_w, --input_semantic_h; see"):
        run_main("run_flows_video.py", "--data_path", "x", "--input_semantic", "960")


@pytest.fixture
def scene(small_scene: Path, tmp_path: Path) -> Path:
    """A scene with all files, and a COLMAP model."""
    folder = shutil.copytree(small_scene, tmp_path / "scene")
    images = "".join(f"{k + 1} 1 0 0 0 0 0 0 1 {k:05d}.png\n64 36 1\n" for k in range(12))
    write_text(folder / "sparse" / "cameras.txt", "1 PINHOLE 128 72 109 109 64 36\n")
    write_text(folder / "sparse" / "images.txt", images)
    write_text(
        folder / "sparse" / "points3D.txt", "1 0 0 5 255 255 255 0.1 " + "".join(f"{k + 1} 0 " for k in range(12))
    )
    return folder


def test_abbreviated_quiet_and_verbose_as_typed_have_effect(scene):
    assert run_as_typed("save_poses_nerf.py", "--data_path", scene, "--qui").stderr == ""
    shutil.rmtree(scene / "sparse")
    assert "Traceback" in run_as_typed("save_poses_nerf.py", "--data_path", scene, "--verb").stderr


def test_scripts_without_images_write_nothing(scene):
    for path in (scene / "images").iterdir():
        path.unlink()
    before = list_files(scene)
    for script in ("save_poses_nerf.py", "run_midas.py", "run_flows_video.py"):
        error = error_of(script, "--data_path", scene)
        assert f"{scene / 'images'} holds no png or jpg image; run run_colmap.py" in error
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


@pytest.mark.parametrize(
    ("arguments", "max_bytes"),
    [
        (("save_poses_nerf.py",), 500),
        (("run_midas.py", "--depth", "multiview", "--resize_height", "36"), 8_000),
        (("run_flows_video.py", "--flow", "dis", "--input_flow_w", "128"), 10_000),
    ],
)
def test_full_disk_leaves_no_partial_file_and_second_run_succeeds(arguments, max_bytes, scene):
    before = list_files(scene)
    with file_size_limit(max_bytes):
        error = error_of(*arguments, "--data_path", scene)
    assert "cannot write" in error
    assert not [path for path in list_files(scene) if "partial" in path.name]
    assert before <= list_files(scene)
    assert all(path.read_bytes() for path in list_files(scene))  # none is empty
    run_main(*arguments, "--data_path", scene)


def test_full_disk_while_frames_are_written_leaves_no_file(tmp_path):
    write_frames(tmp_path / "in")
    with file_size_limit(20_000):
        error = error_of("run_colmap.py", "--images", tmp_path / "in", "--data_path", tmp_path / "scene")
    assert "cannot write" in error
    assert list_files(tmp_path / "scene") == set()


def test_run_colmap_without_room_for_database_is_refused(tmp_path, monkeypatch):
    write_frames(tmp_path / "in")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    error = error_of("run_colmap.py", "--images", tmp_path / "in", "--data_path", tmp_path / "scene")
    assert "needs 7 MB of disk, 1 MB are free" in error
    assert not list((tmp_path / "scene").glob(".partial*"))


def test_second_run_on_locked_scene_is_refused(tmp_path):
    write_frames_of_two_sizes(tmp_path / "in")
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / ".partial-of-first-run").mkdir()
    with FileLock(tmp_path / "scene" / ".lock"):
        error = error_of("run_colmap.py", "--images", tmp_path / "in", "--data_path", tmp_path / "scene")
    assert "another run is making the cameras" in error
    assert (tmp_path / "scene" / ".partial-of-first-run").is_dir()


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
