"""The one owner of ffmpeg for input videos: its call, the video streams of a file, and their decoded frames."""

import collections
import contextlib
import dataclasses
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from jaxtyping import UInt8

from nsff.errors import InputError

MAX_REASON = 160  # Characters of ffmpeg's own message that an error quotes.
N_LAST_LINES = 20  # Messages of ffmpeg that are kept for the reason of a failure.
# A stream of fewer packets than this fraction of the most is a still picture beside the video (a cover, a thumbnail).
MIN_PACKET_FRACTION = 0.5
STREAM = re.compile(r"\s*Stream #0:(\d+)\S*: Video: (.*)")
SIZE = re.compile(r", (\d+)x(\d+)[ ,]")
ROTATION = re.compile(r"\s*(?:Display Matrix|displaymatrix): rotation of (-?[\d.]+) degrees")
FIELD_ORDERS = {"top first": "T", "top coded first": "T", "bottom first": "B", "bottom coded first": "B"}
PREFIX = re.compile(r"^(\[[^\]]*\] )+")  # "[mov,mp4 @ 0x55...] " before a message
NOT_A_REASON = ("Error opening input file ", "At least one output file", "frame=", "size=", "Conversion failed")


@dataclasses.dataclass(frozen=True)
class VideoStream:
    """A video stream as the container declares it.

    Attributes:
        index: number among all streams of the file.
        width: stored pixels per row; 0 if unknown.
        height: stored rows; 0 if unknown.
        attached_picture: a cover or thumbnail, no video.
        default: marked as the one to play.
        rotation: of its display matrix, degrees counter-clockwise; 0 without one.
        field_order: "T" = top field first, "B" = bottom field first, "" = progressive or not stated.
    """

    index: int
    width: int
    height: int
    attached_picture: bool
    default: bool
    rotation: float = 0.0
    field_order: str = ""

    @property
    def turned(self) -> bool:
        """Whether the display matrix exchanges width and height."""
        return round(self.rotation / 90.0) % 2 == 1


def open_ffmpeg(arguments: list[str]) -> subprocess.Popen:
    """Start ffmpeg without a terminal.

    Raises:
        InputError: there is no ffmpeg, or it cannot be started.
    """
    try:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-nostats", *arguments]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except (RuntimeError, OSError) as error:
        where = f" at {error.filename}" if isinstance(error, OSError) and error.filename else ""
        raise InputError(
            f"no ffmpeg was found{where}, which reads videos; set IMAGEIO_FFMPEG_EXE to the path of one, or run "
            "pip install imageio-ffmpeg"
        ) from error


def source_of(path: Path) -> str:
    """Name of a file for ffmpeg: no colon, dash or percent sign in it is taken for anything else."""
    return f"file:{path.absolute()}"


