"""Depth of static pixels without weights, from known poses and the flow to several neighbours. Not part of the paper.

A plane sweep gives an initial depth, by which the neighbours are warped onto the frame. Where optical flow still finds
a shift to most warped neighbours, the pixel moves; elsewhere the shifts refine the depth by triangulation.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from nsff.geometry.moving_regions import MovingFlow
from nsff.io import Flow, Image, Mask
from nsff.prep.flow import FlowMethod, consistent
from nsff.prep.motion_masks import disk
from nsff.prep.multiview.plane_sweep import sweep_reduced

# Frame offsets in order of preference: near frames show pixels that are soon occluded, far ones give parallax. Later
# offsets stand in for those beyond the ends of the video.
OFFSETS, MAX_NEIGHBOURS = (-1, 1, -2, 2, -4, 4, -6, 6, -8, 8), 6
MAX_STATIC_SHIFT = 0.7  # Pixels of residual flow to a warped neighbour up to which a pixel is static in it.
MIN_STATIC_FRACTION = 0.34  # A pixel is static if at least this fraction of the neighbours that show it say so.
MIN_VIEWS = 2  # Pixels that fewer neighbours show are not measured.
MIN_PARALLAX = 1.0  # Pixels of shift against a point at infinity, over all neighbours; below it, depth is unreliable.
OPENING_RADIUS = 3  # Pixels: smaller moving specks are dropped.
IRLS_ITERATIONS, IRLS_PIXELS = 5, 0.5  # Reweighted least squares: errors count linearly beyond this many pixels.
MIN_DEPTH = 1e-3  # Nearer points, and those behind the camera, are not projected.


@dataclasses.dataclass(frozen=True)
class MeasuredDepth:
    """Inverse depth of the pixels of a frame, measured from its neighbours.

    Attributes:
        inverse_depth: in inverse units of the poses.
        valid: pixels that are static, in view of enough neighbours and have parallax.
        moving: pixels in view of enough neighbours that no static point explains.
        min_motion_inverse_depth: inverse depth at which each moving pixel would move least between the adjacent frames;
            may be negative or implausibly large. Moving pixels are in the order of `np.nonzero`.
        moving_flows: flow of the moving pixels to the frames before (-1) and after (1), as far as there are.
    """

    inverse_depth: Float[np.ndarray, "H W"]
    valid: Bool[np.ndarray, "H W"]
    moving: Bool[np.ndarray, "H W"]
    min_motion_inverse_depth: Float[np.ndarray, " m"]
    moving_flows: dict[int, Float[np.ndarray, "m 2"]]

    def restricted_to(self, moving: Mask) -> "MeasuredDepth":
        """The same with fewer moving pixels."""
        kept = moving[self.moving]
        flows = {step: flow[kept] for step, flow in self.moving_flows.items()}
        min_motion = self.min_motion_inverse_depth[kept]
        return dataclasses.replace(self, moving=moving, min_motion_inverse_depth=min_motion, moving_flows=flows)


def follow_moving(measured: Sequence[MeasuredDepth]) -> list[MovingFlow]:
    """Check the flow of the moving pixels of all frames against the flow back."""

    def dense(index: int, step: int) -> Flow:
        flow = np.zeros((*measured[index].moving.shape, 2), np.float32)
        flow[measured[index].moving] = measured[index].moving_flows[step]
        return flow

    def check(index: int) -> MovingFlow:
        moving, flows = measured[index].moving, measured[index].moving_flows
        trusted = {step: consistent(dense(index, step), dense(index + step, -step))[moving] for step in flows}
        return MovingFlow(moving, flows, trusted)

    return [check(index) for index in range(len(measured))]


def neighbour_indices(index: int, n_frames: int) -> list[int]:
    """Choose the frames from which a frame is measured."""
    return [index + offset for offset in OFFSETS if 0 <= index + offset < n_frames][:MAX_NEIGHBOURS]


def measure_depth(
    frames: Sequence[Image],
    index: int,
    w2c: Float[np.ndarray, "n 3 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    nearest: float,
    method: FlowMethod,
    sweep_scale: float = 1.0,
) -> MeasuredDepth:
    """Measure the inverse depth of one frame.

    Args:
        frames: all frames of the video.
        index: the frame to measure.
        w2c: poses of all frames, axes right, down, forward.
        intrinsics: intrinsics at the size of the frames.
        nearest: approximate depth of the nearest points of the scene.
        method: optical flow.
        sweep_scale: size of the frames in the plane sweep over their own. The sweep takes most of the time; the flow
            that refines its depth is always computed on the whole frames.
    """
    frame, neighbours, camera = frames[index], neighbour_indices(index, len(frames)), w2c[index]
    shown = [frames[k] for k in neighbours]
    initial = sweep_reduced(frame, shown, w2c[neighbours], camera, intrinsics, nearest, sweep_scale)
    flows, visible, static = [], [], []
    for neighbour in neighbours:
        expected, inside = static_flow(initial, w2c[neighbour], camera, intrinsics)
        residual = method(frame, _warp(frames[neighbour], expected))
        flows.append(expected + residual)
        visible.append(inside)
        static.append(inside & (np.linalg.norm(residual, axis=-1) < MAX_STATIC_SHIFT))
    n_views = np.sum(visible, axis=0)
    is_static = np.sum(static, axis=0) >= np.maximum(MIN_STATIC_FRACTION * n_views, 1.0)
    inverse_depth, parallax = triangulate(flows, static, w2c[neighbours], camera, intrinsics)
    in_view = n_views >= MIN_VIEWS
    valid = in_view & is_static & (parallax > MIN_PARALLAX) & (inverse_depth > 0.0)
    moving = cv2.morphologyEx((in_view & ~is_static).astype(np.uint8), cv2.MORPH_OPEN, disk(OPENING_RADIUS)) > 0
    adjacent = [k for k in (index - 1, index + 1) if k in neighbours]
    adjacent_flows = [method(frame, frames[k]) for k in adjacent]
    everywhere = [np.ones_like(moving)] * len(adjacent)
    min_motion, _ = triangulate(adjacent_flows, everywhere, w2c[adjacent], camera, intrinsics)
    moving_flows = {k - index: flow[moving] for k, flow in zip(adjacent, adjacent_flows, strict=True)}
    return MeasuredDepth(inverse_depth.astype(np.float32), valid, moving, min_motion[moving], moving_flows)


def project_static(
    inverse_depth: Float[np.ndarray, "H W"],
    mask: Mask,
    neighbour: Float[np.ndarray, "3 4"],
    camera: Float[np.ndarray, "3 4"],
    intrinsics: Float[np.ndarray, "3 3"],
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Project static pixels into a neighbour.

    Args:
        inverse_depth: inverse depth of the frame.
        mask: pixels to project.
        neighbour: w2c of the neighbour, axes right, down, forward.
        camera: w2c of the frame.
        intrinsics: intrinsics of both.

    Returns:
        The nearest pixel (row-major) of the neighbour and the inverse depth there, of those that it shows.
    """
    flow, inside = static_flow(inverse_depth, neighbour, camera, intrinsics)
    shown = mask & inside
    rows, columns = np.nonzero(shown)
    target = np.rint(np.stack([columns, rows], axis=1) + flow[shown]).astype(np.int64)
    _, rays = _pixel_rays(mask.shape[0], mask.shape[1], intrinsics)
    rotation = neighbour[:, :3] @ camera[:, :3].T
    translation = neighbour[:, 3] - rotation @ camera[:, 3]
    depth_ratio = rays[shown] @ rotation[2] + inverse_depth[shown] * translation[2]
    return target[:, 1] * mask.shape[1] + target[:, 0], (inverse_depth[shown] / depth_ratio).astype(np.float32)


