"""Video files: resuming, dividing frames among processes, encoding, full disks, contact sheets."""

import functools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from disk import file_size_limit
from filelock import FileLock
from nsff.distributed import ProcessGroup
from nsff.errors import InputError
from nsff.io import write_image
from nsff.novel_views import video_writer
from nsff.novel_views.video_writer import RenderedFrame, VideoFiles, write_contact_sheet, write_video
from nsff.write_queue import WriteQueue
from PIL import Image, ImageSequence


def files(folder: Path, n_frames: int, **options) -> VideoFiles:
    defaults = {"layers": ("rgb",), "images": ("png",), "videos": ("mp4",), "fps": 24.0} | options
    return VideoFiles(folder=folder, n_frames=n_frames, **defaults)


def grey(value: int, size: tuple[int, int] = (8, 8)) -> RenderedFrame:
    return RenderedFrame({"rgb": np.full((*size, 3), value, np.uint8)})


def test_mp4_of_odd_size_is_cropped_to_even(tmp_path):
    write_video(files(tmp_path, 3), lambda _: grey(200, (9, 15)), {})
    video = iio.imread(tmp_path / "video.mp4", plugin="FFMPEG")
    assert video.shape == (3, 8, 14, 3)
    assert abs(int(video.mean()) - 200) <= 2


def test_mp4_of_one_pixel_width_is_rejected(tmp_path):
    with pytest.raises(InputError, match=r"frames of 0x4 pixels are too small for a video; .*lower --render_factor"):
        write_video(files(tmp_path, 1), lambda _: grey(0, (4, 1)), {})


def test_mp4_and_gif_have_browser_formats_and_frame_rate(tmp_path):
    write_video(files(tmp_path, 5, videos=("mp4", "gif"), fps=12.5), lambda index: grey(50 * index), {})
    metadata = iio.immeta(tmp_path / "video.mp4", plugin="FFMPEG")
    assert metadata["codec"] == "h264"
    assert metadata["pix_fmt"].startswith("yuv420p")
    assert metadata["fps"] == pytest.approx(12.5)
    shades = iio.imread(tmp_path / "video.gif", index=None)[:, 0, 0, 0].astype(int)
    np.testing.assert_allclose(shades, [0, 50, 100, 150, 200], atol=2)
    assert iio.immeta(tmp_path / "video.gif")["duration"] == 80


def test_gif_durations_do_not_drift(tmp_path):
    write_video(files(tmp_path, 31, videos=("gif",), fps=30.0), lambda index: grey(8 * index), {})
    with Image.open(tmp_path / "video.gif") as gif:
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(gif)) == 1030  # not 31 times 33


def test_interrupted_render_resumes_at_the_next_frame(tmp_path):
    rendered = []

    def render(index: int) -> RenderedFrame:
        if index == 3 and rendered == [0, 1, 2]:
            raise RuntimeError
        rendered.append(index)
        return grey(10 * index)

    with pytest.raises(RuntimeError):
        write_video(files(tmp_path, 5), render, {"a": 1.5})
    assert len(list((tmp_path / "images").iterdir())) == 3
    rendered.append(-1)
    write_video(files(tmp_path, 5), render, {"a": 1.5})
    assert rendered == [0, 1, 2, -1, 3, 4]
    assert iio.imread(tmp_path / "video.mp4", plugin="FFMPEG").shape == (5, 8, 8, 3)


def test_frames_are_written_while_the_next_is_rendered(tmp_path, monkeypatch):
    """The third frame is rendered only once the first is being written by another thread."""
    writing = threading.Event()

    def write(path: Path, pixels: np.ndarray) -> None:
        assert threading.current_thread() is not threading.main_thread()
        writing.set()
        write_image(path, pixels)

    def render(index: int) -> RenderedFrame:
        assert index != 2 or writing.wait(10.0)
        return grey(10 * index)

    monkeypatch.setattr(video_writer, "write_image", write)
    write_video(files(tmp_path, 12, videos=()), render, {})
    assert [int(iio.imread(tmp_path / f"images/{index:03d}.png").mean()) for index in range(12)] == list(
        range(0, 120, 10)
    )


def test_queue_bounds_what_waits_and_raises_the_error_of_a_write():
    free, written, waited = threading.Event(), [], []

    def write(index: int) -> None:
        free.wait(10.0)
        written.append(index)

    def submit_all() -> None:
        with WriteQueue() as queue:
            for index in range(8):
                queue.submit(functools.partial(write, index))
                waited.append(index)

    thread = threading.Thread(target=submit_all)
    thread.start()
    thread.join(0.3)
    assert waited == [0, 1, 2, 3]  # the fifth waits for the first
    free.set()
    thread.join(10.0)
    assert sorted(written) == list(range(8))

    def fail() -> None:
        raise OSError("no space")

    def run(*writes: Callable[[], None], error: Exception | None = None) -> None:
        with WriteQueue() as queue:
            for write in writes:
                queue.submit(write)
            if error is not None:
                raise error

    done: list[int] = []
    with pytest.raises(OSError, match="no space"):
        run(fail, lambda: done.append(1))
    assert done == [1]
    with pytest.raises(ValueError, match="of the context"):
        run(fail, error=ValueError("of the context"))


