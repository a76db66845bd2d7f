"""First look at a video: one decoding pass for time stamps, colours, field order, repeated frames and dark borders."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from nsff.cli import progress_bar
from nsff.errors import InputError
from nsff.prep.ffmpeg import VideoStream, best_video_stream, decode
from nsff.prep.interlacing import MIN_COMBING, combing, flagged_order, suspected_order

SMALL = 216, 384  # Height and width of the grey pictures that are compared, whatever the size of the frames.
BLOCK = 12  # Pixels of a grey picture; the change between frames is that of the block that changes most.
BORDER_PERCENTILE = 98.0  # Of the grey levels of a row or column; above it are stray pixels.
N_SAMPLES = 8  # Frames that are looked at at full size where the first look leaves a doubt.
SEEK_BEYOND = 600  # Frames; in a longer clip single frames are found by seeking.
TIME_BASE = re.compile(r"config in time_base: (\d+)/(\d+)")
FRAME = re.compile(r"\] n: *\d+ pts: *(-?\d+|NOPTS) .*?fmt:(\S+) .*?sar:(\d+)/(\d+) s:(\d+)x(\d+) i:(\S)")
COLOURS = re.compile(r"color_range:(\S+) color_space:(\S+) color_primaries:(\S+) color_trc:(\S+)")
IDET = re.compile(r"Multi frame detection: TFF: *(\d+) BFF: *(\d+) Progressive: *(\d+)")

Grey = UInt8[np.ndarray, "216 384"]


@dataclasses.dataclass(frozen=True)
class Colours:
    """Colours as a stream declares them, in ffmpeg's words; "unknown" where it says nothing."""

    range: str = "unknown"
    matrix: str = "unknown"
    primaries: str = "unknown"
    transfer: str = "unknown"


@dataclasses.dataclass(frozen=True)
class FrameFacts:
    """A decoded frame: time stamp (seconds; NaN if it has none), upright size, pixel aspect, "T", "B" or "P"."""

    time: float
    size: tuple[int, int]
    aspect: float
    field_order: str
    pixel_format: str


@dataclasses.dataclass(frozen=True)
class Appearance:
    """Appearance of the frames of a source.

    Attributes:
        changes: change from the frame before in the block that changes most, grey levels; 0 for the first.
        rows: a bright level of each row of the small grey pictures.
        columns: of each column.
    """

    changes: Float[np.ndarray, " n"]
    rows: UInt8[np.ndarray, "n 216"]
    columns: UInt8[np.ndarray, "n 384"]


@dataclasses.dataclass(frozen=True)
class VideoScan:
    """A video stream after the first look.

    Attributes:
        path: file.
        stream: what the container declares.
        times: time stamps, seconds after the first frame.
        size: width and height, upright, in stored pixels.
        aspect: width over height of an upright pixel.
        pixel_format: ffmpeg's name.
        colours: of the first frame.
        field_order: "T" or "B" where the frames are interlaced, "" where not.
        appearance: how the frames look.
    """

    path: Path
    stream: VideoStream
    times: Float[np.ndarray, " n"]
    size: tuple[int, int]
    aspect: float
    pixel_format: str
    colours: Colours
    field_order: str
    appearance: Appearance


