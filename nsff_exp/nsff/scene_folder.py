"""The layout of a scene folder: the names of its files (docs/files.md), and how the files of its frames are found."""

import dataclasses
import re
from pathlib import Path

from nsff.errors import InputError
from nsff.images import image_size, is_image, list_images, natural_order

FLOW_FOLDERS = ("flow_i1", "flow")  # the second in the layout of DynamicNeRF
N_CAMERAS = 12  # of the rig whose images are held out (layout of the Dynamic Scene data)


@dataclasses.dataclass(frozen=True)
class SceneFolder:
    """The `dense` folder of a scene. The number of a frame is its position in the sorted list of `images/`."""

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

    def find_flow(self, index: int, step: int) -> Path:
        """The existing file of a flow, also in the layout of DynamicNeRF (`flow/000_fwd.npz`), else the usual one."""
        usual, direction = self.flow(index, step), "fwd" if step > 0 else "bwd"
        names = (f"{index:05d}_{direction}.npz", f"{index:03d}_{direction}.npz")
        candidates = (self.root / folder / name for folder in FLOW_FOLDERS for name in names)
        return next((path for path in candidates if path.is_file()), usual)

    def motion_mask(self, index: int) -> Path:
        return self.root / "motion_masks" / f"{index:05d}.png"

    def moving(self, index: int) -> Path:
        """Pixels that multi-view depth cannot explain by anything static."""
        return self.root / "moving" / f"{index:05d}.png"

    def list_images(self) -> list[Path]:
        """The images, in natural order.

        Raises:
            InputError: no such folder, or no image in it.
        """
        return list_images(self.images, f"run run_colmap.py --data_path {self.root.parent}, or put the frames there")

    def frames_folder(self, height: int | None = None) -> Path:
        """The folder `images_<W>x<height>`, or the only `images_<W>x<H>` that exists.

        Where there is none, folders of images reduced by a factor are taken (`images_2`, as in LLFF and DynamicNeRF).

        Raises:
            InputError: no scene folder, no such folder in it, or several.
        """
        if not self.root.is_dir():
            raise InputError(
                f"scene folder {self.root.absolute()} does not exist; give --datadir (in nsff_scripts --data_path)"
            )
        found = [
            path for path in self.root.glob(f"images_*x{height or '*'}") if re.fullmatch(r"images_\d+x\d+", path.name)
        ]
        found = found or [path for path in self.root.glob("images_*") if _is_reduced(path, height)]
        if not found and (self.root / "dense").is_dir():
            raise InputError(f"{self.root} is no scene folder, but {self.root / 'dense'} is: give that")
        if len(found) != 1:
            there = ", ".join(sorted(path.name for path in self.root.glob("images_*"))) or "none"
            raise InputError(
                f"{self.root} has {len(found)} folders images_<W>x{height or '<H>'} (found: {there}); give "
                f"--final_height (in nsff_scripts --resize_height), or run run_midas.py --data_path {self.root}"
                + (f" --resize_height {height}" if height else "")
            )
        return found[0]

    def list_frames(self, height: int | None = None) -> list[Path]:
        """The frames at training size, in natural order.

        Raises:
            InputError: no such folder, several, or no image in it.
        """
        return list_images(self.frames_folder(height), f"run run_midas.py --data_path {self.root}")


def _is_reduced(folder: Path, height: int | None) -> bool:
    """Whether a folder is called `images_<factor>` and its images have a height."""
    if not re.fullmatch(r"images_\d+", folder.name) or not folder.is_dir():
        return False
    first = next(filter(is_image, sorted(folder.iterdir())), None)
    return first is not None and height in (None, image_size(first)[1])


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
        InputError: a frame has no file, or the names would not tell which it is.
    """
    there = [path for path in folder.glob("*") if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    preferred = sorted(there, reverse=True, key=lambda path: suffixes.index(path.suffix.lower()))
    by_stem = {path.stem: path for path in preferred}
    numbers, stems = [f"{index:05d}" for index in range(len(images))], [image.stem for image in images]
    # All frames decide, not those in use: of files counted from one, 00001 to 00029 would pass for frames 1 to 29.
    for names in (numbers, stems):
        if by_stem.keys() >= set(names):
            return [by_stem[names[index]] for index in used]
    counted_from_one = by_stem.keys() == {f"{index + 1:05d}" for index in range(len(images))}
    if len(there) == len(images) and (counted_from_one or by_stem.keys().isdisjoint(numbers)):
        return [sorted(there, key=natural_order)[index] for index in used]
    names_in_use = [[names[index] for index in used] for names in (numbers, stems)]
    complete = [names for names in names_in_use if by_stem.keys() >= set(names)]
    if not complete:
        missing = next(name for name in names_in_use[0] if name not in by_stem)
        raise InputError(f"{folder / missing}{suffixes[0]} is missing; {remedy}")
    if complete[0] != complete[-1]:
        raise InputError(
            f"{folder}: frame {used[0]} may be {complete[0][0]} by its number or {complete[-1][0]} by the name of its "
            f"image, as not all frames have a file; {remedy}"
        )
    return [by_stem[name] for name in complete[0]]
