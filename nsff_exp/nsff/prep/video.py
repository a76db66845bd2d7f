"""Frames of a video file, or of a folder of images."""

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
from jaxtyping import UInt8

from nsff.cli import progress_bar
from nsff.errors import InputError
from nsff.io import TMP_PREFIX, Image, list_images, natural_order, read_frames, write_image

MIN_FRAMES = 10  # Refuse shorter sequences: too few for structure from motion and for the motion of a scene.
AS_STORED = ["-fps_mode", "passthrough"]  # Decode each frame once, also at a variable frame rate.
MARKER = ".made_by_run_colmap"  # Only a folder with this file is replaced.
MIN_CONTRAST = 4.0  # Standard deviation of grey levels; below it a frame counts as black or blank.


@dataclasses.dataclass(frozen=True)
class FrameSource:
    """A video or a folder of images, and the frames to take from it.

    Attributes:
        video: video file; None if `images` is given.
        images: folder of frames; None if `video` is given.
        fps: frames per second to keep; None keeps all.
        max_frames: most frames to keep, evenly spaced; None keeps all.
        start: first second to keep.
        end: last second to keep; None keeps all to the end.
        max_side: longer side of the written frames at most, pixels.
    """

    video: Path | None = None
    images: Path | None = None
    fps: float | None = None
    max_frames: int | None = None
    start: float = 0.0
    end: float | None = None
    max_side: int = 1024

    @property
    def path(self) -> Path:
        """Path of the video or of the folder."""
        path = self.video or self.images
        assert path is not None
        return path


def evenly_spaced_indices(
    n_frames: int,
    rate: float,
    *,
    fps: float | None = None,
    max_frames: int | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> list[int]:
    """Choose evenly spaced frame indices of a video.

    Args:
        n_frames: length of the video.
        rate: frame rate of the video, frames per second.
        fps: frames per second to keep; None keeps all.
        max_frames: most frames to keep; None keeps all.
        start: seconds from the beginning.
        end: seconds from the beginning; None means the last frame.
    """
    first = round(start * rate)
    last = n_frames if end is None else min(n_frames, round(end * rate))
    step = max(1.0, rate / fps) if fps else 1.0
    count = int(np.ceil(max(0, last - first) / step))
    if max_frames and count > max_frames:
        step, count = (last - first) / max_frames, max_frames
    return [first + int(k * step) for k in range(count)]


def probe_video(path: Path) -> tuple[int, float]:
    """Count the frames of a video and read its frame rate (frames per second).

    Raises:
        InputError: the file is missing or not a video.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; give --video FILE")
    try:
        rate = float(iio.immeta(path, plugin="FFMPEG")["fps"])
        n_frames, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    except Exception as error:  # imageio's ffmpeg plugin raises exceptions of many types
        raise InputError(f"{path} cannot be read as a video; does it play?") from error
    if n_frames < 1 or not rate > 0.0:
        raise InputError(f"{path} has no frames; does it play?")
    return int(n_frames), rate


def read_video(path: Path, indices: list[int], max_side: int) -> Iterator[Image]:
    """Decode the frames with the given (ascending) indices, upright, reduced to `max_side` pixels with even sides."""
    remaining = iter([*indices, -1])
    following = next(remaining)
    for index, frame in enumerate(iio.imiter(path, plugin="FFMPEG", output_params=AS_STORED)):
        if index == following:
            yield shrink(frame, max_side)
            following = next(remaining)
            if following < 0:
                return


def shrink(image: Image, max_side: int) -> UInt8[np.ndarray, "h w 3"]:
    """Reduce an image to a longer side of at most `max_side` pixels; both sides become even."""
    height, width = image.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    size = tuple(max(2, round(side * scale) // 2 * 2) for side in (width, height))
    return image if size == (width, height) else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def extract_frames(folder: Path, source: FrameSource) -> list[Path]:
    """Write the frames of a source as `00000.png ...`, replacing those of an earlier run.

    Raises:
        InputError: the folder was not made by an earlier run, or the frames are too few, of different sizes or blank.
    """
    if folder.exists() and not (folder / MARKER).is_file():
        raise InputError(
            f"{folder} was not made by run_colmap.py and would be replaced; move it away, or choose another --data_path"
        )
    frames, n_frames = _open_frames(source)
    if n_frames < MIN_FRAMES:
        raise InputError(
            f"{source.path} gives {n_frames} frames, at least {MIN_FRAMES} are needed; take more (--fps, --end)"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=TMP_PREFIX) as temporary:
        contrast = []
        for index, frame in enumerate(progress_bar(frames, total=n_frames, desc="frames", unit="frame")):
            write_image(Path(temporary) / f"{index:05d}.png", frame)
            contrast.append(float(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).std()))
        _check_frames(contrast, source.path)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / MARKER).touch()
        for path in sorted(Path(temporary).iterdir()):
            path.replace(folder / path.name)
    return list_images(folder, "run run_colmap.py again")


def select_frames(source: FrameSource) -> tuple[list[int], int]:
    """Choose the indices of the frames to take, and count all frames of the source.

    Raises:
        InputError: the video or folder is missing or empty.
    """
    if source.video is None:
        n_frames, rate = len(list_images(source.path, "give --images DIR")), 1.0
    else:
        n_frames, rate = probe_video(source.video)
    indices = evenly_spaced_indices(
        n_frames, rate, fps=source.fps, max_frames=source.max_frames, start=source.start, end=source.end
    )
    return indices, n_frames


def _check_frames(contrast: list[float], source: Path) -> None:
    if len(contrast) < MIN_FRAMES:
        raise InputError(f"{source} breaks off after {len(contrast)} frames; at least {MIN_FRAMES} are needed")
    if blank := [f"{index:05d}" for index, value in enumerate(contrast) if value < MIN_CONTRAST]:
        raise InputError(
            f"{source}: {len(blank)} of {len(contrast)} frames are black or blank ({', '.join(blank[:4])}); "
            "cut them off with --start and --end"
        )


def _open_frames(source: FrameSource) -> tuple[Iterator[Image], int]:
    """Iterate over the selected frames, and count them."""
    indices, _ = select_frames(source)
    if source.video is not None:
        return read_video(source.video, indices, source.max_side), len(indices)
    paths = sorted(list_images(source.path, "give --images DIR"), key=natural_order)
    paths = [paths[k] for k in indices]
    return (shrink(image, source.max_side) for image in read_frames(paths, upright=True)), len(paths)
