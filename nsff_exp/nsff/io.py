"""The files of a scene folder that hold one frame each: found by their number, or by their order."""

import contextlib
import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from jaxtyping import Float, UInt8

from nsff.errors import InputError

log = logging.getLogger("nsff")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def list_images(folder: Path) -> list[Path]:
    """The images of a folder, sorted by name; the position in this list is a frame's number."""
    if not folder.is_dir():
        raise InputError(f"{folder} is missing; run run_colmap.py --data_path SCENE, or put the frames there")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def frame_files(folder: Path, images: list[Path], used: range, suffixes: tuple[str, ...], remedy: str) -> list[Path]:
    """The files of the frames in use.

    Files named by their frame (`00012.png`) are taken by it, then files named as the frame's image. Other names are
    taken in natural order (`f2` before `f10`) where there are as many as frames; the published code takes any names
    so, in plain order.

    Args:
        folder: one of the scene's, such as `disp`.
        images: of the whole sequence, in its order.
        used: the frames in use.
        suffixes: of the files.
        remedy: the script that makes them, for the error.

    Raises:
        InputError: a frame has no file, or the order of the names would not tell which it is.
    """
    there = [path for path in folder.glob("*") if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    preferred = sorted(there, reverse=True, key=lambda path: suffixes.index(path.suffix.lower()))
    by_stem = {path.stem: path for path in preferred}
    by_number = [f"{index:05d}" for index in used]
    missing = [stem for stem in by_number if stem not in by_stem]
    if not missing:
        return [by_stem[stem] for stem in by_number]
    as_images = [images[index].stem for index in used]
    if all(stem in by_stem for stem in as_images):
        return [by_stem[stem] for stem in as_images]
    numbered = any(f"{index:05d}" in by_stem for index in range(len(images)))
    counted_from_one = {f"{index + 1:05d}" for index in range(len(images))} == set(by_stem)
    if len(there) != len(images) or (numbered and not counted_from_one):
        raise InputError(f"{folder / missing[0]}{suffixes[0]} is missing; {remedy}")
    return [sorted(there, key=_natural)[index] for index in used]


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key that sorts frame2 before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name) if part]


def read_pixels(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """An 8-bit image file as RGB.

    Raises:
        InputError: missing or not readable to its end.
    """
    pixels = read_or_raise(path, lambda: iio.imread(path, plugin="pillow"))
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise InputError(f"{path} is not an 8-bit image (found {pixels.dtype}, shape {pixels.shape})")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return np.repeat(pixels[..., :1], 3, axis=-1) if pixels.shape[2] < 3 else pixels[..., :3]


def to_float(pixels: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    """0..255 to 0..1, float32."""
    return pixels.astype(np.float32) / 255.0


def read_or_raise(path: Path, reader: Callable[[], Any], remedy: str = "make it again") -> Any:
    if not path.is_file():
        raise InputError(f"{path} is missing; {remedy}")
    try:
        return reader()
    except Exception as error:  # whatever a broken or hostile file gives
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path} cannot be read, it may be cut off ({reason}); {remedy}") from error


def real_numbers(array: np.ndarray) -> np.ndarray:
    """An array of real numbers.

    Raises:
        ValueError: text, complex numbers, or no array at all.
    """
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ValueError(f"holds {getattr(array, 'dtype', 'several arrays')}, not real numbers")
    return array


JPEG_QUALITY = 95

Frame = UInt8[np.ndarray, "h w 3"]


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Say in one line what cannot be written.

    Raises:
        InputError: instead of an OSError within.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:160]
        raise InputError(
            f"cannot write to {folder.absolute()} ({reason}); what is done stays there, the same command goes on"
        ) from error


def claim_folder(folder: Path, note_name: str, settings: dict[str, Any]) -> None:
    """Make a folder for what depends on `settings`, which a note in it tells.

    Where it holds something else it is moved aside: nothing that took hours is deleted.
    """
    note, wanted = folder / note_name, json.loads(json.dumps(settings))
    try:
        same = json.loads(note.read_text()) == wanted
    except (FileNotFoundError, ValueError):  # no note, or a broken one
        same = False
    if not same and folder.is_dir() and any(folder.iterdir()):
        aside = next(path for k in itertools.count(1) if not (path := Path(f"{folder}-old{k}")).exists())
        folder.rename(aside)
        log.info("%s is of other settings; it is kept as %s", folder.name, aside.name)
    folder.mkdir(parents=True, exist_ok=True)
    if not same:
        with whole_file(note) as partial:
            partial.write_text(json.dumps(wanted) + "\n")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, moved there at the end: the file is there whole or not at all."""
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # a power cut leaves the old file or the new one
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_image(path: Path, frame: Frame) -> None:
    """One image file (png, or jpg of quality 95)."""
    options: dict[str, Any] = {"quality": JPEG_QUALITY, "subsampling": 0} if path.suffix == ".jpg" else {}
    encoded = iio.imwrite("<bytes>", frame, extension=path.suffix, **options)
    with whole_file(path) as partial:
        partial.write_bytes(encoded)
