"""Clips on the disk: they go on where they stopped, share their frames, and survive a full disk."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from nsff.distributed import ProcessGroup
from nsff.errors import InputError
from nsff.novel_views.video_writer import RenderedFrame, VideoFiles, write_contact_sheet, write_video
from nsff.rendering.visualize import Ranges, _depth_picture, flow_picture
from PIL import Image, ImageSequence
from torch import tensor


def files(folder: Path, n_frames: int, **options) -> VideoFiles:
    given = {"layers": ("rgb",), "images": ("png",), "videos": ("mp4",), "fps": 24.0} | options
    return VideoFiles(folder=folder, n_frames=n_frames, **given)


def grey(value: int, size: tuple[int, int] = (8, 8)) -> RenderedFrame:
    return RenderedFrame({"rgb": np.full((*size, 3), value, np.uint8)})


def test_odd_sizes(tmp_path):
    write_video(files(tmp_path, 3), lambda _: grey(200, (9, 15)), {})
    clip = iio.imread(tmp_path / "video.mp4", plugin="FFMPEG")
    assert clip.shape == (3, 8, 14, 3)
    assert abs(int(clip.mean()) - 200) <= 2
    with pytest.raises(InputError, match="frames of 0x4 make no video; lower --render_factor"):
        write_video(files(tmp_path / "thin", 1), lambda _: grey(0, (4, 1)), {})


def test_videos_play_in_a_browser(tmp_path):
    """h264 in yuv420p, at the wanted pace; a gif as well."""
    write_video(files(tmp_path, 5, videos=("mp4", "gif"), fps=12.5), lambda index: grey(50 * index), {})
    about = iio.immeta(tmp_path / "video.mp4", plugin="FFMPEG")
    assert about["codec"] == "h264"
    assert about["pix_fmt"].startswith("yuv420p")
    assert about["fps"] == pytest.approx(12.5)
    shades = iio.imread(tmp_path / "video.gif", index=None)[:, 0, 0, 0].astype(int)
    np.testing.assert_allclose(shades, [0, 50, 100, 150, 200], atol=2)
    assert iio.immeta(tmp_path / "video.gif")["duration"] == 80
    write_video(files(tmp_path / "b", 31, videos=("gif",), fps=30.0), lambda index: grey(8 * index), {})
    with Image.open(tmp_path / "b/video.gif") as gif:
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(gif)) == 1030  # not 31 times 33


def test_a_clip_goes_on_where_it_stopped(tmp_path):
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


def test_other_settings_start_anew_and_delete_nothing(tmp_path, caplog):
    caplog.set_level("INFO")
    clip = tmp_path / "clip"
    write_video(files(clip, 5), grey, {"a": 1.5})
    (clip / "mine.txt").write_text("no part of the clip")
    write_video(files(clip, 4), lambda index: grey(index + 100), {"a": 2.0})
    assert "clip has other settings; it is kept as clip-old1" in caplog.text
    assert iio.imread(clip / "images/003.png")[0, 0, 0] == 103
    assert iio.imread(clip / "video.mp4", plugin="FFMPEG").shape == (4, 8, 8, 3)
    assert {path.name for path in (tmp_path / "clip-old1").iterdir()} == {
        "images",
        "video.mp4",
        "clip.json",
        "mine.txt",
    }
    write_video(files(clip, 4), grey, {"a": 3.0})
    assert (tmp_path / "clip-old2").is_dir()
    assert iio.imread(tmp_path / "clip-old2/images/003.png")[0, 0, 0] == 103


def test_only_missing_files_are_made(tmp_path):
    """Another layer or format later: all frames get it, those that have everything are not rendered again."""
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


def test_workers_share_what_is_missing():
    shares = [ProcessGroup(rank, 3).shard([4, 5, 7, 8, 9]) for rank in range(3)]
    assert shares == [[4, 8], [5, 9], [7]]


WORKER = """
import sys
from pathlib import Path
import numpy as np
from nsff.novel_views.video_writer import VideoFiles, RenderedFrame, write_video
from nsff.distributed import join_process_group
with join_process_group() as group:
    def render(index):
        (Path(sys.argv[1]) / f"{index}-by-{group.rank}").touch()
        return RenderedFrame({"rgb": np.full((8, 8, 3), index, np.uint8)})
    write_video(VideoFiles(Path(sys.argv[1]) / "clip", 7, ("rgb",), ("png",), ("mp4",), 24.0), render, {}, group)
