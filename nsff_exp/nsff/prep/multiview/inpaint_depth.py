"""Depth of every pixel from what was measured: filled in where a point moves, or where nothing could be measured.

One camera does not say how far away a thing is that moves. It is taken to be where it touches what is right below it,
and no farther than most of what is around it; nearer than that where it would then have to move least, as the paper's
least-kinetic term wants it. The rest is filled in along the colours of the image. Not part of the paper.
"""

import cv2
import numpy as np
import scipy.ndimage
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Float

from nsff.io import Image, Mask
from nsff.prep.motion_masks import disk
from nsff.prep.multiview.triangulate import Measured

RIM_RADIUS = 2  # pixels around something that moves, where depth is not to be trusted
BAND_RADIUS = 6  # pixels around something that moves, in which its depth is looked for
NEAREST = 0.98  # quantile of the inverse depths of the frame: nothing that moves is taken to be nearer
CONTACT_COLUMNS = 31  # of pixels: the median of so many smooths where something stands
PULL = 0.05  # of that depth against smoothness, a pixel
COLOUR_SCALE = 0.05  # difference of colour (0..1) at which neighbours hardly pull each other


def fill(measured: Measured, image: Image) -> Float[np.ndarray, "H W"]:
    """Inverse depth of every pixel: measured where it fits and nothing moves, else filled in.

    Solves for the rest: neighbours are alike where colours are; moving pixels are pulled to where they seem to stand,
    and do not touch still ones.
    """
    inverse_depth, moving = measured.inverse_depth, measured.moves
    known = measured.fits & (cv2.dilate(moving.astype(np.uint8), disk(RIM_RADIUS)) == 0)
    if not known.any():
        return np.ones_like(inverse_depth)
    target = np.zeros_like(inverse_depth)
    regions, labels = cv2.connectedComponents(moving.astype(np.uint8), connectivity=8)
    everywhere, nearest = (float(value) for value in np.quantile(inverse_depth[known], [0.5, NEAREST]))
    for region in range(1, regions):
        inside = labels == region
        band = (cv2.dilate(inside.astype(np.uint8), disk(BAND_RADIUS)) > 0) & known
        around = float(np.median(inverse_depth[band])) if band.any() else everywhere
        contact = _contact(inverse_depth, known, inside)
        slowest = float(np.median(measured.slowest[inside]))
        least = max(around, slowest if slowest < nearest else 0.0)
        target[inside] = np.maximum(least, contact)[np.nonzero(inside)[1]]
    return _solve(known, moving, inverse_depth, target, everywhere, image)


def _contact(inverse_depth: Float[np.ndarray, "H W"], known: Mask, inside: Mask) -> Float[np.ndarray, " W"]:
    """Inverse depth of what is right below a moving region, column by column; 0 where nothing is known at all."""
    width = inside.shape[1]
    found = np.full(width, np.nan)
    for column in np.flatnonzero(inside.any(axis=0)):
        lowest = int(np.flatnonzero(inside[:, column])[-1])
        below = slice(lowest + 1, lowest + 1 + 2 * BAND_RADIUS)
        if known[below, column].any():
            found[column] = np.median(inverse_depth[below, column][known[below, column]])
    columns = np.flatnonzero(np.isfinite(found))
    if not len(columns):
        return np.zeros(width)
    return scipy.ndimage.median_filter(np.interp(np.arange(width), columns, found[columns]), CONTACT_COLUMNS)


def _solve(
    known: Mask,
    moving: Mask,
    values: Float[np.ndarray, "H W"],
    target: Float[np.ndarray, "H W"],
    everywhere: float,
    image: Image,
) -> Float[np.ndarray, "H W"]:
    """Minimises sum w_pq (x_p - x_q)^2 + sum_moving PULL (x_p - target_p)^2 with x = values where known.

    Other unknown pixels are pulled to `everywhere`, hardly.
    """
    size = values.size
    index = np.arange(size).reshape(values.shape)
    rows, columns, weights = [], [], []
    colours = image.astype(np.float64) / 255.0
    for here, there in (((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
                        ((slice(1, None), slice(None)), (slice(None, -1), slice(None)))):  # fmt: skip
        difference = ((colours[here] - colours[there]) ** 2).sum(-1)
        weight = np.exp(-difference / COLOUR_SCALE**2) + 1e-4
        weight = np.where(moving[here] == moving[there], weight, 0.0)
        rows.append(index[here].ravel())
        columns.append(index[there].ravel())
        weights.append(weight.ravel())
    p, q, w = (np.concatenate(parts) for parts in (rows, columns, weights))
    graph = scipy.sparse.coo_matrix((w, (p, q)), (size, size))
    graph = (graph + graph.T).tocsr()
    pull = np.where(moving, PULL, 1e-6).ravel()  # the small one: islands without anything known have a solution too
    goal = np.where(moving, target, everywhere).ravel()
    matrix = scipy.sparse.diags(np.asarray(graph.sum(1)).ravel() + pull) - graph
    free = np.flatnonzero(~known.ravel())
    fixed = np.flatnonzero(known.ravel())
    out = values.ravel().copy()
    right = pull[free] * goal[free] - matrix[free][:, fixed] @ out[fixed]
    out[free] = scipy.sparse.linalg.spsolve(matrix[free][:, free].tocsc(), right)
    return out.reshape(values.shape)
