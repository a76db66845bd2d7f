"""The files of a scene (layout: docs/files.md): their names, and writing them whole or not at all."""

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from nsff.prep.script import PrepError

ASIDE = ".partial-"  # folders that begin so are rubble if nobody is at work
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
N_CAMERAS = 12  # of the rig whose pictures are held out (layout of the Dynamic Scene data)

Image = UInt8[np.ndarray, "H W 3"]
Mask = Bool[np.ndarray, "H W"]
Flow = Float[np.ndarray, "H W 2"]


@dataclasses.dataclass(frozen=True)
class SceneFolder:
    """The `dense` folder of a scene. A frame's number is its place in the sorted list of `images/`."""

    root: Path

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def poses_bounds(self) -> Path:
        return self.root / "poses_bounds.npy"

    def frames(self, width: int, height: int) -> Path:
        """The folder of the frames at training size."""
        return self.root / f"images_{width}x{height}"

    def disparity(self, index: int) -> Path:
        return self.root / "disp" / f"{index:05d}.npy"

    def flow(self, index: int, step: int) -> Path:
        """Flow from frame `index` to `index + step`, step 1 or -1."""
        return self.root / "flow_i1" / f"{index:05d}_{'fwd' if step > 0 else 'bwd'}.npz"

    def motion_mask(self, index: int) -> Path:
        return self.root / "motion_masks" / f"{index:05d}.png"

    def moving(self, index: int) -> Path:
        """What depth from neighbours could not explain by anything that stands still."""
        return self.root / "moving" / f"{index:05d}.png"

    def list_images(self) -> list[Path]:
        """The images, sorted by name.

        Raises:
            PrepError: there is no folder, or nothing in it.
        """
        return list_images(self.images, f"run run_colmap.py --data_path {self.root.parent}")

    def list_frames(self, height: int | None = None) -> list[Path]:
        """The frames at training size, of the folder `images_<W>x<height>`, or of the only one there is.

        Raises:
            PrepError: no such folder, or several.
        """
        found = [
            path for path in self.root.glob(f"images_*x{height or '*'}") if re.fullmatch(r"images_\d+x\d+", path.name)
        ]
        if len(found) != 1:
            names = ", ".join(sorted(path.name for path in found)) or "none"
            raise PrepError(
                f"{self.root} must have one folder images_<W>x{height or '<H>'} (found: {names}); "
                f"run run_midas.py --data_path {self.root}, or choose one with --resize_height"
            )
        return list_images(found[0], f"run run_midas.py --data_path {self.root}")


def list_images(folder: Path, remedy: str) -> list[Path]:
    """The images of a folder, sorted by name.

    Raises:
        PrepError: there is no folder, or no image in it.
    """
    if not folder.is_dir():
        raise PrepError(f"{folder} is missing; {remedy}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise PrepError(f"{folder} holds no png or jpg image; {remedy}")
    return paths


def in_order(path: Path) -> list[tuple[int, str]]:
    """A key that sorts frame2 before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name) if part]


def read_image(path: Path, upright: bool = False) -> Image:
    """An image as 8-bit RGB, as it is stored, or turned as the camera was held.

    Raises:
        PrepError: not readable to its end.
    """
    try:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION))
    except (cv2.error, MemoryError):  # absurdly large, or says so
        pixels = None
    if pixels is None:
        raise PrepError(f"{path} cannot be read as an image; make it again")
    return np.ascontiguousarray(pixels[..., ::-1])


def read_frames(paths: list[Path], upright: bool = False) -> Iterator[Image]:
    """Images one by one.

    Raises:
        PrepError: one has another size than the first.
    """
    first = None
    for path in paths:
        frame = read_image(path, upright)
        first = first or (path.name, frame.shape)
        if frame.shape != first[1]:
            (height, width), (first_height, first_width) = frame.shape[:2], first[1][:2]
            raise PrepError(
                f"{path} is {width}x{height}, {first[0]} is {first_width}x{first_height}: all frames must have one size"
            )
        yield frame


def read_own_masks(folder: Path, n_frames: int, chosen: Sequence[int] = (), n_all: int = 0) -> list[Mask]:
    """Masks that the user made, one a frame, in the order of their names: 0 = still, bright (or any label) = moving.

    Args:
        folder: of the masks.
        n_frames: the frames that are used.
        chosen: which frames of their source these are; a mask for each of all `n_all` of them is welcome as well.
        n_all: frames of the source.

    Raises:
        PrepError: not one for each frame, or nothing in any of them.
    """
    paths = sorted(list_images(folder, "give a folder with a mask for each frame"), key=in_order)
    if len(paths) == n_all and len(chosen) == n_frames:
        paths = [paths[k] for k in chosen]
    if len(paths) != n_frames:
        raise PrepError(f"{folder} has {len(paths)} masks for {n_frames} frames; give one for each")
    masks = []
    for path in paths:
        brightest = read_image(path).max(axis=-1)
        masks.append(brightest > 0.5 * max(1, brightest.max()))
    if not any(mask.any() for mask in masks):
        raise PrepError(f"{folder}: all masks are black; what moves must be white")
    return masks


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when all of it is on the disk; else nothing changes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise PrepError(f"cannot write {path} ({error.strerror or error})") from error
    finally:
        aside.unlink(missing_ok=True)


def write_image(path: Path, pixels: UInt8[np.ndarray, "H W 3"] | UInt8[np.ndarray, "H W"], fine: bool = False) -> None:
    """RGB or grey, in the format of the suffix; `fine`: a jpg that loses next to nothing."""
    options = []
    if path.suffix.lower() in (".jpg", ".jpeg"):
        options = [cv2.IMWRITE_JPEG_QUALITY, 99 if fine else 95]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444] if fine else []
    done, data = cv2.imencode(path.suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels, options)
    if not done:
        raise PrepError(f"cannot encode {path}")
    with written_whole(path) as file:
        file.write(data.tobytes())


def write_array(path: Path, array: np.ndarray) -> None:
    """A .npy file."""
    content = io.BytesIO()  # numpy itself does not notice if a disk is too full for the end of a small file
    np.save(content, array)
    with written_whole(path) as file:
        file.write(content.getvalue())


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """A .npz file."""
    with written_whole(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def write_text(path: Path, text: str) -> None:
    with written_whole(path) as file:
        file.write(text.encode())


def read_array(path: Path, remedy: str) -> Any:
    """A .npy file, or all of an .npz file as a dict.

    Raises:
        PrepError: missing or broken.
    """
    if not path.is_file():
        raise PrepError(f"{path} is missing; {remedy}")
    try:
        content = np.load(path, allow_pickle=False)
        if path.suffix == ".npy" and (not isinstance(content, np.ndarray) or content.dtype.kind not in "fiu"):
            raise ValueError("not an array of real numbers")
        return content if isinstance(content, np.ndarray) else {name: content[name] for name in content.files}
    except Exception as error:  # whatever a broken file gives
        raise PrepError(f"{path} cannot be read, it may be cut off; {remedy}") from error
