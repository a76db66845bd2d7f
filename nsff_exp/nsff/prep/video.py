"""Frames of a video file, or of a folder of images: chosen evenly, converted to SDR, cut to the picture, written."""

import dataclasses
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from nsff.cli import progress_bar
from nsff.errors import InputError
from nsff.images import list_images, natural_order, read_frames
from nsff.io import TMP_PREFIX, Image, write_image
from nsff.prep.black_bars import PictureBox, dark_borders, find_picture, may_have_bars
from nsff.prep.ffmpeg import decode
from nsff.prep.frame_choice import MIN_FRAMES, FrameRange, choose_frames, find_repeated, log_choice
from nsff.prep.video_filters import conversion_of
from nsff.prep.video_scan import SMALL, Appearance, appearance_of, sample_frames, scan_video, select_filter

log = logging.getLogger("nsff")

MARKER = ".made_by_run_colmap"  # Only a folder with this file is replaced.
MIN_CONTRAST = 4.0  # Standard deviation of grey levels; below it a frame counts as black or blank.
N_BAR_SAMPLES = 16  # Frames in which the exact edges of black bars are looked for.


@dataclasses.dataclass(frozen=True)
class FrameSource:
    """A video or a folder of images, and the frames to take from it.

    Attributes:
        video: video file; None if `images` is given.
        images: folder of frames; None if `video` is given.
        fps: frames per second to keep; None keeps all.
        max_frames: most frames to keep, a whole number of frames apart; None keeps all.
        start: seconds after the first frame.
        end: seconds after the first frame, of the first frame that is not taken; None keeps all to the end.
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

    @property
    def wish(self) -> FrameRange:
        """Rate, number and stretch of the frames to take."""
        return FrameRange(self.fps, self.max_frames, self.start, self.end)


@dataclasses.dataclass(frozen=True)
class ExtractedFrames:
    """Frames that were written.

    Attributes:
        paths: their files, in temporal order.
        indices: their numbers in the source.
        n_source: frames of the source.
        times: seconds after the first frame of the video; None for a folder of images.
        full_size: width and height before black bars were cut.
        picture: what was kept of them; None if they have no bars.
    """

    paths: list[Path]
    indices: list[int]
    n_source: int
    times: Float[np.ndarray, " n"] | None
    full_size: tuple[int, int]
    picture: PictureBox | None


@dataclasses.dataclass(frozen=True)
class _Footage:
    """A source after the first look: times, how its frames look, and how to read some of them at full size."""

    times: Float[np.ndarray, " n"]
    appearance: Appearance
    size: tuple[int, int]
    sample: Callable[[list[int]], Iterator[Image]]
    read: Callable[[list[int]], Iterator[Image]]


def shrink(image: Image, max_side: int) -> UInt8[np.ndarray, "h w 3"]:
    """Reduce an image to a longer side of at most `max_side` pixels; both sides become even."""
    height, width = image.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    size = tuple(max(2, round(side * scale) // 2 * 2) for side in (width, height))
    return image if size == (width, height) else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def extract_frames(folder: Path, source: FrameSource) -> ExtractedFrames:
    """Write the frames of a source as `00000.png ...`, replacing those of an earlier run.

    A video is decoded twice: for a first look at all frames, and for those that are taken.

    Raises:
        InputError: the folder was not made by an earlier run, the source cannot be read, or the frames are too few, of
            different sizes or blank.
    """
    if folder.exists() and not (folder / MARKER).is_file():
        raise InputError(
            f"{folder} was not made by run_colmap.py and would be replaced; move it away, or choose another --data_path"
        )
    footage = _open_video(source.video) if source.video is not None else _open_images(source.path)
    repeated = find_repeated(footage.appearance.changes, footage.times)
    choice = choose_frames(footage.times, repeated, source.wish)
    indices, n_source = choice.indices, len(footage.times)
    if len(indices) < MIN_FRAMES:
        raise InputError(
            f"{source.path} gives {len(indices)} of {n_source} frames, at least {MIN_FRAMES} are needed; "
            "take more (--fps, --start, --end)"
        )
    log_choice(choice, timed=source.video is not None)
    picture = _find_picture(footage, indices)
    frames = (image if picture is None else picture.crop(image) for image in footage.read(indices))
    paths = _write_frames(folder, (shrink(frame, source.max_side) for frame in frames), len(indices), source.path)
    times = footage.times[indices] if source.video is not None else None
    return ExtractedFrames(paths, indices, n_source, times, footage.size, picture)


def _open_video(path: Path) -> _Footage:
    scan = scan_video(path)
    conversion = conversion_of(scan)
    if conversion.changes:
        log.info("the video is converted: %s", "; ".join(conversion.changes))
    width, height = conversion.size

    def read(indices: list[int]) -> Iterator[Image]:
        filters = [*conversion.before, select_filter(indices), *conversion.after]
        return decode(path, scan.stream, filters, (height, width, 3), n_frames=len(indices), upright=conversion.upright)

    def sample(indices: list[int]) -> Iterator[Image]:
        return sample_frames(scan, indices, conversion.after, conversion.size, upright=conversion.upright)

    return _Footage(scan.times, scan.appearance, conversion.size, sample, read)


def _open_images(folder: Path) -> _Footage:
    paths = sorted(list_images(folder, "give --images DIR"), key=natural_order)
    size = (0, 0)

    def small_pictures() -> Iterator[UInt8[np.ndarray, "h w"]]:
        nonlocal size
        for image in read_frames(paths, upright=True):
            size = image.shape[1], image.shape[0]
            small = cv2.resize(image, SMALL[::-1], interpolation=cv2.INTER_AREA)
            yield cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)

    appearance = appearance_of(iter(progress_bar(small_pictures(), total=len(paths), desc="looking", unit="image")))

    def read(indices: list[int]) -> Iterator[Image]:
        return read_frames([paths[k] for k in indices], upright=True)

    return _Footage(np.arange(len(paths), dtype=float), appearance, size, read, read)


def _find_picture(footage: _Footage, indices: list[int]) -> PictureBox | None:
    """Find the picture inside black bars of the frames that are taken, and say so."""
    if not may_have_bars(footage.appearance, indices):
        return None
    positions = np.linspace(0, len(indices) - 1, min(N_BAR_SAMPLES, len(indices))).round().astype(int)
    picture = find_picture(footage.sample([indices[k] for k in positions]), dark_borders(footage.appearance, indices))
    if picture is not None:
        width, height = footage.size
        log.info(
            "black bars are cut: %dx%d to %dx%d (%d rows above, %d below, %d columns left, %d right)",
            width, height, picture.right - picture.left, picture.bottom - picture.top,
            picture.top, height - picture.bottom, picture.left, width - picture.right,
        )  # fmt: skip
    return picture


def _write_frames(folder: Path, frames: Iterable[Image], n_frames: int, source: Path) -> list[Path]:
    """Write frames to a new folder, which takes the place of the old one when all are written."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=TMP_PREFIX) as temporary:
        contrast = []
        for index, frame in enumerate(progress_bar(frames, total=n_frames, desc="frames", unit="frame")):
            write_image(Path(temporary) / f"{index:05d}.png", frame)
            contrast.append(float(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).std()))
        _check_frames(contrast, n_frames, source)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / MARKER).touch()
        for path in sorted(Path(temporary).iterdir()):
            path.replace(folder / path.name)
    return list_images(folder, "run run_colmap.py again")


def _check_frames(contrast: Sequence[float], n_frames: int, source: Path) -> None:
    if len(contrast) < n_frames:
        raise InputError(f"{source} breaks off after {len(contrast)} of {n_frames} frames; is it still being written?")
    if blank := [f"{index:05d}" for index, value in enumerate(contrast) if value < MIN_CONTRAST]:
        raise InputError(
            f"{source}: {len(blank)} of {len(contrast)} frames are black or blank ({', '.join(blank[:4])}); "
            "cut them off with --start and --end"
        )
