"""Depth without any weights: triangulated from optical flow and known poses, filled in where that says nothing.

Not part of the paper. What stands still is measured in several neighbours at once. What moves is at least as near as
most of what it hides: it gets a near depth of its surroundings. The rest is filled in along the colours of the image.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Bool, Float

from nsff_prep.flow import FlowMethod, consistent
from nsff_prep.folder import Flow, Image, Mask
from nsff_prep.motion import disk

OFFSETS = (-4, -2, -1, 1, 2, 4)  # frames: far ones for parallax, near ones for what is seen there only
ROBUST_ROUNDS, ROBUST_PIXELS = 5, 0.5  # reweighted least squares, near an absolute error beyond so many pixels
# Larger residuals mean that something moves: pixels, and a share of how far a point shifts (flow errs with its length).
FITS_BELOW, FITS_SHARE = 1.0, 0.02
LEAST_PARALLAX = 1.0  # pixels between the direction to infinity and where a point was seen, over all neighbours
LEAST_VIEWS = 2
SPECK_RADIUS = 2  # pixels: smaller moving specks are dropped
BAND_RADIUS = 6  # pixels around something that moves, in which its depth is looked for
NEAREST_SHARE = 0.75  # of the inverse depths there: not the nearest of all, which may hide the moving thing itself
PULL = 0.05  # of that depth against smoothness, a pixel
COLOUR_SCALE = 0.05  # difference of colour (0..1) at which neighbours hardly pull each other


@dataclasses.dataclass(frozen=True)
class Measured:
    """Inverse depth of the pixels of a frame, from its neighbours."""

    inverse_depth: Float[np.ndarray, "H W"]
    residual: Float[np.ndarray, "H W"]  # pixels, mean over the neighbours that see the pixel
    fits: Bool[np.ndarray, "H W"]  # seen often enough, with parallax, and standing still
    moves: Bool[np.ndarray, "H W"]  # seen often enough, and not where a still point would be


def triangulate(
    flows: Sequence[Flow],
    masks: Sequence[Mask],
    neighbours: Float[np.ndarray, "k 3 4"],
    camera: Float[np.ndarray, "3 4"],
    intrinsics: Float[np.ndarray, "3 3"],
) -> Measured:
    """Inverse depths that project each pixel to where its flows arrive, least squares made robust.

    A neighbour sees (R d + rho t), with d the ray of the pixel (depth 1) and rho its inverse depth: both coordinates
    of the arrival are a linear equation in rho.

    Args:
        flows: to each neighbour, pixels.
        masks: where each is to be trusted.
        neighbours: w2c of each, axes right, down, forward.
        camera: w2c of the frame.
        intrinsics: of all.
    """
    height, width = flows[0].shape[:2]
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float64)
    focal, centre = intrinsics[0, 0], intrinsics[:2, 2]
    rays = np.concatenate([(grid - centre) / focal, np.ones((height, width, 1))], axis=-1)
    slopes, offsets, trusted = [], [], []
    for flow, mask, neighbour in zip(flows, masks, neighbours, strict=True):
        rotation = neighbour[:, :3] @ camera[:, :3].T
        shift = neighbour[:, 3] - rotation @ camera[:, 3]
        far, arrival = rays @ rotation.T, (grid + flow - centre) / focal
        far_depth = np.maximum(far[..., 2:], 1e-3)  # a pixel of error weighs the same at every depth, nearly
        slopes.append((shift[:2] - arrival * shift[2]) / far_depth * focal)
        offsets.append((arrival * far[..., 2:] - far[..., :2]) / far_depth * focal)
        trusted.append(mask[..., None] & (far[..., 2:] > 1e-3))
    a, b, trust = np.stack(slopes), np.stack(offsets), np.stack(trusted).astype(np.float64)
    weight = trust
    for _ in range(ROBUST_ROUNDS):
        rho = (weight * a * b).sum((0, -1)) / np.maximum((weight * a * a).sum((0, -1)), 1e-12)
        error = np.linalg.norm(a * rho[..., None] - b, axis=-1, keepdims=True)
        weight = trust / np.maximum(error, ROBUST_PIXELS)
    views = trust.sum((0, -1))
    residual = (trust * error).sum((0, -1)) / np.maximum(views, 1.0)
    parallax = np.sqrt((trust * (a * rho[..., None]) ** 2).sum((0, -1)))
    often = views >= LEAST_VIEWS
    limit = FITS_BELOW + FITS_SHARE * parallax / np.sqrt(np.maximum(views, 1.0))
    fits = often & (residual < limit) & (parallax > LEAST_PARALLAX) & (rho > 0.0)
    return Measured(rho, residual, fits, _without_specks(often & (residual >= limit)))


def _without_specks(mask: Mask) -> Mask:
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disk(SPECK_RADIUS)) > 0


def fill(measured: Measured, moving: Mask, image: Image) -> Float[np.ndarray, "H W"]:
    """Inverse depth of every pixel: measured where it fits and nothing moves, else filled in.

    Solves for the rest: neighbours are alike where colours are; moving pixels are pulled to a near depth of what
    is around them, and do not touch still ones.
    """
    known = measured.fits & ~moving
    if not known.any():
        return np.ones_like(measured.inverse_depth)
    target = np.zeros_like(measured.inverse_depth)
    regions, labels = cv2.connectedComponents(moving.astype(np.uint8), connectivity=8)
    everywhere = float(np.median(measured.inverse_depth[known]))
    for region in range(1, regions):
        inside = labels == region
        band = (cv2.dilate(inside.astype(np.uint8), disk(BAND_RADIUS)) > 0) & known
        nearest = np.quantile(measured.inverse_depth[band], NEAREST_SHARE) if band.any() else everywhere
        target[inside] = nearest
    return _solve(known, moving, measured.inverse_depth, target, everywhere, image)


def _solve(
    known: Mask,
    moving: Mask,
    values: Float[np.ndarray, "H W"],
    target: Float[np.ndarray, "H W"],
    everywhere: float,
    image: Image,
) -> Float[np.ndarray, "H W"]:
    """Minimises sum w_pq (x_p - x_q)^2 + sum_moving PULL (x_p - target_p)^2 with x = values where known."""
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


def measure(
    frames: Sequence[Image],
    index: int,
    w2c: Float[np.ndarray, "n 3 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    method: FlowMethod,
) -> Measured:
    """Inverse depth of one frame from its neighbours `OFFSETS` away.

    Args:
        frames: all frames, one size.
        index: of the frame.
        w2c: of all frames.
        intrinsics: at this size.
        method: of optical flow.
    """
    others = [index + offset for offset in OFFSETS if 0 <= index + offset < len(frames)]
    there = [method(frames[index], frames[other]) for other in others]
    back = [method(frames[other], frames[index]) for other in others]
    masks = [consistent(*pair) for pair in zip(there, back, strict=True)]
    return triangulate(there, masks, w2c[others], w2c[index], intrinsics)
