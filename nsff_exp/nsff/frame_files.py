"""The files of a scene folder that hold one frame each: found by their number, or by their order."""

import re
from pathlib import Path

from nsff.config import InputError

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
