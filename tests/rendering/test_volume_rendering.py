"""Rays, depths, compositing and whole frames: hand values and invariants."""

import math

import numpy as np
import pytest
import torch
from nsff.data.timeline import Timeline
from nsff.fields import DynamicSamples, StaticSamples
from nsff.geometry.camera_paths import bullet_time_loop, space_time_offsets
from nsff.geometry.poses import Intrinsics, average, from_llff, interpolate, recentre, scene_scale
from nsff.geometry.rays import Camera, camera_rays, make_rays, pixel_grid, project, world_to_camera
from nsff.geometry.space import ndc_to_world
from nsff.rendering.frame_render import render_frame
from nsff.rendering.ray_sampling import DepthSampling, density_noise, sample_depths
from nsff.rendering.train_render import render_train
from nsff.rendering.volume_rendering import composite, composite_blended, intervals, transmittance
from toy_fields import AHEAD, toy

CPU = torch.device("cpu")
SIZE = Intrinsics(12, 20, 15.0)
POSE = torch.tensor([[0.8, 0.0, 0.6, 0.1], [0.0, 1.0, 0.0, -0.2], [-0.6, 0.0, 0.8, 0.3]])


def test_centre_pixel_looks_along_minus_z():
    origins, directions = camera_rays(torch.tensor([[10.0, 6.0], [25.0, 6.0], [10.0, -9.0]]), AHEAD, SIZE)
    assert torch.equal(directions, torch.tensor([[0.0, 0.0, -1.0], [1.0, 0.0, -1.0], [0.0, 1.0, -1.0]]))
    assert torch.equal(origins, torch.zeros(3, 3))


def test_projection_inverts_rays():
    uv = pixel_grid(SIZE, CPU)
    origins, directions = camera_rays(uv, POSE, SIZE)
    pixels = project(world_to_camera(origins + 7.3 * directions, POSE), SIZE)
    torch.testing.assert_close(pixels, uv, rtol=0, atol=1e-4)


def test_ndc_depth_runs_from_near_plane_to_infinity():
    rays = make_rays(pixel_grid(SIZE, CPU), AHEAD, SIZE)
    ends = rays.points_ndc(torch.tensor([0.0, 1.0]).expand(len(rays), 2))
    torch.testing.assert_close(ends[..., 2], torch.tensor([-1.0, 1.0]).expand(len(rays), 2), rtol=0, atol=1e-5)
    assert float(ends[..., :2].abs().max()) <= 1.0 + 1e-5