def static_flow(
    inverse_depth: Float[np.ndarray, "H W"],
    neighbour: Float[np.ndarray, "3 4"],
    camera: Float[np.ndarray, "3 4"],
    intrinsics: Float[np.ndarray, "3 3"],
) -> tuple[Flow, Mask]:
    """Flow to a neighbour in a static scene, and the mask of the pixels whose flow ends inside the neighbour.

    Args:
        inverse_depth: inverse depth of the frame.
        neighbour: w2c of the neighbour, axes right, down, forward.
        camera: w2c of the frame.
        intrinsics: intrinsics of both.
    """
    height, width = inverse_depth.shape
    pixels, rays = _pixel_rays(height, width, intrinsics)
    rotation = neighbour[:, :3] @ camera[:, :3].T
    points = rays @ rotation.T + inverse_depth[..., None] * (neighbour[:, 3] - rotation @ camera[:, 3])
    depth = points[..., 2:]
    target = points[..., :2] / np.where(depth > MIN_DEPTH, depth, 1.0) * intrinsics[0, 0] + intrinsics[:2, 2]
    inside = ((target >= 0.0) & (target <= [width - 1, height - 1])).all(-1) & (depth[..., 0] > MIN_DEPTH)
    return (target - pixels).astype(np.float32), inside


