"""Clips on the disk: frames one by one, videos when all are there. A render that was stopped goes on."""

import dataclasses
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

log = logging.getLogger("nsff")
SETTINGS = "clip.json"  # beside the frames: of what they are; a folder with something else is moved aside
IMAGE_FORMATS, VIDEO_FORMATS = ("png", "jpg"), ("mp4", "gif")
SHEET_COLUMNS, SHEET_HEIGHT = 6, 180


@dataclasses.dataclass(frozen=True)
class RenderedFrame:
    """What belongs to one frame of a clip: a picture a layer, and the distance of what is seen, where it is kept."""

    pictures: dict[str, Image]
    depth: Float[np.ndarray, "h w"] | None = None


@dataclasses.dataclass(frozen=True)
class VideoFiles:
    """Which files a clip has: `images/000.jpg`, `video.mp4` for colour, `<layer>/000.jpg`, `<layer>.mp4` for others."""

    folder: Path
    n_frames: int
    layers: tuple[str, ...]  # 'rgb+depth': both beside each other
    images: tuple[str, ...]  # png, jpg
    videos: tuple[str, ...]  # mp4, gif
    fps: float
    raw_depth: bool = False  # depth_raw/000.npz as well

    def frame_paths(self, layer: str, index: int) -> list[Path]:
        """The picture of a layer, in each format."""
        place = self.folder / ("images" if layer == "rgb" else layer)
        return [place / f"{index:03d}.{extension}" for extension in self.images]

    def depth_path(self, index: int) -> Path:
        return self.folder / "depth_raw" / f"{index:03d}.npz"

    def video_paths(self, layer: str) -> list[Path]:
        return [self.folder / f"{'video' if layer == 'rgb' else layer}.{extension}" for extension in self.videos]

    def all_of(self, index: int) -> list[Path]:
        """Every file of a frame."""
        pictures = [path for layer in self.layers for path in self.frame_paths(layer, index)]
        return pictures + [self.depth_path(index)] * self.raw_depth


def parse_formats(text: str, image_ext: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(formats of frames, formats of videos) of `--format mp4,png`; frames are `image_ext` where it names none.

    Raises:
        UsageError: one is unknown, or none is named.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    known = (*VIDEO_FORMATS, *IMAGE_FORMATS)
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"--format: '{unknown[0]}' is not one of {', '.join(known)}")
    if not names:
        raise UsageError(f"--format names none of {', '.join(known)}")
    images = tuple(name for name in names if name in IMAGE_FORMATS) or (image_ext,)
    return images, tuple(name for name in names if name in VIDEO_FORMATS)


def write_video(
    files: VideoFiles,
    render: Callable[[int], RenderedFrame],
    settings: dict[str, Any],
    group: ProcessGroup = SINGLE_PROCESS,
) -> None:
    """Write the frames, each as it is done, then the videos (mp4: h264, yuv420p, even size).

    Frames that an earlier run with the same settings wrote stay. Several workers share the rest.

    Args:
        files: which, and where.
        render: makes one of them.
        settings: all that the frames depend on, for JSON.
        group: the processes that call this together.

    Raises:
        InputError: the folder cannot be written; what is there stays, and the next run goes on.
    """
    with writing_to(files.folder):
        if group.is_main:
            claim_folder(files.folder, SETTINGS, settings)
            for path in files.all_of(0):
                path.parent.mkdir(parents=True, exist_ok=True)
        group.barrier()
        numbers = range(files.n_frames)
        missing = [index for index in numbers if not all(path.is_file() for path in files.all_of(index))]
        group.barrier()  # until all have seen the same
        mine, done = group.shard(missing), files.n_frames - len(missing)
        bar = progress_bar(
            mine, files.folder.name, initial=done, total=done + len(mine), unit="frame", disable=not group.is_main
        )
        for index in bar:
            _write_frame(files, index, render(index))
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
    if min(height, width) < 2:
        raise InputError(f"frames of {width}x{height} make no video; lower --render_factor")
    options = {"fps": fps, "codec": "libx264", "macro_block_size": 2, "quality": 8}
    writer: Any = iio_streams.get_writer(path, format="FFMPEG", mode="I", **options)
    with writer:
        for frame in frames:
            writer.append_data(iio.imread(frame)[:height, :width])
    try:
        found = imageio_ffmpeg.count_frames_and_secs(str(path))[0]
    except RuntimeError:  # no video at all
        found = 0
    if found != len(frames):  # ffmpeg says nothing where the disk is full
        raise OSError(f"{path.suffix} file with {found} of {len(frames)} frames; is the disk full?")


def _write_gif(path: Path, frames: list[Path], fps: float) -> None:
    pictures = _pictures(frames)
    ends = [round(100.0 * (index + 1) / fps) for index in range(len(frames))]  # a gif counts hundredths of a second
    durations = [10 * max(2, end - begin) for begin, end in itertools.pairwise([0, *ends])]  # browsers play 1 as 10
    next(pictures).save(path, save_all=True, append_images=pictures, duration=durations, loop=0)


def _pictures(frames: list[Path]) -> Iterator[PIL.Image.Image]:
    for frame in frames:
        with PIL.Image.open(frame) as picture:
            yield picture.convert("RGB")


def write_contact_sheet(path: Path, clips: list[VideoFiles]) -> None:
    """A picture with a row a clip: some frames of its first layer, evenly spaced, all of one height."""
    rows = []
    for files in clips:
        chosen = np.linspace(0, files.n_frames - 1, SHEET_COLUMNS).round().astype(int)
        frames = [iio.imread(files.frame_paths(files.layers[0], int(index))[0]) for index in chosen]
        rows.append(np.concatenate([_fitted(frame) for frame in frames], axis=1))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    with writing_to(path.parent):
        write_image(path, np.concatenate(padded))


def _fitted(frame: Image) -> UInt8[np.ndarray, "h w 3"]:
    """A frame at the height of a sheet's row."""
    height, width = frame.shape[:2]
    size = (max(1, round(width * SHEET_HEIGHT / height)), SHEET_HEIGHT)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if height > SHEET_HEIGHT else cv2.INTER_NEAREST)