def best_video_stream(path: Path) -> VideoStream:
    """Find the stream to watch: no cover or thumbnail, then the default one, then the largest.

    Raises:
        InputError: the file is missing, cannot be read, or holds no video stream.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file to --video, or a folder of pictures to --images")
    if not path.is_file():
        raise InputError(f"{path} is missing; give --video FILE")
    process = open_ffmpeg(["-i", source_of(path)])
    _, errors = process.communicate()
    lines = errors.decode(errors="replace").splitlines()
    streams = parse_video_streams(lines)
    if not any(line.startswith("Input #0") for line in lines):
        raise InputError(f"{path} cannot be read as a video (ffmpeg: {reason_of(lines)}); convert it to mp4")
    candidates = [stream for stream in streams if not stream.attached_picture]
    if not candidates:
        held = "only a cover picture" if streams else "no video stream"
        raise InputError(f"{path} holds {held}; give a file with a video to --video")
    if len(candidates) > 1:
        counts = _count_packets(path, candidates)
        most = max(counts.values(), default=0)
        candidates = [s for s in candidates if counts.get(s.index, 0) >= MIN_PACKET_FRACTION * most] or candidates
    return max(candidates, key=lambda stream: (stream.default, stream.width * stream.height, -stream.index))


def count_frames(path: Path) -> int:
    """Count the frames of a video without decoding them.

    Raises:
        InputError: the file is missing, cannot be read, or holds no video stream.
    """
    stream = best_video_stream(path)
    return _count_packets(path, [stream])[stream.index]


def parse_video_streams(lines: list[str]) -> list[VideoStream]:
    """Read the video streams from the lines that ffmpeg prints about an input."""
    streams: dict[int, VideoStream] = {}
    latest = None
    for line in lines:
        if match := STREAM.match(line):
            latest, facts = int(match[1]), match[2]
            size = SIZE.search(facts + " ")
            width, height = (int(size[1]), int(size[2])) if size else (0, 0)
            order = next((letter for words, letter in FIELD_ORDERS.items() if words in facts), "")
            streams[latest] = VideoStream(
                latest, width, height, "(attached pic)" in facts, "(default)" in facts, field_order=order
            )
        elif "Stream #" in line:
            latest = None
        elif latest is not None and (match := ROTATION.match(line)):
            streams[latest] = dataclasses.replace(streams[latest], rotation=float(match[1]))
    return list(streams.values())


def _count_packets(path: Path, streams: list[VideoStream]) -> collections.Counter[int]:
    """Count the packets per stream, without decoding them."""
    chosen = [argument for stream in streams for argument in ("-map", f"0:{stream.index}")]
    process = open_ffmpeg(
        ["-loglevel", "quiet", "-i", source_of(path), *chosen, "-c", "copy", "-f", "framecrc", "pipe:1"]
    )
    assert process.stdout is not None
    counts: collections.Counter[int] = collections.Counter()
    for line in process.stdout:
        if not line.startswith(b"#"):
            counts[streams[int(line.split(b",")[0])].index] += 1
    process.communicate()
    return counts


def decode(
    path: Path,
    stream: VideoStream,
    filters: list[str],
    shape: tuple[int, ...],
    *,
    n_frames: int | None = None,
    seek: float | None = None,
    upright: bool = True,
    on_message: Callable[[str], None] | None = None,
) -> Iterator[UInt8[np.ndarray, "..."]]:
    """Decode a stream frame by frame; each frame that it holds appears once, whatever its time.

    Args:
        path: video file.
        stream: stream of the file.
        filters: ffmpeg's filters, which end in 8-bit grey or RGB.
        shape: shape of a frame after the filters, (height, width) or (height, width, 3).
        n_frames: stop after this many frames; None decodes to the end.
        seek: begin near this time, seconds after the first of the file; None begins there.
        upright: apply the display matrix before the filters.
        on_message: receives each line that ffmpeg prints, on another thread.

    Raises:
        InputError: ffmpeg fails before the first frame.
    """
    arguments = ["-loglevel", "info", *([] if upright else ["-noautorotate"]), "-reinit_filter", "0"]
    arguments += ["-ss", f"{seek:.6f}"] if seek is not None else []
    arguments += ["-i", source_of(path), "-map", f"0:{stream.index}", "-vf", ",".join(filters)]
    arguments += ["-fps_mode", "passthrough", *(["-frames:v", str(n_frames)] if n_frames else [])]
    arguments += ["-f", "rawvideo", "-pix_fmt", "gray" if len(shape) == 2 else "rgb24", "pipe:1"]
    process = open_ffmpeg(arguments)
    assert process.stdout is not None
    messages = _Messages(process, on_message)
    count, size = 0, int(np.prod(shape))
    try:
        while len(data := process.stdout.read(size)) == size:
            count += 1
            yield np.frombuffer(data, np.uint8).reshape(shape)
    finally:
        _end(process)
        messages.join()
    if count == 0:
        raise InputError(f"{path} has no frames (ffmpeg: {reason_of(list(messages.last))}); does it play?")


class _Messages(threading.Thread):
    """Thread that reads what ffmpeg prints, so that ffmpeg never waits for a full pipe.

    Attributes:
        last: the latest messages that may tell the reason of a failure.
    """

    def __init__(self, process: subprocess.Popen, on_message: Callable[[str], None] | None):
        super().__init__(daemon=True)
        assert process.stderr is not None
        self.last: collections.deque[str] = collections.deque(maxlen=N_LAST_LINES)
        self._lines, self._on_message = process.stderr, on_message
        self.start()

    def run(self) -> None:
        """Read until ffmpeg ends."""
        for line in self._lines:
            text = line.decode(errors="replace").rstrip()
            if self._on_message is not None:
                self._on_message(text)
            if "Parsed_" not in text:
                self.last.append(text)


def _end(process: subprocess.Popen) -> None:
    """End ffmpeg, by force where it goes on though nobody reads any more."""
    if process.poll() is None:
        if process.stdout is not None:
            process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1.0)
        process.kill()
    process.wait()


def reason_of(lines: list[str]) -> str:
    """Find the last line of ffmpeg that tells a reason, without its prefixes and the file's name."""
    told = [PREFIX.sub("", line).strip() for line in lines]
    told = [line for line in told if line and not line.startswith(NOT_A_REASON)]
    reason = told[-1] if told else "no message"
    return reason.removeprefix("Error opening input files: ")[:MAX_REASON]
