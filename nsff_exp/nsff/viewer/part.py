"""Parts of the page: the packed tiles of one field at one time, as files and as scripts."""

import base64
import dataclasses
import io
from pathlib import Path

import numpy as np
import PIL.Image
from jaxtyping import UInt16

from nsff.io import read_arrays, write_arrays
from nsff.viewer.tiles import Tiles

LEVELS = 64  # of colour and opacity; WebP with loss would halve the resolution of colours, which costs 4 dB

CLEAR = 6  # opacity, 0..255, below which a pixel is left out


@dataclasses.dataclass(frozen=True)
class Part:
    """Tiles with their atlas as a WebP picture."""

    places: UInt16[np.ndarray, "k 3"]  # as in `Tiles`
    webp: bytes

    @staticmethod
    def of(tiles: Tiles) -> "Part":
        """Encode the atlas, without loss but for the rounding to `LEVELS`."""
        content, step = io.BytesIO(), 255.0 / (LEVELS - 1)
        atlas = np.rint(np.rint(tiles.atlas / step) * step).astype(np.uint8)
        atlas[atlas[..., 3] < CLEAR] = 0
        PIL.Image.fromarray(atlas).save(content, "WEBP", lossless=True, quality=60, method=4, exact=True)
        return Part(tiles.places.astype(np.uint16), content.getvalue())

    @staticmethod
    def path(folder: Path, name: str) -> Path:
        return folder / f"{name}.npz"

    @staticmethod
    def read(folder: Path, name: str) -> "Part":
        """Read a part.

        Raises:
            InputError: missing or broken.
        """
        path = Part.path(folder, name)
        content = read_arrays(path, f"delete {path} and run export_viewer.py again")
        return Part(content["places"], content["webp"].tobytes())

    def write(self, folder: Path, name: str) -> None:
        write_arrays(self.path(folder, name), places=self.places, webp=np.frombuffer(self.webp, np.uint8))

    def tiles(self) -> Tiles:
        """The tiles as a browser sees them."""
        atlas = np.asarray(PIL.Image.open(io.BytesIO(self.webp)).convert("RGBA"))
        return Tiles(self.places.astype(np.int64), atlas)

    def script(self, name: str) -> str:
        """A script that gives the part to the page's program."""
        places = base64.b64encode(self.places.astype("<u2").tobytes()).decode()
        return f'PARTS["{name}"] = {{ places: "{places}", webp: "{base64.b64encode(self.webp).decode()}" }};'
