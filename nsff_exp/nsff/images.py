"""Images: found in a folder, put in order, and read as 8-bit RGB."""

import functools
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
import PIL.Image
import PIL.ImageOps
from jaxtyping import Float

from nsff.errors import InputError
from nsff.io import Image, read_or_raise

log = logging.getLogger("nsff")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".avif")
READABLE = "png, jpg, webp, tif, bmp, ppm or avif"  # The same in words.
# Of pictures that the libraries at hand cannot read: named where they lie among others, so that no frame is missing
# without a word.
UNREADABLE_SUFFIXES = (
    ".heic", ".heif", ".jxl", ".jp2", ".exr", ".hdr", ".gif", ".psd", ".svg", ".tga", ".dng", ".cr2", ".cr3",
    ".nef", ".arw", ".raf", ".orf", ".rw2",
)  # fmt: skip
MAY_BE_TRANSPARENT = (".png", ".webp", ".tif", ".tiff", ".bmp", ".avif")
MAX_NAMES = 3  # Files named in a message.


def is_image(path: Path) -> bool:
    """Whether a file is an image by its name; hidden files (of macOS, of an unfinished write) are none."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def find_image(folder: Path, stem: str, suffix: str) -> Path:
    """The image of this stem, with any suffix in any case; `<stem><suffix>` where none exists."""
    usual = folder / f"{stem}{suffix}"
    if usual.is_file() or not folder.is_dir():
        return usual
    return next((path for path in sorted(folder.iterdir()) if path.stem == stem and is_image(path)), usual)


def natural_order(path: Path | str) -> tuple[list[tuple[str, int]], str]:
    """A sort key that puts frame2 before frame10, and frame before frame1, whatever their suffixes.

    Characters outside of numbers compare as in plain sorting, a number as its first digit would.
    """
    name = path.name if isinstance(path, Path) else path
    key: list[tuple[str, int]] = []
    for k, part in enumerate(re.split(r"([0-9]+)", os.path.splitext(name)[0])):
        key += [("0", int(part))] if k % 2 else [(character, 0) for character in part]
    return key, name  # the name tells 1 from 01


def list_images(
    folder: Path, remedy: str = "run run_colmap.py --data_path SCENE, or put the frames there"
) -> list[Path]:
    """The images of a folder in natural order (frame2 before frame10).

    Pictures in formats that cannot be read, and an order that differs from that of plain sorting, are named in the log.

    Raises:
        InputError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is missing; {remedy}")
    there = [path for path in folder.iterdir() if not path.name.startswith(".")]
    paths = sorted((path for path in there if is_image(path)), key=natural_order)
    unreadable = sorted((path for path in there if path.suffix.lower() in UNREADABLE_SUFFIXES), key=natural_order)
    if not paths:
        found = f" (found {_name_some(unreadable)}: convert them)" if unreadable else ""
        raise InputError(f"{folder} holds no image ({READABLE}){found}; {remedy}")
    if unreadable:
        _say_once(
            logging.WARNING,
            f"{folder}: {_name_some(unreadable)} cannot be read and would be missing among the {len(paths)} images; "
            "convert to png or jpg",
        )
    plain = sorted(paths)
    if plain != paths:
        first = next(k for k in range(len(paths)) if plain[k] != paths[k])
        _say_once(
            logging.INFO,
            f"{folder}: images are taken in natural order, {paths[first].name} before {plain[first].name} (plain "
            "sorting, as in the published code, has it the other way round)",
        )
    return paths


def _name_some(paths: list[Path]) -> str:
    names = ", ".join(path.name for path in paths[:MAX_NAMES])
    return names + (f" and {len(paths) - MAX_NAMES} more" if len(paths) > MAX_NAMES else "")


@functools.cache
def _say_once(level: int, text: str) -> None:
    """Log a line about a folder that is looked at many times."""
    log.log(level, "%s", text)


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image as it is stored, from its header.

    Raises:
        InputError: missing, or no image.
    """

    def read() -> tuple[int, int]:
        with PIL.Image.open(path) as image:
            return image.size

    return read_or_raise(path, read)


def read_pixels(path: Path) -> Image:
    """An 8-bit image file as RGB, as it is stored; transparent pixels are composited on black.

    Raises:
        InputError: missing, not readable to its end, or not 8-bit.
    """
    if path.is_file() and (composited := _composite_on_black(path, upright=False)) is not None:
        return composited
    pixels = read_or_raise(path, lambda: iio.imread(path, plugin="pillow"))
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise InputError(f"{path} is not an 8-bit image (found {pixels.dtype}, shape {pixels.shape})")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return np.repeat(pixels[..., :1], 3, axis=-1) if pixels.shape[2] < 3 else pixels[..., :3]


def read_image(path: Path, upright: bool = False) -> Image:
    """An image of any kind as 8-bit RGB; `upright` applies its EXIF orientation.

    Transparent pixels are composited on black, and that is said once per folder.

    Raises:
        InputError: not readable to its end.
    """
    if (composited := _composite_on_black(path, upright)) is not None:
        return composited
    try:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION))
    except (cv2.error, MemoryError):  # absurdly large, or claims to be
        pixels = None
    if pixels is None:
        raise InputError(f"{path} cannot be read as an image; make it again")
    return np.ascontiguousarray(pixels[..., ::-1])


def _composite_on_black(path: Path, upright: bool) -> Image | None:
    """The image on black where its file has transparent pixels, else None."""
    if path.suffix.lower() not in MAY_BE_TRANSPARENT:
        return None
    try:
        with PIL.Image.open(path) as image:
            if not image.has_transparency_data:
                return None
            rgba = np.asarray((PIL.ImageOps.exif_transpose(image) if upright else image).convert("RGBA"))
    except Exception:  # of many types, for a broken file; the reader of opaque images names it
        return None
    alpha = rgba[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return None
    _say_once(logging.WARNING, f"{path.parent}: transparent pixels of the images are composited on black")
    return ((rgba[..., :3] * alpha + 127) // 255).astype(np.uint8)


def read_frames(paths: list[Path], upright: bool = False) -> Iterator[Image]:
    """Images one by one.

    Raises:
        InputError: one has another size than the first.
    """
    first = None
    for path in paths:
        frame = read_image(path, upright)
        first = first or (path.name, frame.shape)
        if frame.shape != first[1]:
            (height, width), (first_height, first_width) = frame.shape[:2], first[1][:2]
            raise InputError(
                f"{path} is {width}x{height}, {first[0]} is {first_width}x{first_height}: all frames must have one size"
            )
        yield frame


def to_float(pixels: Image) -> Float[np.ndarray, "H W 3"]:
    """0..255 to 0..1, float32."""
    return pixels.astype(np.float32) / 255.0
