"""Dense depth from measured depth: fill in pixels that move or could not be measured. Not part of the paper.

A single camera does not determine the depth of a moving thing. Where its track gives it (`track_depth`), it has that
depth. Else it is assumed to stand on the surface right below it, no farther than most of its surroundings, and nearer
where it would then move least, in the spirit of the paper's least-kinetic term. The remaining pixels are filled in
along the colours of the image.
"""

from collections.abc import Mapping
from types import MappingProxyType

import cv2
import numpy as np
import scipy.ndimage
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Float, Int

from nsff.io import Image, Mask
from nsff.prep.motion_masks import disk
from nsff.prep.multiview.triangulate import MeasuredDepth

RIM_RADIUS = 2  # Pixels around a moving region in which measured depth is not trusted.
BAND_RADIUS = 6  # Pixels around a moving region in which the depth of its surroundings is measured.
NEAREST_QUANTILE = 0.98  # Of the inverse depths of the frame; least-motion depths nearer than it are rejected.
CONTACT_COLUMNS = 31  # Width in pixels of the median filter along the line of contact.
PRIOR_WEIGHT = 0.05  # Of the assumed depth of moving pixels, against weights up to 1 between neighbouring pixels.
WEAK_PRIOR_WEIGHT = 1e-6  # Of the median depth; makes regions without any measured pixel solvable.
COLOUR_SCALE = 0.05  # Neighbouring pixels whose colours (0..1) differ by more hardly constrain each other.
MIN_SMOOTHNESS = 1e-4  # Weight between neighbouring pixels of any colours.


def inpaint_depth(
    measured: MeasuredDepth,
    image: Image,
    labels: Int[np.ndarray, "H W"],
    tracked: Mapping[int, float] = MappingProxyType({}),
) -> Float[np.ndarray, "H W"]:
    """Inverse depth of every pixel: measured where valid and static, else the solution of `_solve`.

    Args:
        measured: measured depth of the frame.
        image: the frame, whose colours guide the filling.
        labels: moving region of each pixel, from 1 on; 0 where none is.
        tracked: median inverse depth of those regions whose track gives it, by label.

    Returns:
        Inverse depths in the units of the measured ones; all 1 if nothing was measured.
    """
    inverse_depth = measured.inverse_depth.astype(np.float64)
    known = known_static(measured)
    if not known.any():
        return np.ones_like(inverse_depth)
    prior = np.zeros_like(inverse_depth)
    median, nearest = (float(value) for value in np.quantile(inverse_depth[known], [0.5, NEAREST_QUANTILE]))
    for label in range(1, int(labels.max()) + 1):
        region = labels == label
        band = (cv2.dilate(region.astype(np.uint8), disk(BAND_RADIUS)) > 0) & known
        surroundings = float(np.median(inverse_depth[band])) if band.any() else median
        min_motion = float(np.median(measured.min_motion_inverse_depth[region[measured.moving]]))
        lower_bound = max(surroundings, min_motion if min_motion < nearest else 0.0)
        contact = _contact(inverse_depth, known, region)
        prior[region] = np.maximum(lower_bound, contact)[np.nonzero(region)[1]]
    prior = np.where(measured.moving, prior, median)
    solution = _solve(known, measured.moving, inverse_depth, prior, image)
    for (
        label,
        value,
    ) in tracked.items():  # a region keeps its shape, which no other region nor the background takes part in
        region = labels == label
        solution[region] *= value / np.median(solution[region])
    return solution


def contact_inverse_depth(measured: MeasuredDepth, region: Mask) -> float:
    """Median inverse depth of the surface right below a moving region; 0 if nothing below it is known."""
    return float(np.median(_contact(measured.inverse_depth, known_static(measured), region)[region.any(axis=0)]))


def known_static(measured: MeasuredDepth) -> Mask:
    """Pixels whose measured depth is trusted: those beside moving ones are not."""
    return measured.valid & (cv2.dilate(measured.moving.astype(np.uint8), disk(RIM_RADIUS)) == 0)


def _contact(inverse_depth: Float[np.ndarray, "H W"], known: Mask, region: Mask) -> Float[np.ndarray, " W"]:
    """Inverse depth right below a moving region, per column; 0 everywhere if nothing below it is known."""
    width = region.shape[1]
    below_region = np.full(width, np.nan)
    for column in np.flatnonzero(region.any(axis=0)):
        lowest = int(np.flatnonzero(region[:, column])[-1])
        below = slice(lowest + 1, lowest + 1 + 2 * BAND_RADIUS)
        if known[below, column].any():
            below_region[column] = np.median(inverse_depth[below, column][known[below, column]])
    columns = np.flatnonzero(np.isfinite(below_region))
    if not len(columns):
        return np.zeros(width)
    interpolated = np.interp(np.arange(width), columns, below_region[columns])
    return scipy.ndimage.median_filter(interpolated, CONTACT_COLUMNS)


def _solve(
    known: Mask,
    moving: Mask,
    values: Float[np.ndarray, "H W"],
    prior: Float[np.ndarray, "H W"],
    image: Image,
) -> Float[np.ndarray, "H W"]:
    """Minimise sum_pq w_pq (x_p - x_q)^2 + sum_p l_p (x_p - prior_p)^2 subject to x = values where known.

    The weights w_pq between neighbouring pixels fall with their difference of colour and vanish between moving and
    static pixels; l_p is `PRIOR_WEIGHT` for moving pixels and `WEAK_PRIOR_WEIGHT` for others.
    """
    size = values.size
    index = np.arange(size).reshape(values.shape)
    rows, columns, weights = [], [], []
    colours = image.astype(np.float64) / 255.0
    whole, later, earlier = slice(None), slice(1, None), slice(None, -1)
    for first, second in (((whole, later), (whole, earlier)), ((later, whole), (earlier, whole))):
        difference = ((colours[first] - colours[second]) ** 2).sum(-1)
        weight = np.exp(-difference / COLOUR_SCALE**2) + MIN_SMOOTHNESS
        weight = np.where(moving[first] == moving[second], weight, 0.0)
        rows.append(index[first].ravel())
        columns.append(index[second].ravel())
        weights.append(weight.ravel())
    p, q, w = (np.concatenate(parts) for parts in (rows, columns, weights))
    graph = scipy.sparse.coo_matrix((w, (p, q)), (size, size))
    graph = (graph + graph.T).tocsr()
    prior_weight = np.where(moving, PRIOR_WEIGHT, WEAK_PRIOR_WEIGHT).ravel()
    matrix = scipy.sparse.diags(np.asarray(graph.sum(1)).ravel() + prior_weight) - graph
    free = np.flatnonzero(~known.ravel())
    fixed = np.flatnonzero(known.ravel())
    solution = values.ravel().copy()
    right_side = prior_weight[free] * prior.ravel()[free] - matrix[free][:, fixed] @ solution[fixed]
    solution[free] = scipy.sparse.linalg.spsolve(matrix[free][:, free].tocsc(), right_side)
    return solution.reshape(values.shape)
