"""Both spaces of the fields: there and back, at the border of the unit ball and at infinity, and from two cameras."""

import math

import numpy as np
import pytest
import torch
from nsff.errors import InputError
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import Camera, expected_pixel
from nsff.geometry.space import ContractedSpace, NdcSpace, space_kind

SIZE = Intrinsics(9, 16, 14.0)
BALL = ContractedSpace(2.0)
SPACES = [NdcSpace(SIZE), BALL]
BOTH = pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)


def turned(degrees: float, centre: tuple[float, float, float]) -> torch.Tensor:
    """A camera at `centre`, turned to the left about the vertical axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    axes = torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    return torch.cat([axes, torch.tensor(centre)[:, None]], dim=1)


@pytest.mark.parametrize("distance", [0.01, 0.1, 1.0, 1.999, 2.0, 2.001, 10.0, 100.0, 1000.0])
def test_world_to_contracted_space_and_back(distance):
    """In float32 rounding grows near the border of the space, and near the middle with the camera's own distance."""
    towards = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.float32, 1e-5 + 4e-7 * distance + 4e-6 / distance)):
        world = distance * towards.to(dtype)
        camera = world + 3.0 * torch.roll(towards, 1, 0).to(dtype)  # sees each point at depth 3: s = 2 / 3
        rays = BALL.rays(camera, (world - camera) / 3.0)
        points = BALL.points(*rays, torch.full((50, 1), 2.0 / 3.0, dtype=dtype))[:, 0]
        assert float(points.norm(dim=-1).max()) < 2.0
        assert float((BALL.to_world(points) - world).norm(dim=-1).max()) / distance < tolerance


def test_contraction_matches_hand_values():
    """Of radius 2: 1 unit away is 0.5, 2 units are 1, 4 units are 2 - 1/2, infinity is 2."""
    rays = BALL.rays(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, -1.0]]))
    depths = 1.0 - 1.0 / torch.tensor([[1.0, 2.0, 4.0, math.inf]])
    assert BALL.points(*rays, depths)[0, :, 2].tolist() == pytest.approx([-0.5, -1.0, -1.5, -2.0])
    lengths = BALL.lengths(*rays, depths)
    assert lengths[0].tolist() == pytest.approx([0.5, 0.5, 0.5])


@BOTH
def test_gradients_are_finite_at_the_border_and_at_infinity(space):
    origins, directions = space.rays(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[0.0, 0.0, -1.0]]))
    # Depths 1, 2 (the middle of the ball, through which this ray goes), 4 (its far border), nearly infinity.
    depths = torch.tensor([[0.0, 0.5, 0.75, 0.999, 1.0]], requires_grad=True)
    points = space.points(origins, directions, depths)
    assert torch.isfinite(points).all()
    points.sum().backward()
    assert torch.isfinite(depths.grad).all()
    for point in ([0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.6, 0.0, -0.8], [0.0, 0.0, -2.0], [0.0, 1.0, -3.0]):
        leaf = torch.tensor([point], requires_grad=True)
        space.to_world(leaf).sum().backward()
        raw = torch.tensor([[[0.3, -0.2, 0.999]]], requires_grad=True)
        space.bounded_flow(leaf.detach(), raw).sum().backward()
        assert torch.isfinite(leaf.grad).all()
        assert torch.isfinite(raw.grad).all()


