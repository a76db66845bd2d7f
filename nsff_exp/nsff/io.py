"""Files: texts and arrays read with checks, everything written whole or not at all; images are read in `images`."""

import contextlib
import hashlib
import io
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from nsff.errors import InputError, reason_of

log = logging.getLogger("nsff")

JPEG_QUALITY = 95
TMP_PREFIX = ".partial-"  # of files and folders that are not finished; left behind by a killed run only

Image = UInt8[np.ndarray, "H W 3"]
Mask = Bool[np.ndarray, "H W"]
Flow = Float[np.ndarray, "H W 2"]


def read_or_raise(path: Path, reader: Callable[[], Any], remedy: str = "make it again") -> Any:
    """The result of `reader`, with one clear line for whatever a missing, broken or hostile file gives.

    Raises:
        InputError: missing, or the reader fails.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; {remedy}")
    try:
        return reader()
    except Exception as error:
        reason = reason_of(error)
        raise InputError(f"{path} cannot be read, it may be cut off ({reason}); {remedy}") from error


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without the byte order mark that editors on Windows put first.

    Raises:
        OSError: it is missing or cannot be read.
        UnicodeDecodeError: it is in another encoding.
    """
    return path.read_text(encoding="utf-8-sig")


def real_numbers(array: Any) -> np.ndarray:
    """The array, checked to hold real numbers.

    Raises:
        ValueError: text, complex numbers, or no array at all.
    """
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ValueError(f"holds {getattr(array, 'dtype', 'several arrays')}, not real numbers")
    return array


def read_array(path: Path, remedy: str) -> np.ndarray:
    """A .npy file of real numbers; nothing in it is executed.

    Raises:
        InputError: missing or broken.
    """
    return read_or_raise(path, lambda: real_numbers(np.load(path, allow_pickle=False)), remedy)


def read_arrays(path: Path, remedy: str) -> dict[str, np.ndarray]:
    """All arrays of an .npz file; nothing in it is executed.

    Raises:
        InputError: missing or broken.
    """

    def read() -> dict[str, np.ndarray]:
        with np.load(path, allow_pickle=False) as content:
            return dict(content)

    return read_or_raise(path, read, remedy)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which takes the place of `path` at the end: it is there whole or not at all.

    Several processes may write one path; the last one wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{TMP_PREFIX}{os.getpid()}-{path.name}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # a power cut leaves the old file or the new one
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Report in one line what cannot be written.

    Raises:
        InputError: instead of an OSError within.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or reason_of(error)
        raise InputError(
            f"cannot write to {folder.absolute()} ({reason}); finished files stay, the same command resumes"
        ) from error


def write_text(path: Path, text: str) -> None:
    """A text file in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """A file of bytes, read back in size: a full disk is not always an error to the system.

    Raises:
        InputError: it cannot be written.
    """
    with writing_to(path.parent), atomic_write(path) as partial:
        partial.write_bytes(content)


def write_image(path: Path, pixels: Image | UInt8[np.ndarray, "H W"], quality: int = JPEG_QUALITY) -> None:
    """An RGB or grey image in the format of the suffix; jpg without chroma subsampling.

    Raises:
        InputError: it cannot be written.
    """
    options = []
    if path.suffix.lower() in (".jpg", ".jpeg"):
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(path.suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels, options)
    if not done:
        raise InputError(f"cannot encode {path}")
    write_bytes(path, data.tobytes())


def write_array(path: Path, array: np.ndarray) -> None:
    """A .npy file."""
    content = io.BytesIO()  # numpy itself does not notice a disk that is too full for the end of a small file
    np.save(content, array)
    write_bytes(path, content.getvalue())


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """A .npz file."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_bytes(path, content.getvalue())


def digest_of_files(paths: Iterable[Path], root: Path | None = None) -> str:
    """Hash of the paths, relative to `root` if given, sizes and modification times of files, 16 hexadecimal digits.

    A file that another one has replaced shows, also where the other one is older.
    """
    facts = [
        (str(path.relative_to(root) if root else path), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(paths)
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and of those in it; none if it does not exist."""
    return [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []


def claim_folder(folder: Path, note_name: str, settings: dict[str, Any]) -> None:
    """Make a folder for results that depend on `settings`, which are kept in a note inside it.

    A folder with other settings is moved aside: nothing that took hours is deleted.
    """
    note, wanted = folder / note_name, json.loads(json.dumps(settings))
    try:
        same = json.loads(read_text(note)) == wanted
    except (FileNotFoundError, ValueError):  # no note, or a broken one
        same = False
    if not same and folder.is_dir() and any(folder.iterdir()):
        aside = next(path for k in itertools.count(1) if not (path := Path(f"{folder}-old{k}")).exists())
        folder.rename(aside)
        log.info("%s has other settings; it is kept as %s", folder.name, aside.name)
    folder.mkdir(parents=True, exist_ok=True)
    if not same:
        write_text(note, json.dumps(wanted) + "\n")
