"""Contact sheets: small pictures of the results of a stage, for visual checks."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from torch import from_numpy

from nsff.io import Flow, Image, Mask, write_image

PICTURE_WIDTH = 240  # Pixels of a picture on the sheet.
MAX_ROWS = 12  # Frames of longer videos are subsampled evenly.
MASK_COLOUR = np.array([255, 40, 40])
MASK_ALPHA = 0.6
CLIPPED_PERCENTILES = 1, 99  # Disparities beyond are clipped, so that outliers do not darken the picture.


def preview_indices(n_frames: int) -> list[int]:
    """Choose the frames of a contact sheet: all, or `MAX_ROWS` evenly spaced ones."""
    return sorted({round(k) for k in np.linspace(0, n_frames - 1, min(n_frames, MAX_ROWS))})


def disparity_picture(disparity: Float[np.ndarray, "H W"]) -> Image:
    """Colour a disparity: near is bright."""
    low, high = np.percentile(disparity, CLIPPED_PERCENTILES)
    brightness = np.clip((disparity - low) / max(high - low, 1e-9), 0.0, 1.0)
    return (colormaps["inferno"](brightness)[..., :3] * 255).astype(np.uint8)


def flow_picture(flow: Flow) -> Image:
    """Colour a flow: hue is direction, saturation is length."""
    from torchvision.utils import flow_to_image  # takes seconds to import

    return flow_to_image(from_numpy(np.ascontiguousarray(flow.transpose(2, 0, 1)))).permute(1, 2, 0).numpy()


def mask_picture(image: Image, mask: Mask) -> Image:
    """Tint the masked pixels of an image red."""
    tinted = np.where(mask[..., None], (1.0 - MASK_ALPHA) * image + MASK_ALPHA * MASK_COLOUR, image)
    return tinted.astype(np.uint8)


def write_contact_sheet(path: Path, rows: list[list[Image]]) -> None:
    """Write pictures of one size as a contact sheet, one row per frame."""
    height, width = rows[0][0].shape[:2]
    size = (PICTURE_WIDTH, max(1, round(PICTURE_WIDTH * height / width)))
    small = [[cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in row] for row in rows]
    write_image(path, np.concatenate([np.concatenate(row, axis=1) for row in small]))
