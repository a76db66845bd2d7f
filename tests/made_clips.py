"""Small clips, written by the bundled ffmpeg as various devices write them."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from nsff.prep.video import ExtractedFrames, FrameSource, extract_frames

TEST_PICTURE = "testsrc2=size=160x90:rate=10:duration=2"  # 20 frames in which everything moves
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
SDR_TAGS = "setparams=range=pc:color_primaries=bt709:color_trc=bt709:colorspace=gbr"


def to_hdr(transfer: str) -> str:
    """Filters that put SDR pictures into HDR ones, with white at 203 cd/m2 (ITU-R BT.2408)."""
    return (
        f"format=gbrp,{SDR_TAGS},zscale=t=linear:npl=203,format=gbrpf32le,"
        f"zscale=p=2020:t={transfer}:m=2020_ncl:r=tv:npl=203,format=yuv420p10le"
    )


def ffmpeg(*arguments: str | Path) -> None:
    """Run the bundled ffmpeg; the last argument is the file to write."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y"]
    subprocess.run([*command, *map(str, arguments)], check=True)


def make_clip(path: Path, *options: str, source: str = TEST_PICTURE) -> Path:
    """Encode a source of ffmpeg's own, as h264 unless the options say otherwise."""
    ffmpeg("-f", "lavfi", "-i", source, *(() if "-c:v" in options else H264), *options, path)
    return path


def write_raw(path: Path, frames: np.ndarray, *options: str, rate: float = 10) -> Path:
    """Encode RGB frames (n, h, w, 3), losslessly unless the options say otherwise."""
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    raw = path.with_suffix(".rgb")
    raw.write_bytes(np.ascontiguousarray(frames).tobytes())
    lossless = () if "-c:v" in options else ("-c:v", "libx264rgb", "-crf", "0")
    ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(rate), "-i", raw, *options, *lossless, path)
    raw.unlink()
    return path


def frames_of(clip: Path, folder: Path, **wish: float) -> ExtractedFrames:
    """Take the frames of a clip as the preparation does."""
    return extract_frames(folder / "frames", FrameSource(video=clip, **wish))