def _pixel_rays(
    height: int, width: int, intrinsics: Float[np.ndarray, "3 3"]
) -> tuple[Float[np.ndarray, "H W 2"], Float[np.ndarray, "H W 3"]]:
    """Pixels (right, down), and their rays of depth 1."""
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float64)
    directions = (pixels - intrinsics[:2, 2]) / intrinsics[0, 0]
    return pixels, np.concatenate([directions, np.ones((height, width, 1))], axis=-1)


def _warp(image: Image, flow: Flow) -> Image:
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
    """Fit the inverse depth of each pixel to its flows by iteratively reweighted least squares.

    A neighbour with relative pose (R, t) sees the pixel at R d + rho t, with d the ray of the pixel (depth 1) and rho
    its inverse depth, so that both coordinates of the flow's target give a linear equation in rho.

    Args:
        flows: flow to each neighbour, pixels.
        masks: pixels where each flow is trusted.
        neighbours: w2c of each neighbour, axes right, down, forward.
        camera: w2c of the frame.
        intrinsics: intrinsics of all.

    Returns:
        The inverse depths, and the parallax: the shift against a point at infinity, in pixels, over all neighbours.
    """
    height, width = flows[0].shape[:2]
    focal, centre = intrinsics[0, 0], intrinsics[:2, 2]
    pixels, rays = _pixel_rays(height, width, intrinsics)
    slopes, offsets, trusted = [], [], []
    for flow, mask, neighbour in zip(flows, masks, neighbours, strict=True):
        rotation = neighbour[:, :3] @ camera[:, :3].T
        translation = neighbour[:, 3] - rotation @ camera[:, 3]
        at_infinity, target = rays @ rotation.T, (pixels + flow - centre) / focal
        depth = np.maximum(at_infinity[..., 2:], MIN_DEPTH)  # dividing by it makes errors nearly those of pixels
        slopes.append((translation[:2] - target * translation[2]) / depth * focal)
        offsets.append((target * at_infinity[..., 2:] - at_infinity[..., :2]) / depth * focal)
        trusted.append(mask[..., None] & (at_infinity[..., 2:] > MIN_DEPTH))
    a, b, trust = (np.stack(parts).astype(np.float32) for parts in (slopes, offsets, trusted))
    weight = trust
    for _ in range(IRLS_ITERATIONS):
        rho = (weight * a * b).sum((0, -1)) / np.maximum((weight * a * a).sum((0, -1)), 1e-12)
        error = np.linalg.norm(a * rho[..., None] - b, axis=-1, keepdims=True)
        weight = trust / np.maximum(error, IRLS_PIXELS)
    return rho, np.sqrt((trust * (a * rho[..., None]) ** 2).sum((0, -1)))
