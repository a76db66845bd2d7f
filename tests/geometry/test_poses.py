"""Camera poses: conversion, scale, recentring and interpolation."""

import math

import numpy as np
import pytest
import torch
from nsff.geometry.poses import Intrinsics, average, from_llff, interpolate, recentre, scene_scale, to_llff
from nsff.geometry.rays import camera_rays
from scipy.spatial.transform import Rotation


def random_poses(n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    rotations = Rotation.from_rotvec(rng.normal(0, 0.2, (n, 3))).as_matrix()
    return np.concatenate([rotations, rng.normal(0, 1, (n, 3, 1))], axis=2)


def test_cameras_all_around_have_an_average_pose():
    angles = np.linspace(0.0, 2.0 * np.pi, 12, endpoint=False)
    rotations = Rotation.from_rotvec(angles[:, None] * [0.0, 1.0, 0.0]).as_matrix()
    poses = np.concatenate([rotations, 3.0 * rotations[:, :, 2:]], axis=2)
    np.testing.assert_allclose(average(poses), np.eye(4)[:3], atol=1e-9)


def test_recentre_makes_the_average_pose_the_identity():
    poses = random_poses(9)
    centred = recentre(poses)
    np.testing.assert_allclose(average(centred), np.eye(4)[:3], atol=1e-9)
    distances = np.linalg.norm(poses[0, :, 3] - poses[5, :, 3]), np.linalg.norm(centred[0, :, 3] - centred[5, :, 3])
    assert distances[0] == pytest.approx(distances[1])


def test_from_llff_converts_axes_to_right_up_back_and_to_llff_back():
    row = np.concatenate([np.array([[0, 1, 0, 5, 72], [-1, 0, 0, 6, 128], [0, 0, 1, 7, 110]]).ravel(), [1, 9]])
    c2w, hwf, bounds = from_llff(row[None].astype(float))
    # columns of the file: down (0,-1,0), right (1,0,0), back (0,0,1), centre (5,6,7)
    np.testing.assert_array_equal(c2w[0], np.array([[1, 0, 0, 5], [0, 1, 0, 6], [0, 0, 1, 7]]))
    assert hwf[0].tolist() == [72, 128, 110]
    assert bounds[0].tolist() == [1, 9]
    assert to_llff(c2w, hwf, bounds).tolist() == [row.tolist()]


@pytest.mark.parametrize(("bd_factor", "inside"), [(0.9, False), (0.6, True)])
def test_scene_scale_puts_near_plane_at_bd_factor_of_nearest_depth(bd_factor, inside):
    bounds = np.array([[4.0, 90.0]] * 10)
    closer = 0.75 * 4.0 * scene_scale(bounds, bd_factor)  # a moving point in front of all static ones
    assert closer == pytest.approx(0.75 / bd_factor)
    assert (closer > 1.0) is inside  # NDC begins at depth 1


def test_interpolate_at_half_gives_the_pose_halfway():
    first, second = np.eye(4)[:3], np.array([[0.0, 0, 1, 2], [0, 1, 0, 4], [-1, 0, 0, 6]])
    half = interpolate(first, second, 0.5)
    c = math.sqrt(0.5)
    np.testing.assert_allclose(half, [[c, 0, c, 1], [0, 1, 0, 2], [-c, 0, c, 3]], atol=1e-12)


def test_smaller_image_looks_the_same_way_around_its_middle():
    """A pixel as far from the middle, in the larger pixels, has the same ray, whether or not the factor divides."""
    large = Intrinsics(270, 480, 300.0)
    small = large.divided_by(4)
    assert (small.height, small.width) == (67, 120)
    offset = torch.tensor([[-3.0, 2.0], [10.0, -7.0]])
    rays = []
    for size, factor in ((large, 4.0), (small, 1.0)):
        middle = torch.tensor([size.width * 0.5, size.height * 0.5])
        rays.append(camera_rays(middle + factor * offset, torch.eye(4)[:3], size)[1])
    torch.testing.assert_close(rays[0], rays[1])
