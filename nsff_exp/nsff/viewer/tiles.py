"""Cut layers into small tiles, leave out the empty ones, and pack the rest into one picture."""

import dataclasses

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from nsff.errors import InputError
from nsff.viewer.layers import Layers

TILE, BORDER = 32, 1  # pixels of a tile, and of its neighbours' that are packed with it for bilinear look-ups
PACKED = TILE + 2 * BORDER
MAX_ATLAS_SIDE = 4096  # pixels; what every WebGL implementation of today takes
MIN_OPACITY = 0.03  # a tile that is nowhere more opaque is left out
FILL = 5  # pixels: side of the box from which pixels without opacity take their colour


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Tiles of some layers.

    Attributes:
        places: layer, row and column of each, the latter in tiles.
        atlas: colour and opacity, 0..255; tile k lies at row k // n and column k % n of the atlas, n tiles wide.
    """

    places: Int[np.ndarray, "k 3"]
    atlas: UInt8[np.ndarray, "H W 4"]

    @staticmethod
    def of(layers: Layers, size: tuple[int, int]) -> "Tiles":
        """Cut layers, images of (height, width), into tiles.

        Raises:
            InputError: too many tiles for one picture.
        """
        height, width = size
        rows, columns = -(-height // TILE), -(-width // TILE)
        places, tiles = [], []
        for index, layer in enumerate(layers):
            if not bool((layer[3] > MIN_OPACITY).any()):
                continue
            image = _straight_colours(layer.float().view(4, height, width).cpu().numpy())
            after = (BORDER + rows * TILE - height, BORDER + columns * TILE - width)
            padded = np.pad(image, ((BORDER, after[0]), (BORDER, after[1]), (0, 0)), mode="edge")
            for row in range(rows):
                for column in range(columns):
                    tile = padded[row * TILE :, column * TILE :][:PACKED, :PACKED]
                    if tile[..., 3].max() > 255.0 * MIN_OPACITY:
                        places.append((index, row, column))
                        tiles.append(np.rint(tile).astype(np.uint8))
        return Tiles(np.array(places, np.int64).reshape(-1, 3), _pack(tiles))

    def layers(self, n_layers: int, size: tuple[int, int]) -> Layers:
        """Put the tiles into layers again, what is left out empty."""
        height, width = size
        per_row = self.atlas.shape[1] // PACKED
        layers = np.zeros((n_layers, -(-height // TILE) * TILE, -(-width // TILE) * TILE, 4), np.float32)
        for k, (layer, row, column) in enumerate(self.places):
            top, left = k // per_row * PACKED + BORDER, k % per_row * PACKED + BORDER
            tile = self.atlas[top : top + TILE, left : left + TILE].astype(np.float32) / 255.0
            layers[layer, row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = tile
        layers[..., :3] *= layers[..., 3:]
        return torch.from_numpy(layers[:, :height, :width].transpose(0, 3, 1, 2)).half().flatten(2)


def _straight_colours(layer: Float[np.ndarray, "4 h w"]) -> Float[np.ndarray, "h w 4"]:
    """Divide colours by opacity, 0..255; pixels without opacity take the colour beside them, for the look-ups."""
    image = np.ascontiguousarray(layer.transpose(1, 2, 0))
    around = cv2.blur(image, (FILL, FILL), borderType=cv2.BORDER_REPLICATE)
    image[..., :3] = np.where(
        image[..., 3:] > 1.0 / 255.0,
        image[..., :3] / np.maximum(image[..., 3:], 1e-6),
        around[..., :3] / np.maximum(around[..., 3:], 1e-6),
    )
    return image.clip(0.0, 1.0) * 255.0


def _pack(tiles: list[UInt8[np.ndarray, "_ _ 4"]]) -> UInt8[np.ndarray, "H W 4"]:
    per_row = MAX_ATLAS_SIDE // 2 // PACKED
    if len(tiles) > 2 * per_row * per_row:
        per_row *= 2
    if len(tiles) > per_row * (MAX_ATLAS_SIDE // PACKED):
        raise InputError(
            f"the layers have {len(tiles)} tiles, more than a browser's largest picture holds; "
            "choose a higher --render_factor or fewer --planes"
        )
    per_row = max(1, min(per_row, len(tiles)))
    atlas = np.zeros((max(1, -(-len(tiles) // per_row)) * PACKED, per_row * PACKED, 4), np.uint8)
    for k, tile in enumerate(tiles):
        top, left = k // per_row * PACKED, k % per_row * PACKED
        atlas[top : top + PACKED, left : left + PACKED] = tile
    return atlas
