"""Files of a rendered video: frames as they are rendered, then the encoded videos. A stopped render can be resumed."""

import contextlib
import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import imageio.v2 as iio_streams
import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8

from nsff.cli import progress_bar
from nsff.distributed import SINGLE_PROCESS, ProcessGroup
from nsff.errors import InputError, UsageError
from nsff.io import Image, atomic_write, claim_folder, write_image, writing_to
from nsff.lock import lock_results
from nsff.write_queue import WriteQueue

log = logging.getLogger("nsff")
SETTINGS = "clip.json"  # settings of the frames beside it; a folder with other settings is moved aside
IMAGE_FORMATS, VIDEO_FORMATS = ("png", "jpg"), ("mp4", "gif")
MIN_VIDEO_SIDE = 2  # pixels; yuv420p halves both sides
MIN_GIF_DURATION = 2  # hundredths of a second per frame; browsers play shorter ones much slower
SHEET_COLUMNS, SHEET_ROW_HEIGHT = 6, 180  # of the contact sheet; frames per video, pixels


@dataclasses.dataclass(frozen=True)
class RenderedFrame:
    """Pictures of one frame."""

    pictures: dict[str, Image]  # by layer
    depth: Float[np.ndarray, "h w"] | None = None  # along the camera's axis, units of poses_bounds.npy; for --raw_depth


@dataclasses.dataclass(frozen=True)
class VideoFiles:
    """Files of a video: `images/000.jpg` and `video.mp4` for colour, `<layer>/000.jpg` and `<layer>.mp4` for others."""

    folder: Path
    n_frames: int
    layers: tuple[str, ...]  # 'rgb+depth' are two layers side by side
    images: tuple[str, ...]  # formats of frames, of `IMAGE_FORMATS`
    videos: tuple[str, ...]  # formats of videos, of `VIDEO_FORMATS`
    fps: float
    raw_depth: bool = False  # write depth_raw/000.npz

    def frame_paths(self, layer: str, index: int) -> list[Path]:
        """Paths of a frame's picture of a layer, one per format."""
        folder = self.folder / ("images" if layer == "rgb" else layer)
        return [folder / f"{index:03d}.{extension}" for extension in self.images]

    def depth_path(self, index: int) -> Path:
        return self.folder / "depth_raw" / f"{index:03d}.npz"

    def video_paths(self, layer: str) -> list[Path]:
        return [self.folder / f"{'video' if layer == 'rgb' else layer}.{extension}" for extension in self.videos]

    def all_paths(self, index: int) -> list[Path]:
        """Paths of all files of a frame."""
        paths = [path for layer in self.layers for path in self.frame_paths(layer, index)]
        return [*paths, self.depth_path(index)] if self.raw_depth else paths


def parse_formats(text: str, image_ext: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Parse `--format`, a comma-separated list.

    Args:
        text: the list.
        image_ext: format of frames if the list has no image format.

    Returns:
        (formats of frames, formats of videos).

    Raises:
        UsageError: a format is unknown, or the list is empty.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    known = (*VIDEO_FORMATS, *IMAGE_FORMATS)
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"--format: unknown format '{unknown[0]}'; choose from {', '.join(known)}")
    if not names:
        raise UsageError(f"--format is empty; choose from {', '.join(known)}")
    images = tuple(name for name in names if name in IMAGE_FORMATS) or (image_ext,)
    return images, tuple(name for name in names if name in VIDEO_FORMATS)


def check_video_size(width: int, height: int) -> None:
    """Check that frames can be encoded.

    Raises:
        InputError: a side is shorter than `MIN_VIDEO_SIDE`.
    """
    if min(width, height) < MIN_VIDEO_SIDE:
        raise InputError(
            f"frames of {width}x{height} pixels are too small for a video; both sides need {MIN_VIDEO_SIDE} pixels, "
            "lower --render_factor"
        )


