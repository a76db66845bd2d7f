"""Rays, projection and NDC: hand values and round trips."""

import torch
from nsff.geometry.ndc import ndc_to_world
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import camera_rays, make_rays, pixel_grid, project, world_to_camera
from nsff.geometry.space import NdcSpace
from toy_fields import AHEAD

CPU = torch.device("cpu")
SIZE = Intrinsics(12, 20, 15.0)
POSE = torch.tensor([[0.8, 0.0, 0.6, 0.1], [0.0, 1.0, 0.0, -0.2], [-0.6, 0.0, 0.8, 0.3]])


def test_camera_rays_through_centre_look_along_minus_z():
    origins, directions = camera_rays(torch.tensor([[10.0, 6.0], [25.0, 6.0], [10.0, -9.0]]), AHEAD, SIZE)
    assert torch.equal(directions, torch.tensor([[0.0, 0.0, -1.0], [1.0, 0.0, -1.0], [0.0, 1.0, -1.0]]))
    assert torch.equal(origins, torch.zeros(3, 3))


def test_project_point_on_ray_returns_its_pixel():
    uv = pixel_grid(SIZE, CPU)
    origins, directions = camera_rays(uv, POSE, SIZE)
    pixels = project(world_to_camera(origins + 7.3 * directions, POSE), SIZE)
    torch.testing.assert_close(pixels, uv, rtol=0, atol=1e-4)


def test_ndc_depths_0_and_1_lie_on_near_plane_and_at_infinity():
    rays = make_rays(pixel_grid(SIZE, CPU), AHEAD, SIZE, NdcSpace(SIZE))
    ends = rays.points(torch.tensor([0.0, 1.0]).expand(len(rays), 2))
    torch.testing.assert_close(ends[..., 2], torch.tensor([-1.0, 1.0]).expand(len(rays), 2), rtol=0, atol=1e-5)
    assert float(ends[..., :2].abs().max()) <= 1.0 + 1e-5


def test_ndc_to_world_keeps_points_on_their_ray():
    uv = pixel_grid(SIZE, CPU)
    rays = make_rays(uv, AHEAD, SIZE, NdcSpace(SIZE))
    world = ndc_to_world(rays.points(torch.full((len(uv), 1), 0.5)), SIZE)[:, 0]
    torch.testing.assert_close(world[:, 2], torch.full((len(uv),), -2.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(project(world, SIZE), uv, rtol=0, atol=1e-3)