"""


def test_two_processes_render_one_clip(tmp_path):
    """As torchrun starts them: each frame once, the video with all of them by the first."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2] / "nsff_exp")
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    runs = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in range(2)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    assert sorted(path.name for path in tmp_path.glob("*-by-*")) == [f"{k}-by-{k % 2}" for k in range(7)]
    assert iio.imread(tmp_path / "clip/video.mp4", plugin="FFMPEG").shape == (7, 8, 8, 3)


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from nsff.novel_views.video_writer import VideoFiles, RenderedFrame, write_video
from nsff.cli import run_script
limit = int(sys.argv[2])
def main(_):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    noise = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3), dtype=np.uint8)
    noise[:3] = 0  # small files
    files = VideoFiles(Path(sys.argv[1]), 6, ("rgb",), ("png",), ("mp4",), 24.0)
    write_video(files, lambda k: RenderedFrame({"rgb": noise[k]}), {})
run_script(main)
"""


@pytest.mark.parametrize(("limit", "n_frames"), [(2000, 3), (6000, 6)])
def test_a_full_disk_keeps_what_is_done(tmp_path, limit, n_frames):
    """No byte beyond a limit can be written: frames before stay, no half file, one line; then it goes on."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / "nsff_exp")}

    def run(limit: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "clip"), str(limit)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    out = run(limit)
    assert out.returncode == 1
    assert out.stderr.splitlines()[-1].startswith("error: cannot write to")
    assert "Traceback" not in out.stderr
    assert len(list((tmp_path / "clip/images").iterdir())) == n_frames
    assert not list(tmp_path.rglob("*partial*"))
    assert not (tmp_path / "clip/video.mp4").exists()
    out = run(10**7)
    assert out.returncode == 0, out.stderr
    assert iio.imread(tmp_path / "clip/video.mp4", plugin="FFMPEG").shape == (6, 40, 40, 3)


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write to"):
        write_video(files(tmp_path / "file", 4), grey, {})


def test_sheet_has_a_row_a_clip(tmp_path):
    clips = [files(tmp_path / name, 11) for name in ("a", "b")]
    for clip, size in zip(clips, [(90, 160), (360, 400)], strict=True):
        write_video(clip, lambda index, size=size: grey(20 * index, size), {})
    write_contact_sheet(tmp_path / "sheet.png", clips)
    sheet = iio.imread(tmp_path / "sheet.png").astype(int)
    assert sheet.shape == (360, 6 * 320, 3)
    np.testing.assert_array_equal(sheet[90, 160::320, 0], [0, 40, 80, 120, 160, 200])
    np.testing.assert_array_equal(sheet[270, 100 : 6 * 200 : 200, 0], [0, 40, 80, 120, 160, 200])
    assert (sheet[270, 1200:] == 255).all()


def test_colour_maps_have_one_range():
    """The same distance and the same speed look the same in every frame."""
    ranges = Ranges(min_disparity=0.1, max_disparity=0.5, max_flow=0.1)
    first, second = _depth_picture(tensor([[0.1, 0.3, 0.5]]), ranges), _depth_picture(tensor([[0.3, 0.3, 0.9]]), ranges)
    np.testing.assert_array_equal(first[0, 1], second[0, 0])
    np.testing.assert_array_equal(first[0, 2], second[0, 2])  # beyond the range: its end
    assert first[0, 0].sum() < first[0, 1].sum() < first[0, 2].sum()  # near is bright
    slow, fast = (flow_picture(tensor([[[1.0, 0.0], [0.0, 0.0], [x, 0.0]]]), max_flow=5.0) for x in (2.0, 50.0))
    np.testing.assert_array_equal(slow[0, :2], fast[0, :2])
    np.testing.assert_array_equal(slow[0, 1], [255, 255, 255])
    assert slow[0, 0].min() > slow[0, 2].min() > fast[0, 2].min()