def write_video(
    files: VideoFiles,
    render: Callable[[int], RenderedFrame],
    settings: dict[str, Any],
    group: ProcessGroup = SINGLE_PROCESS,
) -> None:
    """Render and write the missing frames, then encode the videos (mp4: h264, yuv420p, even size).

    Complete frames of an earlier run with the same settings are kept. The processes of a group divide the rest. Threads
    write a frame while the next ones are rendered.

    Args:
        files: files of the video.
        render: renders a frame by its index.
        settings: everything that the frames depend on, as JSON.
        group: processes that make this call together.

    Raises:
        InputError: the folder cannot be written, or another run writes into it. Finished frames stay, and the next run
            continues.
    """
    with writing_to(files.folder), lock_results(files.folder) if group.is_main else contextlib.nullcontext():
        if group.is_main:
            claim_folder(files.folder, SETTINGS, settings)
            for path in files.all_paths(0):
                path.parent.mkdir(parents=True, exist_ok=True)
        group.barrier()
        missing = [k for k in range(files.n_frames) if not all(path.is_file() for path in files.all_paths(k))]
        group.barrier()  # no process may write before all have listed the same missing frames
        shard, done = group.shard(missing), files.n_frames - len(missing)
        bar = progress_bar(
            shard, files.folder.name, initial=done, total=done + len(shard), unit="frame", disable=not group.is_main
        )
        with WriteQueue() as queue:
            for index in bar:
                queue.submit(functools.partial(_write_frame, files, index, render(index)))
        group.barrier()
        if group.is_main:
            for layer in files.layers:
                _write_videos(files, layer)


def _write_frame(files: VideoFiles, index: int, rendered: RenderedFrame) -> None:
    for layer in files.layers:
        for path in files.frame_paths(layer, index):
            write_image(path, rendered.pictures[layer])
    if rendered.depth is not None:
        with atomic_write(files.depth_path(index)) as partial, partial.open("wb") as file:
            np.savez_compressed(file, depth=rendered.depth)


def _write_videos(files: VideoFiles, layer: str) -> None:
    frames = [files.frame_paths(layer, index)[0] for index in range(files.n_frames)]
    for path in files.video_paths(layer):
        write = _write_gif if path.suffix == ".gif" else _write_mp4
        with atomic_write(path) as partial:
            write(partial, frames, files.fps)


def _write_mp4(path: Path, frames: list[Path], fps: float) -> None:
    height, width = (side // 2 * 2 for side in iio.imread(frames[0]).shape[:2])
    check_video_size(width, height)
    options = {"fps": fps, "codec": "libx264", "macro_block_size": 2, "quality": 8}
    writer: Any = iio_streams.get_writer(path, format="FFMPEG", mode="I", **options)
    with writer:
        for frame in frames:
            writer.append_data(iio.imread(frame)[:height, :width])
    try:
        n_written = imageio_ffmpeg.count_frames_and_secs(str(path))[0]
    except RuntimeError:  # the file holds no video
        n_written = 0
    if n_written != len(frames):  # on a full disk ffmpeg fails silently
        raise OSError(f"ffmpeg wrote {n_written} of {len(frames)} frames of a {path.suffix} file; is the disk full?")


def _write_gif(path: Path, frames: list[Path], fps: float) -> None:
    pictures = _read_pictures(frames)
    # A gif counts hundredths of a second: round the end of each frame, so that the errors do not add up.
    ends = [round(100.0 * (index + 1) / fps) for index in range(len(frames))]
    hundredths = [max(MIN_GIF_DURATION, end - start) for start, end in itertools.pairwise([0, *ends])]
    durations = [10 * duration for duration in hundredths]  # milliseconds for pillow
    next(pictures).save(path, save_all=True, append_images=pictures, duration=durations, loop=0)


def _read_pictures(frames: list[Path]) -> Iterator[PIL.Image.Image]:
    for frame in frames:
        with PIL.Image.open(frame) as picture:
            yield picture.convert("RGB")


def write_contact_sheet(path: Path, videos: list[VideoFiles]) -> None:
    """Write a picture with one row per video: evenly spaced frames of its first layer, scaled to one height."""
    rows = []
    for files in videos:
        indices = np.linspace(0, files.n_frames - 1, SHEET_COLUMNS).round().astype(int)
        frames = [iio.imread(files.frame_paths(files.layers[0], int(index))[0]) for index in indices]
        rows.append(np.concatenate([_scale_to_row(frame) for frame in frames], axis=1))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    with writing_to(path.parent):
        write_image(path, np.concatenate(padded))


def _scale_to_row(frame: Image) -> UInt8[np.ndarray, "h w 3"]:
    height, width = frame.shape[:2]
    size = (max(1, round(width * SHEET_ROW_HEIGHT / height)), SHEET_ROW_HEIGHT)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if height > SHEET_ROW_HEIGHT else cv2.INTER_NEAREST)
