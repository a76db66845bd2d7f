"""Depth without any weights, of what stands still: from known poses, the colours and the flow of several neighbours.

A plane sweep gives a first depth. The neighbours, warped by it onto the frame, must then lie on it: where optical flow
still finds a shift in most of them, something moves; elsewhere the shifts make the depth finer. Not part of the paper.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float

from nsff.io import Flow, Image, Mask
from nsff.prep.flow import FlowMethod
from nsff.prep.motion_masks import disk
from nsff.prep.multiview.plane_sweep import inverse_depth_planes, sweep

# Frames: far ones for parallax, near ones for what is seen there only; farther ones where some do not exist.
OFFSETS, MOST_NEIGHBOURS = (-1, 1, -2, 2, -4, 4, -6, 6, -8, 8), 6
STILL_BELOW = 0.7  # pixels of shift that flow may find between a frame and a warped neighbour
STILL_SHARE = 0.34  # of the neighbours that see a point: it stands still if it lies where it should in so many
LEAST_VIEWS = 2
LEAST_PARALLAX = 1.0  # pixels between the direction to infinity and where a point was seen, over all neighbours
SPECK_RADIUS = 3  # pixels: smaller moving specks are dropped
ROBUST_ROUNDS, ROBUST_PIXELS = 5, 0.5  # reweighted least squares, near an absolute error beyond so many pixels


@dataclasses.dataclass(frozen=True)
class Measured:
    """Inverse depth of the pixels of a frame, from its neighbours."""

    inverse_depth: Float[np.ndarray, "H W"]
    fits: Bool[np.ndarray, "H W"]  # seen often enough, with parallax, and standing still
    moves: Bool[np.ndarray, "H W"]  # seen often enough, and not where a still point would be
    slowest: Float[np.ndarray, "H W"]  # inverse depth at which the pixel would move least; any number


def neighbours_of(index: int, n_frames: int) -> list[int]:
    """The frames that a frame is measured from."""
    return [index + offset for offset in OFFSETS if 0 <= index + offset < n_frames][:MOST_NEIGHBOURS]


def measure(
    frames: Sequence[Image],
    index: int,
    w2c: Float[np.ndarray, "n 3 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    nearest: float,
    method: FlowMethod,
) -> Measured:
    """Inverse depth of one frame.

    Args:
        frames: all frames, one size.
        index: of the frame.
        w2c: of all frames.
        intrinsics: at this size.
        nearest: depth of the nearest points of the scene, about.
        method: of optical flow.
    """
    frame, others, camera = frames[index], neighbours_of(index, len(frames)), w2c[index]
    planes = inverse_depth_planes(w2c[others], camera, intrinsics[0, 0], nearest)
    first = sweep(frame, [frames[other] for other in others], w2c[others], camera, intrinsics, planes)
    flows, seen, still = [], [], []
    for other in others:
        expected, inside = expected_flow(first, w2c[other], camera, intrinsics)
        shift = method(frame, _warped(frames[other], expected))
        flows.append(expected + shift)
        seen.append(inside)
        still.append(inside & (np.linalg.norm(shift, axis=-1) < STILL_BELOW))
    views = np.sum(seen, axis=0)
    stands = np.sum(still, axis=0) >= np.maximum(STILL_SHARE * views, 1.0)
    inverse_depth, parallax = triangulate(flows, still, w2c[others], camera, intrinsics)
    often = views >= LEAST_VIEWS
    fits = often & stands & (parallax > LEAST_PARALLAX) & (inverse_depth > 0.0)
    moves = cv2.morphologyEx((often & ~stands).astype(np.uint8), cv2.MORPH_OPEN, disk(SPECK_RADIUS)) > 0
    near = [k for k in (index - 1, index + 1) if k in others]
    plain = [method(frame, frames[other]) for other in near]
    slowest, _ = triangulate(plain, [np.ones_like(moves)] * len(near), w2c[near], camera, intrinsics)
    return Measured(inverse_depth, fits, moves, slowest)


def expected_flow(
    inverse_depth: Float[np.ndarray, "H W"],
    neighbour: Float[np.ndarray, "3 4"],
    camera: Float[np.ndarray, "3 4"],
    intrinsics: Float[np.ndarray, "3 3"],
) -> tuple[Flow, Mask]:
    """Flow to a neighbour if nothing moves, and where it ends inside of it.

    Args:
        inverse_depth: of the frame.
        neighbour: its w2c, axes right, down, forward.
        camera: w2c of the frame.
        intrinsics: of both.
    """
    height, width = inverse_depth.shape
    grid, rays = _rays(height, width, intrinsics)
    rotation = neighbour[:, :3] @ camera[:, :3].T
    there = rays @ rotation.T + inverse_depth[..., None] * (neighbour[:, 3] - rotation @ camera[:, 3])
    depth = there[..., 2:]
    arrival = there[..., :2] / np.where(depth > 1e-3, depth, 1.0) * intrinsics[0, 0] + intrinsics[:2, 2]
    inside = ((arrival >= 0.0) & (arrival <= [width - 1, height - 1])).all(-1) & (depth[..., 0] > 1e-3)
    return (arrival - grid).astype(np.float32), inside


def _rays(
    height: int, width: int, intrinsics: Float[np.ndarray, "3 3"]
) -> tuple[Float[np.ndarray, "H W 2"], Float[np.ndarray, "H W 3"]]:
    """Pixels (right, down), and their rays of depth 1."""
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float64)
    directions = (grid - intrinsics[:2, 2]) / intrinsics[0, 0]
    return grid, np.concatenate([directions, np.ones((height, width, 1))], axis=-1)


def _warped(image: Image, flow: Flow) -> Image:
    height, width = image.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(image, x + flow[..., 0], y + flow[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def triangulate(
    flows: Sequence[Flow],
    masks: Sequence[Mask],
    neighbours: Float[np.ndarray, "k 3 4"],
    camera: Float[np.ndarray, "3 4"],
    intrinsics: Float[np.ndarray, "3 3"],
) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Inverse depths that project each pixel to where its flows arrive, least squares made robust.

    A neighbour sees (R d + rho t), with d the ray of the pixel (depth 1) and rho its inverse depth: both coordinates
    of the arrival are a linear equation in rho.

    Args:
        flows: to each neighbour, pixels.
        masks: where each is to be trusted.
        neighbours: w2c of each, axes right, down, forward.
        camera: w2c of the frame.
        intrinsics: of all.

    Returns:
        The inverse depths, and how far the points shift by them, in pixels, over all neighbours.
    """
    height, width = flows[0].shape[:2]
    focal, centre = intrinsics[0, 0], intrinsics[:2, 2]
    grid, rays = _rays(height, width, intrinsics)
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
    return rho, np.sqrt((trust * (a * rho[..., None]) ** 2).sum((0, -1)))