def test_folder_that_another_run_writes_is_refused(tmp_path):
    other = FileLock(tmp_path / ".render.lock")
    with other, pytest.raises(InputError, match="render is being written by another run"):
        write_video(files(tmp_path / "render", 1), grey, {})
    write_video(files(tmp_path / "render", 1), grey, {})


def test_folder_with_other_settings_is_moved_aside(tmp_path, caplog):
    caplog.set_level("INFO", logger="nsff")
    folder = tmp_path / "render"
    write_video(files(folder, 5), grey, {"a": 1.5})
    (folder / "mine.txt").write_text("not written by the renderer")
    write_video(files(folder, 4), lambda index: grey(index + 100), {"a": 2.0})
    assert "render has other settings; it is kept as render-old1" in caplog.text
    assert iio.imread(folder / "images/003.png")[0, 0, 0] == 103
    assert iio.imread(folder / "video.mp4", plugin="FFMPEG").shape == (4, 8, 8, 3)
    assert {path.name for path in (tmp_path / "render-old1").iterdir()} == {
        "images",
        "video.mp4",
        "clip.json",
        "mine.txt",
    }
    write_video(files(folder, 4), grey, {"a": 3.0})
    assert (tmp_path / "render-old2").is_dir()
    assert iio.imread(tmp_path / "render-old2/images/003.png")[0, 0, 0] == 103


def test_added_layer_renders_only_incomplete_frames(tmp_path):
    write_video(files(tmp_path, 3), grey, {})
    rendered = []

    def render(index: int) -> RenderedFrame:
        rendered.append(index)
        frame = np.full((8, 8, 3), index, np.uint8)
        return RenderedFrame({"rgb": frame, "blend": frame})

    both = files(tmp_path, 3, layers=("rgb", "blend"))
    write_video(both, render, {})
    (tmp_path / "blend/001.png").unlink()
    write_video(both, render, {})
    assert rendered == [0, 1, 2, 1]
    assert (tmp_path / "blend.mp4").is_file()


def test_processes_get_disjoint_shards_of_the_missing_frames():
    shards = [ProcessGroup(rank, 3).shard([4, 5, 7, 8, 9]) for rank in range(3)]
    assert shards == [[4, 8], [5, 9], [7]]


PROCESS = """
import sys
from pathlib import Path
import numpy as np
from nsff.cli import run_script
from nsff.io import write_image
from nsff.novel_views import video_writer
from nsff.novel_views.video_writer import VideoFiles, RenderedFrame, write_video
from nsff.distributed import join_process_group
def main(argv):
    with join_process_group() as group:
        def render(index):
            (Path(argv[0]) / f"{index}-by-{group.rank}").touch()
            return RenderedFrame({"rgb": np.full((8, 8, 3), index, np.uint8)})
        write_video(VideoFiles(Path(argv[0]) / "render", 7, ("rgb",), ("png",), ("mp4",), 24.0), render, {}, group)
run_script(main)
"""


def test_two_processes_render_each_frame_once(tmp_path):
    """Started with torchrun's environment; the main process encodes the video of all frames."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2] / "nsff_exp")
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    runs = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in range(2)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    assert sorted(path.name for path in tmp_path.glob("*-by-*")) == [f"{k}-by-{k % 2}" for k in range(7)]
    assert iio.imread(tmp_path / "render/video.mp4", plugin="FFMPEG").shape == (7, 8, 8, 3)


@pytest.mark.parametrize(("limit", "n_frames"), [(2000, 3), (6000, 6)])
def test_full_disk_keeps_finished_frames_and_resumes(tmp_path, limit, n_frames):
    """The disk is full after three frames, or while the video is encoded; no partial file is left."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3), dtype=np.uint8)
    noise[:3] = 0  # small files

    def render(index: int) -> RenderedFrame:
        return RenderedFrame({"rgb": noise[index]})

    video = files(tmp_path / "render", 6)
    with file_size_limit(limit), pytest.raises(InputError, match=r"^cannot write to .*render"):
        write_video(video, render, {})
    assert len(list((tmp_path / "render/images").iterdir())) == n_frames
    assert not list(tmp_path.rglob("*partial*"))
    assert not (tmp_path / "render/video.mp4").exists()
    write_video(video, render, {})
    assert iio.imread(tmp_path / "render/video.mp4", plugin="FFMPEG").shape == (6, 40, 40, 3)


def test_write_video_to_a_file_path_is_rejected(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write to"):
        write_video(files(tmp_path / "file", 4), grey, {})


def test_contact_sheet_has_one_row_per_video(tmp_path):
    videos = [files(tmp_path / name, 11) for name in ("a", "b")]
    for video, size in zip(videos, [(90, 160), (360, 400)], strict=True):
        write_video(video, lambda index, size=size: grey(20 * index, size), {})
    write_contact_sheet(tmp_path / "sheet.png", videos)
    sheet = iio.imread(tmp_path / "sheet.png").astype(int)
    assert sheet.shape == (360, 6 * 320, 3)
    np.testing.assert_array_equal(sheet[90, 160::320, 0], [0, 40, 80, 120, 160, 200])
    np.testing.assert_array_equal(sheet[270, 100 : 6 * 200 : 200, 0], [0, 40, 80, 120, 160, 200])
    assert (sheet[270, 1200:] == 255).all()
