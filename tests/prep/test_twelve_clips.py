"""Twelve clips of the built-in scene, each as another device would write it, and the cameras found from each.

The table: pytest -n0 -s -m nightly tests/prep/test_twelve_clips.py
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from made_clips import H264, ffmpeg, to_hdr
from nsff.demo.scene import DemoSettings, write_demo_scene
from nsff.prep.capture import CaptureSettings, make_cameras
from nsff.prep.poses_bounds import load_cameras, save_poses
from nsff.prep.video import FrameSource
from nsff.scene_folder import SceneFolder
from skimage.transform import SimilarityTransform

pytestmark = pytest.mark.nightly
N_FRAMES = 24  # of each clip; the scene has twice as many, for clips of two fields or a variable rate
FINE = (*H264, "-crf", "16")
MAX_FOCAL_ERROR, MAX_CENTRE_ERROR = 0.01, 0.004  # of the focal length; of the spread of the centres, root mean square
MAX_CENTRE_ERROR_OF_FIELDS = 0.008  # every second row of a frame is interpolated

Frames = tuple[str, ...]  # ffmpeg's options to read frames
Clip = tuple[Path, dict[str, float]]  # a video, and how its frames are chosen


@dataclasses.dataclass(frozen=True)
class Scene:
    """The built-in scene: its folder, and ffmpeg's options to read every second frame, or all, at a rate."""

    folder: Path

    def half(self, rate: str = "24") -> Frames:
        return ("-framerate", rate, "-i", str(self.folder / "half" / "%05d.png"))

    def all(self, rate: str = "48") -> Frames:
        return ("-framerate", rate, "-i", str(self.folder / "images" / "%05d.png"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    folder = tmp_path_factory.mktemp("truth") / "dense"
    write_demo_scene(folder, DemoSettings(192, 108, n_frames=2 * N_FRAMES, path="smooth"))
    (folder / "half").mkdir()
    for k in range(N_FRAMES):
        (folder / "half" / f"{k:05d}.png").symlink_to(folder / "images" / f"{2 * k:05d}.png")
    return Scene(folder)


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    rows = [f"{'clip':28s} registered  focal error  centre error"]
    yield rows
    print("", *rows, sep="\n")


def no_audio(scene: Scene, folder: Path) -> Clip:
    ffmpeg(*scene.half(), *FINE, folder / "clip.mp4")
    return folder / "clip.mp4", {}


def hevc_turned(scene: Scene, folder: Path) -> Clip:
    hevc = ("-c:v", "libx265", "-x265-params", "log-level=none", "-crf", "14", "-pix_fmt", "yuv420p10le")
    ffmpeg(*scene.half(), "-vf", "transpose=clock", *hevc, folder / "stored.mov")
    ffmpeg("-display_rotation", "90", "-i", folder / "stored.mov", "-c", "copy", folder / "IMG_0001.MOV")
    return folder / "IMG_0001.MOV", {}


def hlg(scene: Scene, folder: Path) -> Clip:
    tags = ("-color_primaries", "bt2020", "-color_trc", "arib-std-b67", "-colorspace", "bt2020nc")
    hevc = ("-c:v", "libx265", "-x265-params", "log-level=none", "-crf", "14")
    ffmpeg(*scene.half(), "-vf", to_hdr("arib-std-b67"), *hevc, *tags, folder / "hlg.mov")
    return folder / "hlg.mov", {}


def old_phone(scene: Scene, folder: Path) -> Clip:
    sound = ("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac")
    ffmpeg(*sound[:4], *scene.half(), *sound[4:], "-c:v", "mpeg4", "-q:v", "2", folder / "clip.3gp")
    return folder / "clip.3gp", {}


def browser(scene: Scene, folder: Path) -> Clip:
    options = ("-vf", "setpts=N*42/1000/TB", "-fps_mode", "passthrough", "-c:v", "libvpx", "-b:v", "8M")
    ffmpeg(*scene.half("1000"), *options, folder / "clip.webm")
    return folder / "clip.webm", {}


def avchd(scene: Scene, folder: Path) -> Clip:
    fields = ("-vf", "tinterlace=interleave_top,setfield=tff", *FINE, "-flags", "+ilme+ildct")
    ffmpeg(*scene.all("50"), *fields, folder / "00001.mts")
    return folder / "00001.mts", {}


def wide_pixels(scene: Scene, folder: Path) -> Clip:
    ffmpeg(*scene.half(), "-vf", "scale=iw*3/4:ih:flags=lanczos,setsar=4/3", *FINE, folder / "hdv.mp4")
    return folder / "hdv.mp4", {}


def variable_rate(scene: Scene, folder: Path) -> Clip:
    """Every second frame for a second, then all, twice as often."""
    chosen = f"select='not(mod(n,2))+gte(n,{N_FRAMES})',settb=1/600"
    times = f"setpts='if(lt(N,{N_FRAMES // 2}),N*50,(N+{N_FRAMES // 2})*25)'"
    options = ("-vf", f"{chosen},{times}", "-fps_mode", "passthrough", "-enc_time_base", "1/600")
    ffmpeg(*scene.all("24"), *options, *FINE, folder / "vfr.mp4")
    return folder / "vfr.mp4", {"fps": 12.0}


def black_bars(scene: Scene, folder: Path) -> Clip:
    ffmpeg(*scene.half(), "-vf", "pad=iw:ih+72:0:36", *FINE, folder / "bars.mp4")
    return folder / "bars.mp4", {}


def ntsc(scene: Scene, folder: Path) -> Clip:
    ffmpeg(*scene.all("30000/1001"), *FINE, folder / "ntsc.mov")
    return folder / "ntsc.mov", {"fps": 15.0}


def cover_art(scene: Scene, folder: Path) -> Clip:
    plain, _ = no_audio(scene, folder)
    ffmpeg("-f", "lavfi", "-i", "color=gray:size=600x600", "-frames:v", "1", folder / "cover.jpg")
    streams = ("-map", "1", "-map", "0", "-c", "copy", "-disposition:v:0", "attached_pic")
    ffmpeg("-i", plain, "-i", folder / "cover.jpg", *streams, folder / "cover.mkv")
    return folder / "cover.mkv", {}


def alpha(scene: Scene, folder: Path) -> Clip:
    ffmpeg(*scene.half(), "-c:v", "qtrle", "-pix_fmt", "argb", folder / "alpha.mov")
    return folder / "alpha.mov", {}


CLIPS = (
    no_audio, hevc_turned, hlg, old_phone, browser, avchd,
    wide_pixels, variable_rate, black_bars, ntsc, cover_art, alpha,
)  # fmt: skip


@pytest.mark.parametrize("write", CLIPS, ids=lambda write: write.__name__)
def test_cameras_of_twelve_clips(write: Callable[[Scene, Path], Clip], scene, table, tmp_path):
    clip, wish = write(scene, tmp_path)
    make_cameras(tmp_path / "scene", CaptureSettings(FrameSource(video=clip, **wish)), torch.device("cpu"))
    found = SceneFolder(tmp_path / "scene" / "dense")
    save_poses(found)
    estimated, true = load_cameras(found), load_cameras(SceneFolder(scene.folder))
    centres = -np.einsum("nji,nj->ni", estimated.w2c[..., :3], estimated.w2c[..., 3])
    true_centres = -np.einsum("nji,nj->ni", true.w2c[..., :3], true.w2c[..., 3])[::2]
    assert len(centres) == N_FRAMES
    offset = true_centres - SimilarityTransform.from_estimate(centres, true_centres)(centres)
    spread = np.linalg.norm(true_centres - true_centres.mean(axis=0), axis=1)
    centre_error = float(np.sqrt(np.square(np.linalg.norm(offset, axis=1)).mean() / np.square(spread).mean()))
    focal_error = abs(estimated.focal / true.focal - 1.0)
    table.append(f"{write.__name__:28s} {len(centres)} of {N_FRAMES}    {focal_error:8.2%}     {centre_error:8.2%}")
    assert focal_error < MAX_FOCAL_ERROR
    assert centre_error < (MAX_CENTRE_ERROR_OF_FIELDS if write is avchd else MAX_CENTRE_ERROR)
