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

LEAST_FRAMES = 10  # fewer give neither cameras nor a scene
AS_STORED = ["-fps_mode", "passthrough"]  # each frame once, also where their rate varies
MARKER = ".made_by_run_colmap"  # in a folder of frames that may be replaced
LEAST_CONTRAST = 4.0  # standard deviation of grey levels: less is a black or blank frame


@dataclasses.dataclass(frozen=True)
class Source:
    """A video or a folder of images, and which of its frames; `longest`: most pixels of a side."""

    video: Path | None = None
    images: Path | None = None
    fps: float | None = None
    max_frames: int | None = None
    start: float = 0.0  # seconds
    end: float | None = None
    longest: int = 1024

    @property
    def path(self) -> Path:
        """Of the one that was given."""
        path = self.video or self.images
        assert path is not None
        return path


def choose_frames(
    n_frames: int,
    rate: float,
    *,
    fps: float | None = None,
    max_frames: int | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> list[int]:
    """Numbers of the frames to keep, evenly spaced.

    Args:
        n_frames: of the video.
        rate: frames a second of the video.
        fps: keep so many a second; None = all.
        max_frames: keep at most so many.
        start: seconds from the beginning.
        end: seconds from the beginning; None = to the last frame.
    """
    first = round(start * rate)
    last = n_frames if end is None else min(n_frames, round(end * rate))
    step = max(1.0, rate / fps) if fps else 1.0
    count = int(np.ceil(max(0, last - first) / step))
    if max_frames and count > max_frames:
        step, count = (last - first) / max_frames, max_frames
    return [first + int(k * step) for k in range(count)]


def measure_video(path: Path) -> tuple[int, float]:
    """(frames, frames a second).

    Raises:
        InputError: not a video.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; give --video FILE")
    try:
        rate = float(iio.immeta(path, plugin="FFMPEG")["fps"])
        n_frames, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    except Exception as error:  # ffmpeg's reader raises whatever it meets
        raise InputError(f"{path} cannot be read as a video; does it play?") from error
    if n_frames < 1 or not rate > 0.0:
        raise InputError(f"{path} has no frames; does it play?")
    return int(n_frames), rate


def read_video(path: Path, wanted: list[int], longest: int) -> Iterator[Image]:
    """The wanted frames, turned upright, their longer side at most `longest` pixels, sides even."""
    left = iter([*wanted, -1])
    following = next(left)
    for number, frame in enumerate(iio.imiter(path, plugin="FFMPEG", output_params=AS_STORED)):
        if number == following:
            yield shrink(frame, longest)
            following = next(left)
            if following < 0:
                return


def shrink(image: Image, longest: int) -> UInt8[np.ndarray, "h w 3"]:
    """The image with its longer side at most `longest`, both even."""
    height, width = image.shape[:2]
    scale = min(1.0, longest / max(height, width))
    size = tuple(max(2, round(side * scale) // 2 * 2) for side in (width, height))
    return image if size == (width, height) else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def extract_frames(folder: Path, wanted: Source) -> list[Path]:
    """Write the wanted frames as `00000.png ...`; frames of an earlier run make place.

    Raises:
        InputError: too few frames, different sizes, or blank ones.
    """
    if folder.exists() and not (folder / MARKER).is_file():
        raise InputError(
            f"{folder} was not made by run_colmap.py and would be replaced; move it away, or choose another --data_path"
        )
    frames, total = _frames_of(wanted)
    if total < LEAST_FRAMES:
        raise InputError(
            f"{wanted.path} gives {total} frames, at least {LEAST_FRAMES} are needed; take more (--fps, --end)"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=TMP_PREFIX) as aside:
        contrast = []
        for index, frame in enumerate(progress_bar(frames, total=total, desc="frames", unit="frame")):
            write_image(Path(aside) / f"{index:05d}.png", frame)
            contrast.append(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).std())
        if len(contrast) < LEAST_FRAMES:
            raise InputError(
                f"{wanted.path} breaks off after {len(contrast)} frames; at least {LEAST_FRAMES} are needed"
            )
        blank = [f"{index:05d}" for index, value in enumerate(contrast) if value < LEAST_CONTRAST]
        if blank:
            raise InputError(
                f"{wanted.path}: {len(blank)} of {len(contrast)} frames are black or blank ({', '.join(blank[:4])}); "
                "cut them off with --start and --end"
            )
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / MARKER).touch()
        for path in sorted(Path(aside).iterdir()):
            path.replace(folder / path.name)
    return list_images(folder, "run run_colmap.py again")


def chosen(source: Source) -> tuple[list[int], int]:
    """The numbers of the wanted frames, and of how many they are.

    Raises:
        InputError: no such video or folder.
    """
    if source.video is None:
        total, rate = len(list_images(source.path, "give --images DIR")), 1.0
    else:
        total, rate = measure_video(source.video)
    wanted = choose_frames(
        total, rate, fps=source.fps, max_frames=source.max_frames, start=source.start, end=source.end
    )
    return wanted, total


def _frames_of(source: Source) -> tuple[Iterator[Image], int]:
    """The wanted frames one by one, and how many."""
    wanted, _ = chosen(source)
    if source.video is not None:
        return read_video(source.video, wanted, source.longest), len(wanted)
    paths = sorted(list_images(source.path, "give --images DIR"), key=natural_order)
    paths = [paths[k] for k in wanted]
    return (shrink(image, source.longest) for image in read_frames(paths, upright=True)), len(paths)