@BOTH
def test_a_point_seen_by_two_cameras_is_one_point(space):
    world, inverse = torch.tensor([[0.3, -0.2, -4.0], [-0.5, 0.4, -9.0]]), []
    for c2w in (turned(0.0, (0.0, 0.0, 0.0)), turned(20.0, (0.6, 0.1, 0.3))):
        offset = world - c2w[:, 3]
        depth = -(offset @ c2w[:, 2])
        origins, directions = c2w[:, 3].expand(2, 3), offset / depth[:, None]
        s = space.depth(origins, directions, 1.0 / depth)
        inverse.append(space.points(*space.rays(origins, directions), s[:, None])[:, 0])
    torch.testing.assert_close(*inverse, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(space.to_world(inverse[0]), world, atol=1e-4, rtol=1e-4)


def test_depth_of_ndc_matches_hand_value():
    """A camera at (0, 0, 1) looks along -z: its point 4 units ahead is at z = -3, which is 2/3 of the NDC ray."""
    origins, directions = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    assert float(SPACES[0].depth(origins, directions, torch.tensor([0.25]))) == pytest.approx(2.0 / 3.0)
    assert float(BALL.depth(origins, directions, torch.tensor([0.25]))) == pytest.approx(3.0 / 4.0)


def test_flow_never_leads_to_infinity():
    points = torch.tensor([[0.0, 0.0, -1.9], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    outwards = torch.tensor([0.0, 0.0, -1.0]).expand(3, 1, 3)
    ends = (points[:, None] + BALL.bounded_flow(points, outwards))[:, 0]
    assert ends[:, 2].tolist() == pytest.approx([-1.95, -1.5, -math.tanh(1.0)], abs=2e-2)
    small = torch.tensor([1e-4, -2e-4, 5e-5]).expand(3, 1, 3)
    torch.testing.assert_close(BALL.bounded_flow(points, small), small, atol=2e-6, rtol=0.0)
    sideways = BALL.bounded_flow(points[:1], torch.tensor([[[1.0, 0.0, 0.0]]]))[0, 0]
    assert float(sideways[0]) > 0.8  # a thing far away may cross the image in a frame


@BOTH
def test_expected_point_projects_to_the_pixel_of_its_ray(space):
    """All weight on one sample, and for the ball also none at all: the point is still on the ray of its pixel."""
    camera = Camera(turned(10.0, (0.2, 0.0, 0.1)), SIZE, space)
    rays, depths = camera.rays(), torch.linspace(0.1, 0.99, 5).expand(len(camera.rays()), 5)
    weights = torch.zeros_like(depths)
    weights[:, 2] = 1.0
    for given in (weights, 0.0 * weights) if space is BALL else (weights,):
        pixels = expected_pixel(given, rays.points(depths), rays, camera.c2w, SIZE)
        torch.testing.assert_close(pixels, camera.pixels(), atol=2e-2, rtol=0.0)


def test_a_ray_that_meets_nothing_ends_at_infinity():
    """Seen from a camera beside its own it has no parallax, however near the last of its samples is."""
    camera, beside = (Camera(turned(10.0, (x, 0.0, 0.1)), SIZE, BALL) for x in (0.2, 0.4))
    rays, depths = camera.rays(), torch.linspace(0.1, 0.9, 5).expand(len(camera.rays()), 5)
    pixels = expected_pixel(torch.zeros_like(depths), rays.points(depths), rays, beside.c2w, SIZE)
    torch.testing.assert_close(pixels, camera.pixels(), atol=2e-2, rtol=0.0)


@pytest.mark.parametrize("no_ndc", [False, True])
def test_cameras_that_are_all_one_have_a_space(no_ndc):
    c2w = np.repeat(np.eye(4)[None, :3], 5, axis=0)
    space = space_kind(no_ndc).around(c2w, SIZE)
    points = Camera(torch.eye(4)[:3], SIZE, space).rays().points(torch.rand(144, 3))
    assert torch.isfinite(points).all()
    assert (points.abs() <= torch.tensor(space.extent)).all()


def test_a_camera_inside_an_object_is_named():
    """Its near bound is nearly 0, and sets the scale of the scene."""
    c2w = np.repeat(np.eye(4)[None, :3], 5, axis=0)
    c2w[:, 0, 3] = np.linspace(-5e3, 5e3, 5)
    with pytest.raises(InputError, match=r"the cameras stray 5000 times.*inside of an object"):
        ContractedSpace.around(c2w, SIZE)


def test_ndc_names_what_it_cannot_represent():
    space = NdcSpace(SIZE)
    assert space.blind_spot(turned(0.0, (0.0, 0.0, 0.0)).numpy(), SIZE) is None
    assert "sideways" in space.blind_spot(turned(65.0, (0.0, 0.0, 0.0)).numpy(), SIZE)
    assert "beyond the near plane" in space.blind_spot(turned(0.0, (0.0, 0.0, -1.5)).numpy(), SIZE)
    assert BALL.blind_spot(turned(65.0, (0.0, 0.0, -1.5)).numpy(), SIZE) is None
