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


def frame_files(folder: Path, n_frames: int, suffixes: tuple[str, ...], remedy: str) -> list[Path]:
    """The file of each frame of a sequence of `n_frames`.

    Files named by their frame (`00012.png`) are taken by it. Other names are taken in natural order (`f2` before `f10`)
    where there are as many as frames, as the published code does.

    Args:
        folder: one of the scene's, such as `disp`.
        n_frames: of the whole sequence, not of the part that is used.
        suffixes: of its files.
        remedy: the script that makes them, for the error.

    Raises:
        InputError: a frame has no file, or names by frame and other names are mixed, so that the order says nothing.
    """
    there = [path for path in folder.glob("*") if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    by_stem = {
        path.stem: path for path in sorted(there, reverse=True, key=lambda path: suffixes.index(path.suffix.lower()))
    }
    wanted = [f"{index:05d}" for index in range(n_frames)]
    missing = [stem for stem in wanted if stem not in by_stem]
    if not missing:
        return [by_stem[stem] for stem in wanted]
    one_pattern = len({re.sub(r"\d+", "#", path.name) for path in there}) == 1
    if len(there) != n_frames or not (one_pattern or len(missing) == n_frames):
        raise InputError(f"{folder / missing[0]}{suffixes[0]} is missing; {remedy}")
    return sorted(there, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key that sorts frame2 before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name) if part]