def test_ndc_points_lie_on_the_world_ray():
    uv = pixel_grid(SIZE, CPU)
    rays = make_rays(uv, AHEAD, SIZE)
    world = ndc_to_world(rays.points_ndc(torch.full((len(uv), 1), 0.5)), SIZE)[:, 0]
    torch.testing.assert_close(world[:, 2], torch.full((len(uv),), -2.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(project(world, SIZE), uv, rtol=0, atol=1e-3)


def test_depths_are_uniform_or_jittered_within_intervals():
    plain = sample_depths(2, 5, 0.0, None, CPU)
    assert plain[0].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    jittered = sample_depths(4000, 5, 1.0, torch.Generator().manual_seed(0), CPU)
    edges = torch.tensor([0.0, 0.125, 0.375, 0.625, 0.875, 1.0])
    assert bool(((jittered >= edges[:-1]) & (jittered <= edges[1:])).all())
    torch.testing.assert_close(jittered.mean(0), (edges[1:] + edges[:-1]) / 2, rtol=0, atol=0.01)


def test_density_noise_has_the_given_std():
    assert density_noise((3, 3), 0.0, None, CPU) == 0.0
    noise = density_noise((200, 200), 2.0, torch.Generator().manual_seed(0), CPU)
    assert float(noise.std()) == pytest.approx(2.0, rel=0.02)


def test_intervals_scale_with_ray_length_and_end_at_1e10():
    deltas = intervals(torch.tensor([[0.0, 0.25, 1.0]]), torch.tensor([[0.0, 3.0, 4.0]]))
    assert deltas[0].tolist() == pytest.approx([0.25 * 5.0, 0.75 * 5.0, 1e10 * 5.0])


def test_transmittance_by_hand():
    torch.testing.assert_close(transmittance(torch.tensor([[0.5, 0.2, 0.9]])), torch.tensor([[1.0, 0.5, 0.5 * 0.2]]))


def raw_for(alpha: float) -> float:
    """Raw density with opacity `alpha` over an interval of length 1."""
    return -math.log(1.0 - alpha)


def samples_of(alphas: list[float], rgb_raw: float, blend: list[float] | None = None):
    sigma = torch.tensor([[raw_for(alpha) for alpha in alphas]])
    rgb = torch.full((1, len(alphas), 3), rgb_raw)
    if blend is not None:
        return StaticSamples(rgb, sigma, torch.tensor([blend]))
    zeros, probs = torch.zeros(1, len(alphas), 3), torch.zeros(1, len(alphas))
    return DynamicSamples(rgb, sigma, zeros, zeros, probs, probs)


def test_composite_by_hand():
    depths, deltas = torch.tensor([[0.0, 0.5, 1.0]]), torch.ones(1, 3)
    out = composite(samples_of([0.5, 0.2, 0.9], 0.0), depths, deltas)
    torch.testing.assert_close(out.weights, torch.tensor([[0.5, 0.5 * 0.2, 0.5 * 0.8 * 0.9]]))
    assert float(out.depth) == pytest.approx(0.1 * 0.5 + 0.36 * 1.0)
    assert out.rgb[0].tolist() == pytest.approx([0.5 * (0.5 + 0.1 + 0.36)] * 3)


def test_composite_blended_by_hand():
    depths, deltas = torch.tensor([[0.2, 0.6]]), torch.ones(1, 2)
    static, dynamic = samples_of([0.4, 0.9], 0.0, blend=[0.25, 1.0]), samples_of([0.8, 0.5], 100.0)
    out = composite_blended(static, dynamic, depths, deltas)
    # First sample: opacity 0.8 * 0.25 dynamic, 0.4 * 0.75 static; second: 0.5 dynamic, 0 static.
    transmitted = (1 - 0.2) * (1 - 0.3)
    assert float(out.dynamic_weight) == pytest.approx(0.2 + transmitted * 0.5)
    assert float(out.rgb[0, 0]) == pytest.approx(0.2 * 1.0 + 0.3 * 0.5 + transmitted * 0.5 * 1.0)
    assert float(out.depth) == pytest.approx((0.2 + 0.3) * 0.2 + transmitted * 0.5 * 0.6)


def test_gradients_are_finite_in_empty_and_in_opaque_space():
    for raw in (-5.0, 1e4):
        sigma = torch.full((1, 6), raw, requires_grad=True)
        zeros = torch.zeros(1, 6, 3)
        field = DynamicSamples(zeros, sigma, zeros, zeros, torch.zeros(1, 6), torch.zeros(1, 6))
        out = composite(field, torch.linspace(0, 1, 6)[None], torch.ones(1, 6))
        out.depth.sum().backward()
        assert bool(torch.isfinite(sigma.grad).all())


def test_frame_of_a_wall_does_not_depend_on_the_chunk_size():
    frame = render_frame(toy(), Camera(AHEAD, SIZE, SIZE), 0.0, DepthSampling(101, 0, 0.0), rays_per_chunk=1000)
    assert frame.rgb.shape == (12, 20, 3)
    torch.testing.assert_close(frame.rgb, torch.full((12, 20, 3), 0.5))
    assert float((frame.depth - 0.5).abs().max()) < 0.011
    assert float(frame.dynamic_weight.max()) == 0.0
    chunked = render_frame(toy(), Camera(AHEAD, SIZE, SIZE), 0.0, DepthSampling(101, 0, 0.0), rays_per_chunk=7)
    assert torch.equal(frame.rgb, chunked.rgb)
    assert torch.equal(frame.depth, chunked.depth)


@pytest.mark.parametrize("backward", [True, False])
def test_train_render_warps_points_along_scene_flow(backward):
    rays = make_rays(pixel_grid(SIZE, CPU)[:9], AHEAD, SIZE)
    depths = sample_depths(9, 5, 0.0, None, CPU)
    out = render_train(toy(), rays, depths, Timeline(10), 4, n_static=6, two_step=True, two_step_backward=backward)
    step = torch.tensor([0.01, 0.0, 0.0])
    torch.testing.assert_close(out.next.points_ndc, out.ref.points_ndc + step)
    torch.testing.assert_close(out.prev.points_ndc, out.ref.points_ndc - step)
    torch.testing.assert_close(out.two_step_points_ndc, out.ref.points_ndc + (-2 if backward else 2) * step)
    assert len(out.ref.blended.rgb) == 6
    assert out.two_step is not None


def test_timeline_maps_frames_to_times():
    timeline = Timeline(24)
    assert [timeline.time_of(frame) for frame in (0, 6, 12)] == [-1.0, -0.5, 0.0]
    assert timeline.time_of(3) + timeline.step == pytest.approx(timeline.time_of(4))
    assert [timeline.is_first(0), timeline.is_first(1), timeline.is_last(23)] == [True, False, True]


def random_poses(n: int) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(0)
    rotations = Rotation.from_rotvec(rng.normal(0, 0.2, (n, 3))).as_matrix()
    return np.concatenate([rotations, rng.normal(0, 1, (n, 3, 1))], axis=2)


def test_recentred_poses_have_the_identity_as_their_average():
    poses = random_poses(9)
    centred = recentre(poses)
    np.testing.assert_allclose(average(centred), np.eye(4)[:3], atol=1e-9)
    distances = np.linalg.norm(poses[0, :, 3] - poses[5, :, 3]), np.linalg.norm(centred[0, :, 3] - centred[5, :, 3])
    assert distances[0] == pytest.approx(distances[1])


def test_llff_axes_become_right_up_back():
    row = np.concatenate([np.array([[0, 1, 0, 5, 72], [-1, 0, 0, 6, 128], [0, 0, 1, 7, 110]]).ravel(), [1, 9]])
    c2w, hwf, bounds = from_llff(row[None].astype(float))
    # columns of the file: down (0,-1,0), right (1,0,0), back (0,0,1), centre (5,6,7)
    np.testing.assert_array_equal(c2w[0], np.array([[1, 0, 0, 5], [0, 1, 0, 6], [0, 0, 1, 7]]))
    assert hwf[0].tolist() == [72, 128, 110]
    assert bounds[0].tolist() == [1, 9]


@pytest.mark.parametrize(("bd_factor", "inside"), [(0.9, False), (0.6, True)])
def test_near_plane_is_a_fraction_of_the_nearest_static_depth(bd_factor, inside):
    bounds = np.array([[4.0, 90.0]] * 10)
    closer = 0.75 * 4.0 * scene_scale(bounds, bd_factor)  # a moving point in front of all static ones
    assert closer == pytest.approx(0.75 / bd_factor)
    assert (closer > 1.0) is inside  # NDC begins at depth 1


def test_interpolated_pose_is_halfway():
    first, second = np.eye(4)[:3], np.array([[0.0, 0, 1, 2], [0, 1, 0, 4], [-1, 0, 0, 6]])
    half = interpolate(first, second, 0.5)
    c = math.sqrt(0.5)
    np.testing.assert_allclose(half, [[c, 0, c, 1], [0, 1, 0, 2], [-c, 0, c, 3]], atol=1e-12)


def test_published_paths_circle_around_the_target():
    path = bullet_time_loop(np.eye(4)[:3], 96.0)
    np.testing.assert_allclose(path[:, :, :3], np.broadcast_to(np.eye(3), (60, 3, 3)))
    np.testing.assert_allclose(path[0, :, 3], [0, -0.5 / 3, -0.5 / 3])
    np.testing.assert_allclose(path[15, :, 3], [-0.5, 0, 0], atol=1e-12)
    np.testing.assert_allclose(path[:, :, 3].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(space_time_offsets(64.0)[10, :3, 3], [-0.5, 0, 0], atol=1e-12)
