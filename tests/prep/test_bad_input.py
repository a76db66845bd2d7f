"""Bad input: one line that says what and where, a status, nothing half-written."""

import importlib
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
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


def run(script: str, *arguments: str | Path, most_bytes: int | None = None) -> subprocess.CompletedProcess:
    """Run a script; `most_bytes`: no file can become larger, as on a full disk."""

    def limit() -> None:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.run(
        command, cwd=SCRIPTS, capture_output=True, text=True, timeout=300, check=False, preexec_fn=limit
    )


def refuse(script: str, *arguments: str | Path) -> str:
    """What a script says that cannot go on (that it says so in one line, with a status, is tested below)."""
    with pytest.raises(InputError) as caught:
        importlib.import_module(script.removesuffix(".py")).main([str(argument) for argument in arguments])
    return str(caught.value)


def the_error(out: subprocess.CompletedProcess, status: int = 1) -> str:
    assert out.returncode == status, out.stderr[-2000:]
    assert "Traceback" not in out.stderr
    errors = [line for line in out.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    return errors[0]


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def blank_frames(folder: Path) -> None:
    for k in range(12):
        write_image(folder / f"{k}.png", np.zeros((60, 80, 3), np.uint8))


def two_sizes(folder: Path) -> None:
    for k in range(12):
        write_image(folder / f"{k:02d}.png", textured(k, 60, 80 if k < 7 else 84))


def three_frames(folder: Path) -> None:
    for k in range(3):
        write_image(folder / f"{k}.png", textured(k))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (blank_frames, "12 of 12 frames are black or blank"),
        (two_sizes, "07.png is 84x60, 00.png is 80x60"),
        (three_frames, "gives 3 frames, at least 10"),
        (lambda folder: folder.mkdir(), "holds no png or jpg image"),
        (lambda folder: None, "is missing"),
    ],
)
def test_bad_folders(make, words, tmp_path):
    make(tmp_path / "in")
    assert words in refuse("run_colmap.py", "--images", tmp_path / "in", "--data_path", tmp_path / "scene")
    assert not any((tmp_path / "scene").rglob("*.png"))


def text_file(path: Path) -> None:
    path.write_text("not a video")


def movie(n_frames: int, picture: Callable[[int], np.ndarray]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        frames = np.stack([picture(k) for k in range(n_frames)])
        iio.imwrite(path, frames, plugin="FFMPEG", fps=10, macro_block_size=2)

    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (text_file, "cannot be read as a video"),
        (lambda path: None, "is missing; give --video"),
        (movie(3, textured), "gives 3 frames, at least 10"),
        (movie(12, lambda k: np.zeros((120, 200, 3), np.uint8)), "12 of 12 frames are black or blank"),
        (movie(12, textured), "no cameras could be found: frames must share textured static things"),
    ],
)
def test_bad_videos(make, words, tmp_path):
    make(tmp_path / "clip.mp4")
    assert words in refuse("prepare_video.py", "--video", tmp_path / "clip.mp4", "--data_path", tmp_path / "scene")
    assert not (tmp_path / "scene" / "dense" / "images").exists()


def test_frames_of_others_are_spared(tmp_path):
    three_frames(tmp_path / "scene" / "dense" / "images")
    two_sizes(tmp_path / "in")
    error = refuse("run_colmap.py", "--images", tmp_path / "in", "--data_path", tmp_path / "scene")
    assert "was not made by run_colmap.py" in error
    assert len(list((tmp_path / "scene" / "dense" / "images").iterdir())) == 3


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("save_poses_nerf.py", "holds no COLMAP model"),
        ("run_flows_video.py", "folders images_<W>x<H>"),
        ("run_midas.py", "no weights at"),
    ],
)
def test_stages_out_of_order(script, words, tmp_path):
    three_frames(tmp_path / "images")
    assert words in refuse(script, "--data_path", tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--video", "a.mp4"], ["--data_path", "x"], ["--data_path", "x", "--video", "a", "--images", "b"],
     ["--data_path", "x", "--video", "a", "--fps", "many"], ["--data_path", "x", "--images", "a", "--fps", "5"]],
)  # fmt: skip
def test_wrong_command_lines(arguments):
    parser = Parser(None)
    parser.add_argument("--data_path", required=True)
    add_capture(parser)
    with pytest.raises(UsageError):
        capture_settings(parser.parse_args(arguments))


def test_what_is_wrong_is_one_line(tmp_path):
    text_file(tmp_path / "clip.mp4")
    out = run("prepare_video.py", "--video", tmp_path / "clip.mp4", "--data_path", tmp_path / "scene")
    assert "clip.mp4 cannot be read as a video" in the_error(out)


