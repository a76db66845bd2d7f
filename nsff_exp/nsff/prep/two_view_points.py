"""Sparse points of frames with known cameras, measured by optical flow between neighbours."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float

from nsff.cli import progress_bar
from nsff.errors import InputError
from nsff.geometry.poses import Pose
from nsff.images import read_image
from nsff.io import Image
from nsff.prep.flow import DisFlow, consistent
from nsff.prep.motion_masks import epipolar_distance, fundamental
from nsff.prep.network_sizes import resize_image
from nsff.prep.sparse_model import SparseModel

WIDTH = 480  # Pixels; flow is computed on frames of this width.
STRIDE = 6  # Every 6th row and column gives a point.
STEPS = (1, 3)  # Frames between the two views: small steps match better, large ones measure better.
MAX_EPIPOLAR_PIXELS = 1.0  # Flow farther off the epipolar line is of a moving point, or wrong.
MIN_RAY_ANGLE = 0.3  # Degrees between the rays to a point; below it, an error of a pixel moves it out of sight.
MIN_POINTS = 30  # Of a frame.


def measure_points(model: SparseModel, paths: list[Path]) -> SparseModel:
    """The model with points that static pixels of neighbouring frames determine.

    Args:
        model: cameras without points.
        paths: images of its frames, in its order.

    Raises:
        InputError: a frame shares too few points with its neighbours.
    """
    size = (WIDTH, round(WIDTH * model.size[1] / model.size[0]))
    images = [resize_image(read_image(path), size) for path in paths]
    points: list[Float[np.ndarray, "k 3"]] = []
    observed: list[list[np.ndarray]] = [[] for _ in paths]
    n_points = 0
    pairs = [(k, k + step) for k in range(len(paths)) for step in STEPS if k + step < len(paths)]
    for first, second in progress_bar(pairs, desc="points", unit="pair"):
        found = _points_of_pair(model, images, first, second)
        for frame in (first, second):
            observed[frame].append(np.arange(n_points, n_points + len(found)))
        points.append(found)
        n_points += len(found)
    for path, indices in zip(paths, observed, strict=True):
        if sum(map(len, indices)) < MIN_POINTS:
            raise InputError(
                f"{path} shares too few static points with its neighbours to measure depth: the camera must move "
                "sideways; check the poses, or give a point cloud (ply_file_path)"
            )
    return dataclasses.replace(
        model, points=np.concatenate(points), observed=[np.concatenate(indices) for indices in observed]
    )


def _points_of_pair(model: SparseModel, images: list[Image], first: int, second: int) -> Float[np.ndarray, "k 3"]:
    """Points that both frames see at a sufficient angle, in front of both."""
    height, width = images[first].shape[:2]
    scale = np.array([width / model.size[0], height / model.size[1]])
    (fx, fy), (cx, cy) = model.focal * scale, model.principal_point * scale
    intrinsics = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    poses, flow_of = model.w2c[[first, second]], DisFlow()
    flow, inverse = flow_of(images[first], images[second]), flow_of(images[second], images[first])
    off_line = epipolar_distance(flow, fundamental(poses[0], poses[1], intrinsics))
    usable = consistent(flow, inverse) & (off_line < MAX_EPIPOLAR_PIXELS)
    rows, columns = np.nonzero(usable[::STRIDE, ::STRIDE])
    start = np.stack([columns, rows], axis=1).astype(np.float64) * STRIDE
    end = start + flow[rows * STRIDE, columns * STRIDE]
    if not len(start):
        return np.zeros((0, 3))
    found = cv2.triangulatePoints(intrinsics @ poses[0], intrinsics @ poses[1], start.T, end.T)
    points = (found[:3] / np.where(found[3] == 0.0, 1e-12, found[3])).T
    (first_ray, first_depth), (second_ray, second_depth) = (_ray_and_depth(points, pose) for pose in poses)
    cosine = np.clip((first_ray * second_ray).sum(axis=1), -1.0, 1.0)
    in_front = (first_depth > 0.0) & (second_depth > 0.0)
    return points[in_front & (np.degrees(np.arccos(cosine)) >= MIN_RAY_ANGLE)]


def _ray_and_depth(points: Float[np.ndarray, "k 3"], w2c: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Unit directions from a camera to the points, in the world, and their depths."""
    to_point = points + w2c[:, :3].T @ w2c[:, 3]
    return to_point / np.linalg.norm(to_point, axis=1, keepdims=True), points @ w2c[2, :3] + w2c[2, 3]