def appearance_of(pictures: Iterator[Grey]) -> Appearance:
    """Measure small grey pictures one by one."""
    changes, rows, columns = [], [], []
    before = None
    for picture in pictures:
        difference = np.zeros(SMALL, np.uint8) if before is None else cv2.absdiff(picture, before)
        blocks = difference.reshape(SMALL[0] // BLOCK, BLOCK, SMALL[1] // BLOCK, BLOCK).mean(axis=(1, 3))
        changes.append(float(blocks.max()))
        rows.append(np.percentile(picture, BORDER_PERCENTILE, axis=1, method="nearest"))
        columns.append(np.percentile(picture, BORDER_PERCENTILE, axis=0, method="nearest"))
        before = picture
    return Appearance(
        np.array(changes),
        np.array(rows, np.uint8).reshape(-1, SMALL[0]),
        np.array(columns, np.uint8).reshape(-1, SMALL[1]),
    )


class _Listener:
    """Collects what ffmpeg's filters `showinfo` and `idet` print."""

    def __init__(self) -> None:
        self.frames: list[FrameFacts] = []
        self.colours: Colours | None = None
        self.fields = (0, 0, 0)  # frames with the top field first, the bottom field first, progressive
        self._time_base = 0.0

    def __call__(self, line: str) -> None:
        if match := FRAME.search(line):
            width, height = int(match[5]), int(match[6])
            across, down = int(match[3]), int(match[4])
            time = np.nan if match[1] == "NOPTS" else int(match[1]) * self._time_base
            aspect = across / down if across and down else 1.0
            self.frames.append(FrameFacts(time, (width, height), aspect, match[7], match[2]))
        elif match := COLOURS.search(line):
            self.colours = self.colours or Colours(*match.groups())
        elif match := TIME_BASE.search(line):
            self._time_base = int(match[1]) / int(match[2])
        elif match := IDET.search(line):
            self.fields = (int(match[1]), int(match[2]), int(match[3]))


def scan_video(path: Path) -> VideoScan:
    """Decode a video once, without keeping its frames.

    Raises:
        InputError: no ffmpeg, no video in the file, no frames, or the size of its pictures changes.
    """
    stream = best_video_stream(path)
    filters = ["showinfo=checksum=0", "idet", f"scale={SMALL[1]}:{SMALL[0]}:flags=area", "format=gray"]
    listener = _Listener()
    pictures = decode(path, stream, filters, SMALL, on_message=listener)
    appearance = appearance_of(iter(progress_bar(pictures, desc="looking at the video", unit="frame")))
    n_frames = min(len(listener.frames), len(appearance.changes))
    frames = listener.frames[:n_frames]
    if not any(np.isfinite(frame.time) for frame in frames):
        raise InputError(f"{path}: ffmpeg finds no time stamps of frames; convert it to mp4")
    if other := next((frame for frame in frames if frame.size != frames[0].size), None):
        (width, height), (other_width, other_height) = frames[0].size, other.size
        raise InputError(
            f"{path}: pictures change from {width}x{height} to {other_width}x{other_height} after "
            f"{other.time - frames[0].time:.2f} s; cut the clip there, or encode it anew at one size"
        )
    measured = (values[:n_frames] for values in (appearance.changes, appearance.rows, appearance.columns))
    scan = VideoScan(
        path, stream, rising_times(np.array([frame.time for frame in frames])), frames[0].size, frames[0].aspect,
        frames[0].pixel_format, listener.colours or Colours(), "", Appearance(*measured),
    )  # fmt: skip
    order = flagged_order([frame.field_order for frame in frames])
    if not order and (suspected := suspected_order(stream.field_order, listener.fields, n_frames)):
        moving = sorted(np.argsort(scan.appearance.changes)[-N_SAMPLES:].tolist())
        width, height = scan.size
        stored = (height, width) if stream.turned else (width, height)  # fields are rows of the picture as stored
        samples = list(sample_frames(scan, moving, ["format=gray"], stored, upright=False))
        order = suspected if combing(samples) > MIN_COMBING else ""
    return dataclasses.replace(scan, field_order=order)


def sample_frames(
    scan: VideoScan,
    indices: Sequence[int],
    filters: list[str],
    size: tuple[int, int] | None = None,
    upright: bool = True,
) -> Iterator[UInt8[np.ndarray, "..."]]:
    """Decode a few frames: all up to the last one in a short clip, by seeking in a long one.

    Args:
        scan: the video.
        indices: numbers of frames, ascending; in a long clip a neighbour may take the place of a frame.
        filters: filters that end in 8-bit grey or RGB.
        size: width and height after them, if they change them.
        upright: apply the display matrix before the filters.
    """
    width, height = size or scan.size
    shape = (height, width) if filters[-1] == "format=gray" else (height, width, 3)
    if indices[-1] < SEEK_BEYOND:
        selected = [select_filter(indices), *filters]
        yield from decode(scan.path, scan.stream, selected, shape, n_frames=len(indices), upright=upright)
        return
    for index in indices:
        with contextlib.suppress(InputError):  # where the index of the container is damaged
            seconds = float(scan.times[index])
            yield from decode(scan.path, scan.stream, filters, shape, n_frames=1, seek=seconds, upright=upright)


def select_filter(indices: Sequence[int]) -> str:
    """ffmpeg's filter that lets through the frames of these numbers, ascending; runs of even steps are one term."""
    terms: list[str] = []
    position = 0
    while position < len(indices):
        first = indices[position]
        step = indices[position + 1] - first if position + 1 < len(indices) else 1
        end = position + 1
        while end < len(indices) and indices[end] - indices[end - 1] == step:
            end += 1
        last = indices[end - 1]
        terms.append(f"eq(n,{first})" if first == last else f"between(n,{first},{last})*not(mod(n-{first},{step}))")
        position = end
    return f"select='{'+'.join(terms)}'"


def rising_times(times: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Seconds after the first frame, never falling; a missing time stamp is filled in between its neighbours."""
    known = np.flatnonzero(np.isfinite(times))
    filled = np.interp(np.arange(len(times)), known, times[known])
    return np.maximum.accumulate(filled) - filled[0]