def test_a_wrong_command_line_is_one_line():
    out = run("run_colmap.py", "--data_path", "x", "--fps", "many")
    assert "--fps: 'many' is not 0.01 to 1000; see --help" in the_error(out, status=2)
    assert out.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [(["--resize", "144"], "resize_height", 144), (["--input_flow", "512"], "input_flow_w", 512),
     (["--epi_thres", "2"], "epi_threshold", "2"), (["--mix"], "mixed_precision", True)],
)  # fmt: skip
def test_options_may_be_abbreviated(words, name, value):
    parser = Parser(None)
    add_depth(parser, model_option=False)
    add_flow(parser)
    assert getattr(parser.parse_args(words), name) == value


def test_an_ambiguous_option_is_one_line():
    out = run("run_flows_video.py", "--data_path", "x", "--input_semantic", "960")
    assert "--input_semantic could match --input_semantic_w, --input_semantic_h; see --help" in the_error(out, status=2)
    assert out.stderr.count("\n") == 1


@pytest.fixture
def scene(small_scene: Path, tmp_path: Path) -> Path:
    """A scene with everything."""
    folder = shutil.copytree(small_scene, tmp_path / "scene")
    images = "".join(f"{k + 1} 1 0 0 0 0 0 0 1 {k:05d}.png\n64 36 1\n" for k in range(12))
    write_text(folder / "sparse" / "cameras.txt", "1 PINHOLE 128 72 109 109 64 36\n")
    write_text(folder / "sparse" / "images.txt", images)
    write_text(
        folder / "sparse" / "points3D.txt", "1 0 0 5 255 255 255 0.1 " + "".join(f"{k + 1} 0 " for k in range(12))
    )
    return folder


def test_abbreviated_message_options_have_effect(scene):
    assert "wrote " in run("save_poses_nerf.py", "--data_path", scene).stderr
    assert run("save_poses_nerf.py", "--data_path", scene, "--qui").stderr == ""
    shutil.rmtree(scene / "sparse")
    assert "Traceback" in run("save_poses_nerf.py", "--data_path", scene, "--verb").stderr


def test_a_model_without_images(scene):
    for path in (scene / "images").iterdir():
        path.unlink()
    before = files(scene)
    for script in ("save_poses_nerf.py", "run_midas.py", "run_flows_video.py"):
        error = refuse(script, "--data_path", scene)
        assert f"{scene / 'images'} holds no png or jpg image; run run_colmap.py" in error
    assert files(scene) == before


@pytest.mark.parametrize("script", ["run_midas.py", "run_flows_video.py"])
def test_a_page_instead_of_weights(script, scene, tmp_path):
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"<!doctype html>")
    before = files(scene)
    error = refuse(script, "--data_path", scene, "--model", weights)
    assert f"{weights} holds no weights" in error
    assert files(scene) == before


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", pickle.dumps(["a list"])])
def test_unreadable_weights(content, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"w\.pth holds no weights .*; run download_models\.py again"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("arguments", "most_bytes"),
    [
        (("save_poses_nerf.py",), 500),
        (("run_midas.py", "--depth", "multiview", "--resize_height", "36"), 8_000),
        (("run_flows_video.py", "--flow", "dis", "--input_flow_w", "128"), 10_000),
    ],
)
def test_a_full_disk(arguments, most_bytes, scene):
    before = files(scene)
    error = the_error(run(*arguments, "--data_path", scene, most_bytes=most_bytes))
    assert "cannot write" in error
    assert not [path for path in files(scene) if "partial" in path.name]
    assert before <= files(scene)
    assert all(path.read_bytes() for path in files(scene))  # none is empty
    assert run(*arguments, "--data_path", scene).returncode == 0  # there is room again


def test_no_room_for_what_colmap_notes_down(tmp_path, monkeypatch):
    for k in range(12):
        write_image(tmp_path / "in" / f"{k:02d}.png", textured(k))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    error = refuse("run_colmap.py", "--images", tmp_path / "in", "--data_path", tmp_path / "scene")
    assert "needs 7 MB of disk, 1 MB are free" in error
    assert not list((tmp_path / "scene").glob(".partial*"))


def test_two_runs_on_one_scene(tmp_path):
    two_sizes(tmp_path / "in")
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / ".partial-of-the-other").mkdir()
    with FileLock(tmp_path / "scene" / ".lock"):
        error = refuse("run_colmap.py", "--images", tmp_path / "in", "--data_path", tmp_path / "scene")
    assert "another run is making the cameras" in error
    assert (tmp_path / "scene" / ".partial-of-the-other").is_dir()


def test_a_full_disk_while_frames_are_written(tmp_path):
    for k in range(12):
        write_image(tmp_path / "in" / f"{k:02d}.png", textured(k))
    out = run("run_colmap.py", "--images", tmp_path / "in", "--data_path", tmp_path / "scene", most_bytes=20_000)
    assert "cannot write" in the_error(out)
    assert files(tmp_path / "scene") == set()
