"""Picture sheets: what a stage made, small, side by side, to be looked at."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from torch import from_numpy

from nsff.io import Flow, Image, Mask, write_image

WIDTH = 240  # of a picture on the sheet
MOST_ROWS = 12  # frames on a sheet, evenly chosen
MASK_COLOUR = np.array([255, 40, 40])


def chosen(n_frames: int) -> list[int]:
    """The frames that a sheet shows."""
    return sorted({round(k) for k in np.linspace(0, n_frames - 1, min(n_frames, MOST_ROWS))})


def disparity_picture(disparity: Float[np.ndarray, "H W"]) -> Image:
    """Near is bright; the outermost hundredth is clipped."""
    low, high = np.percentile(disparity, [1, 99])
    share = np.clip((disparity - low) / max(high - low, 1e-9), 0.0, 1.0)
    return (colormaps["inferno"](share)[..., :3] * 255).astype(np.uint8)


def flow_picture(flow: Flow) -> Image:
    """Hue is direction, saturation is length."""
    from torchvision.utils import flow_to_image  # here: it takes seconds to import

    return flow_to_image(from_numpy(np.ascontiguousarray(flow.transpose(2, 0, 1)))).permute(1, 2, 0).numpy()


def mask_picture(image: Image, mask: Mask) -> Image:
    """The frame with what moves in red."""
    mixed = np.where(mask[..., None], 0.4 * image + 0.6 * MASK_COLOUR, image)
    return mixed.astype(np.uint8)


def write_contact_sheet(path: Path, rows: list[list[Image]]) -> None:
    """One row of pictures a frame."""
    height, width = rows[0][0].shape[:2]
    size = (WIDTH, max(1, round(WIDTH * height / width)))
    small = [[cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in row] for row in rows]
    write_image(path, np.concatenate([np.concatenate(row, axis=1) for row in small]))
