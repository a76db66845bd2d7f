"""Sharper edges of what moves: compare a frame with the background that its neighbours show. Not part of the paper.

Optical flow is smooth across the edges of things, so that the background beside a thing seems to move with it. Where
the thing is elsewhere in a neighbour, that neighbour shows the background itself: all of them together give a clean
plate of the frame, and pixels that look like their plate are background.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Shaped

from nsff.io import Flow, Image, Mask
from nsff.prep.motion_masks import disk
from nsff.prep.multiview.inpaint_depth import known_static
from nsff.prep.multiview.triangulate import MeasuredDepth, project_static, static_flow

OFFSETS = (-1, 1, -2, 2, -3, 3, -4, 4, -6, 6, -8, 8)  # Frames that may show what is behind a thing.
MASK_MARGIN = 1  # Pixels around the moving ones of a neighbour that do not count as background.
SAME_SURFACE = 0.9  # Inverse depths of a pixel of at least this fraction of the largest are of one surface.
MIN_SHOWN = 2  # Neighbours that must show the background of a pixel.
NOISE, MISALIGNMENT = 12.0, 0.7  # Grey levels, and pixels, by which a plate may differ from the background.
SMOOTHING = 3  # Pixels: side of the box over which differences are averaged.
OPENING_RADIUS = 1  # Pixels: thinner remains of a region are dropped.


@dataclasses.dataclass(frozen=True)
class MeasuredFrames:
    """All frames with their cameras and measured depth.

    Attributes:
        frames: images of one size.
        measured: measured depth per frame; edges that are sharp already show more of the background.
        w2c: poses, axes right, down, forward.
        intrinsics: intrinsics at the size of the frames.
    """

    frames: Sequence[Image]
    measured: Sequence[MeasuredDepth]
    w2c: Float[np.ndarray, "n 3 4"]
    intrinsics: Float[np.ndarray, "3 3"]


def sharpen_edges(around: MeasuredFrames, index: int, here: MeasuredDepth) -> MeasuredDepth:
    """Take the background beside moving things out of the moving pixels of a frame.

    Only background that touches the outside of a region is taken out: a thing may have the colour of what is behind it.

    Args:
        around: all frames.
        index: the frame.
        here: its measured depth to change, which `around` may hold with sharper edges.

    Returns:
        The measured depth of the frame with fewer moving pixels; those taken out have the depth of the background.
    """
    if not here.moving.any():
        return here
    neighbours = [index + offset for offset in OFFSETS if 0 <= index + offset < len(around.frames)]
    behind = background_inverse_depth(around, index, here, neighbours)
    differs = ~_looks_like_plate(around, index, here.moving, neighbours, behind)
    background = here.moving & ~differs & (behind > 0.0)
    outside = _connected_to(~here.moving | background, ~here.moving)
    if not (outside & here.moving).any():
        return here
    moving = cv2.morphologyEx((~outside).astype(np.uint8), cv2.MORPH_OPEN, disk(OPENING_RADIUS)) > 0
    moving &= here.moving
    taken_out = here.moving & ~moving & (behind > 0.0)
    return dataclasses.replace(
        here.restricted_to(moving),
        inverse_depth=np.where(taken_out, behind, here.inverse_depth),
        valid=here.valid | taken_out,
    )


def background_inverse_depth(
    around: MeasuredFrames, index: int, here: MeasuredDepth, neighbours: Sequence[int]
) -> Float[np.ndarray, "H W"]:
    """Inverse depth of the static surface at each pixel of a frame, where needed as its neighbours have measured it.

    Returns:
        Inverse depths; 0 where none has measured it.
    """
    known, shape, w2c = known_static(here), here.moving.shape, around.w2c
    hits = [
        project_static(there.inverse_depth, known_static(there), w2c[index], w2c[k], around.intrinsics)
        for k, there in ((k, around.measured[k]) for k in neighbours)
    ]
    pixels, values = (np.concatenate(parts) for parts in zip(*hits, strict=True))
    nearest = np.zeros(here.moving.size, np.float32)
    np.maximum.at(nearest, pixels, values)
    same = values >= SAME_SURFACE * nearest[pixels]
    count = np.bincount(pixels[same], minlength=nearest.size)
    total = np.bincount(pixels[same], values[same], nearest.size)
    behind = (total / np.maximum(count, 1)).reshape(shape)
    return np.where(known, here.inverse_depth, _fill_pinholes(behind)).astype(np.float32)


def _fill_pinholes(values: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Give pixels of value 0 the mean of the pixels around them that have another one."""
    weight = cv2.blur((values > 0.0).astype(np.float64), (3, 3))
    mean = cv2.blur(values, (3, 3)) / np.maximum(weight, 1e-9)
    return np.where((values <= 0.0) & (weight > 0.3), mean, values)


def _looks_like_plate(
    around: MeasuredFrames, index: int, moving: Mask, neighbours: Sequence[int], behind: Float[np.ndarray, "H W"]
) -> Mask:
    """Mask the moving pixels that have the colour of the background in most of the neighbours that show it."""
    frame = around.frames[index].astype(np.float32)
    colours = np.full((len(neighbours), int(moving.sum()), 3), np.nan, np.float32)
    for colour, k in zip(colours, neighbours, strict=True):
        flow, inside = static_flow(behind, around.w2c[k], around.w2c[index], around.intrinsics)
        blocked = cv2.dilate(around.measured[k].moving.astype(np.uint8), disk(MASK_MARGIN))
        shows = inside[moving] & (_look_up(blocked, moving, flow, cv2.INTER_NEAREST) == 0)
        colour[shows] = _look_up(around.frames[k], moving, flow, cv2.INTER_CUBIC)[shows]
    shown = np.isfinite(colours[..., 0]).sum(0) >= MIN_SHOWN
    plate, enough = frame.copy(), np.zeros_like(moving)
    enough[moving] = shown
    plate[enough] = np.nanmedian(colours[:, shown], axis=0)
    slope = np.stack([cv2.Sobel(plate, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1))])
    tolerance = NOISE + MISALIGNMENT * np.linalg.norm(slope, axis=0).max(-1)
    difference = np.abs(cv2.blur(frame - plate, (SMOOTHING, SMOOTHING))).max(-1)
    return enough & (difference < tolerance)


def _look_up(
    image: Shaped[np.ndarray, "H W ..."], pixels: Mask, flow: Flow, interpolation: int
) -> Shaped[np.ndarray, "m ..."]:
    """Values of an image where the flow of some pixels leads."""
    rows, columns = np.nonzero(pixels)
    x, y = (np.stack([columns, rows], axis=0) + flow[pixels].T).astype(np.float32)
    wide = cv2.BORDER_REPLICATE
    parts = [
        cv2.remap(image, x[k : k + 30_000, None], y[k : k + 30_000, None], interpolation, borderMode=wide)[:, 0]
        for k in range(0, len(x), 30_000)  # remap takes images of less than 2^15 rows
    ]
    return np.concatenate(parts) if parts else image.reshape(-1, *image.shape[2:])[:0]


def _connected_to(mask: Mask, seeds: Mask) -> Mask:
    """The pixels of a mask that are connected with seeds inside it."""
    labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[1]
    return np.isin(labels, np.unique(labels[seeds & mask])) & mask
