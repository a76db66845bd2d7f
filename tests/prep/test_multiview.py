"""Multi-view depth: plane sweep, triangulation, moving pixels and inpainting."""

import cv2
import numpy as np
import pytest
from nsff.prep.flow import DisFlow
from nsff.prep.motion_masks import confirmed_regions
from nsff.prep.multiview.inpaint_depth import contact_inverse_depth, inpaint_depth
from nsff.prep.multiview.plane_sweep import inverse_depth_planes, sweep
from nsff.prep.multiview.triangulate import MeasuredDepth, measure_depth, neighbour_indices, static_flow, triangulate
from toy_frames import SIZE, K, look_from


def texture(seed: int) -> np.ndarray:
    """Texture (96, 256, 3) that is smooth enough for shifts by fractions of a pixel."""
    noise = np.random.default_rng(seed).integers(0, 256, (32, 86, 3), np.uint8)
    return cv2.resize(noise, (256, 96), interpolation=cv2.INTER_CUBIC)


def shifted_window(source: np.ndarray, shift: float) -> np.ndarray:
    """A window of a texture whose content is shifted by `shift` pixels to the right."""
    matrix = np.array([[1.0, 0.0, shift - 64.0], [0.0, 1.0, -8.0]])
    return cv2.warpAffine(source, matrix, (128, 72), flags=cv2.INTER_CUBIC)


WALL, BOARD, BLOCK = 0.1, 0.3, 0.2  # inverse depths of a wall, a board in front of it, and a moving block
INTRINSICS = np.array([[100.0, 0.0, 64.0], [0.0, 100.0, 36.0], [0.0, 0.0, 1.0]])
CAMERA_X = [0.1 * k for k in range(9)]


def frame_at(k: int) -> np.ndarray:
    """Frame k, taken at (CAMERA_X[k], 0, 0): a wall, a board, and a block that moves up and down."""
    image = shifted_window(texture(1), -100.0 * CAMERA_X[k] * WALL)
    board = slice(round(90 - 100.0 * CAMERA_X[k] * BOARD), round(120 - 100.0 * CAMERA_X[k] * BOARD))
    image[10:50, board] = shifted_window(texture(2), -100.0 * CAMERA_X[k] * BOARD)[10:50, board]
    top, left = 25 + 4 * (k % 3), round(40 - 100.0 * CAMERA_X[k] * BLOCK)
    image[top : top + 20, left : left + 20] = texture(3)[:20, :20]
    return image


@pytest.fixture(scope="module")
def measured() -> MeasuredDepth:
    """Measured depth of the frame in the middle."""
    frames = [frame_at(k) for k in range(9)]
    return measure_depth(frames, 4, np.stack([look_from(x) for x in CAMERA_X]), INTRINSICS, 1.0 / BOARD, DisFlow())


def test_measure_depth_static_surfaces_within_1_percent(measured):
    board, wall = np.zeros((72, 128), bool), np.ones((72, 128), bool)
    board[13:47, 81:105] = True
    wall[7:53, 74:112] = wall[20:56, 20:60] = False
    for region, expected in ((board, BOARD), (wall, WALL)):
        assert measured.valid[region].mean() > 0.95
        errors = np.abs(measured.inverse_depth[region & measured.valid] / expected - 1.0)
        assert np.median(errors) < 0.01
        assert np.mean(errors < 0.05) > 0.97


def test_measure_depth_detects_moving_block(measured):
    top, left = 25 + 4 * (4 % 3), round(40 - 100.0 * CAMERA_X[4] * BLOCK)
    block = np.zeros((72, 128), bool)
    block[top : top + 20, left : left + 20] = True
    assert measured.moving[block].mean() > 0.8
    assert (measured.moving & ~block).mean() < 0.03
    of_block = measured.min_motion_inverse_depth[block[measured.moving]]
    assert np.median(of_block) == pytest.approx(BLOCK, rel=0.1)  # it moves up and down only
    flow = np.median(measured.moving_flows[1][block[measured.moving]], axis=0)
    np.testing.assert_allclose(flow, [-2.0, 4.0], atol=0.3)  # f dx / z to the left, and four pixels down
    assert measured.moving_flows.keys() == {-1, 1}


def test_sweep_uses_the_only_neighbour_at_border():
    """Pixels visible in one neighbour only get their depth from it."""
    frames = [shifted_window(texture(1), -100.0 * x * BOARD) for x in (0.0, 0.2, 0.4)]
    cameras = np.stack([look_from(x) for x in (0.2, 0.4)])
    planes = inverse_depth_planes(cameras, look_from(0.0), 100.0, 1.0 / BOARD)
    inverse_depth = sweep(frames[0], frames[1:], cameras, look_from(0.0), INTRINSICS, planes)
    in_both = inverse_depth[4:-4, 12:-6]  # the first neighbour shows columns from 6 on, the second from 12 on
    np.testing.assert_allclose(np.median(inverse_depth[4:-4, 8:12]), BOARD, rtol=0.05)
    assert np.mean(np.abs(in_both / BOARD - 1.0) < 0.05) > 0.98


def test_inverse_depth_planes_are_one_pixel_apart():
    planes = inverse_depth_planes(np.stack([look_from(-0.5), look_from(0.2)]), look_from(0.0), 100.0, 0.5)
    assert planes[0] == 0.0
    assert planes[-1] > 2.0
    assert 0.9 < 100.0 * 0.5 * (planes[1] - planes[0]) <= 1.1 * 166 / 159  # the number of planes is bounded


def test_neighbour_indices_inside_and_at_ends():
    assert sorted(neighbour_indices(20, 40)) == [16, 18, 19, 21, 22, 24]
    assert sorted(neighbour_indices(0, 40)) == [1, 2, 4, 6, 8]
    assert sorted(neighbour_indices(1, 3)) == [0, 2]


def test_static_flow_hand_values():
    flow, inside = static_flow(np.full(SIZE, 0.25), look_from(0.5), look_from(0.0), K)
    np.testing.assert_allclose(flow, np.broadcast_to([-10.0, 0.0], flow.shape), atol=1e-4)  # f x rho = 80 / 2 / 4
    assert inside[:, 10:].all()
    assert not inside[:, :10].any()


def test_triangulate_recovers_depth_despite_outlier_flow():
    depth = np.random.default_rng(0).uniform(2.0, 9.0, SIZE)
    positions = [-0.5, -0.2, 0.3, 0.6]
    flows = [np.stack([-80.0 * x / depth, 0.0 * depth], axis=-1).astype(np.float32) for x in positions]
    flows[2][5:15, 5:15] += 4.0  # an outlier, outvoted by three other flows
    masks, cameras = [np.ones(SIZE, bool)] * 4, np.stack([look_from(x) for x in positions])
    masks[0] = masks[0].copy()
    masks[0][20:] = False
    inverse_depth, parallax = triangulate(flows, masks, cameras, look_from(0.0), K)
    np.testing.assert_allclose(inverse_depth, 1.0 / depth, rtol=0.03)
    lengths = np.sqrt(sum((80.0 * x / depth) ** 2 for x in positions))
    np.testing.assert_allclose(parallax[16:20, 20:], lengths[16:20, 20:], rtol=1e-3)
    assert (parallax[20:] < lengths[20:]).all()


def constant_measurement(inverse_depth: np.ndarray, moving: np.ndarray, min_motion: float = 0.0) -> MeasuredDepth:
    shape = inverse_depth.shape
    return MeasuredDepth(inverse_depth, np.ones(shape, bool), moving, np.full(moving.sum(), min_motion), {})


@pytest.mark.parametrize(("min_motion", "expected"), [(-3.0, 0.5), (0.3, 0.5), (0.55, 0.55), (7.0, 0.5)])
def test_inpaint_depth_moving_region_stands_on_floor(min_motion, expected):
    inverse_depth = np.full(SIZE, 0.2)
    inverse_depth[18:] = 0.5  # a floor, nearer than the wall behind
    inverse_depth[:4] = 0.6  # the nearest thing of the scene
    moving = np.zeros(SIZE, bool)
    moving[8:20, 20:30] = True
    filled = inpaint_depth(
        constant_measurement(inverse_depth, moving, min_motion), np.full((*SIZE, 3), 90, np.uint8), moving.astype(int)
    )
    np.testing.assert_allclose(filled[moving], expected, atol=0.02)
    static = cv2.dilate(moving.astype(np.uint8), np.ones((7, 7))) == 0
    np.testing.assert_allclose(filled[static], inverse_depth[static], atol=1e-4)


def test_inpaint_depth_tracked_region_has_depth_of_its_track():
    """The region stands on slanted ground; the track changes its depth and keeps its slope."""
    inverse_depth = np.broadcast_to(np.linspace(0.2, 0.6, SIZE[1]), SIZE).copy()
    moving = np.zeros(SIZE, bool)
    moving[8:20, 10:54] = True
    measured, grey = constant_measurement(inverse_depth, moving), np.full((*SIZE, 3), 90, np.uint8)
    labels = moving.astype(int)
    guessed, tracked = inpaint_depth(measured, grey, labels), inpaint_depth(measured, grey, labels, {1: 0.8})
    assert np.median(tracked[moving]) == pytest.approx(0.8)
    np.testing.assert_allclose(tracked[moving] / guessed[moving], 0.8 / np.median(guessed[moving]))
    assert np.ptp(tracked[moving]) > 0.1
    np.testing.assert_array_equal(tracked[~moving], guessed[~moving])


def test_contact_inverse_depth_is_that_of_the_ground_below():
    inverse_depth = np.full(SIZE, 0.2)
    inverse_depth[18:] = 0.5
    moving = np.zeros(SIZE, bool)
    moving[8:20, 20:30] = True
    assert contact_inverse_depth(constant_measurement(inverse_depth, moving), moving) == pytest.approx(0.5)


def test_inpaint_depth_long_region_follows_slanted_ground():
    inverse_depth = np.broadcast_to(np.linspace(0.2, 0.6, SIZE[1]), SIZE).copy()
    moving = np.zeros(SIZE, bool)
    moving[12:20] = True
    filled = inpaint_depth(
        constant_measurement(inverse_depth, moving), np.full((*SIZE, 3), 90, np.uint8), moving.astype(int)
    )
    np.testing.assert_allclose(filled[15, 10:25], inverse_depth[15, 10:25].clip(np.median(inverse_depth)), atol=0.03)
    np.testing.assert_allclose(filled[15, 40:55], inverse_depth[15, 40:55], atol=0.05)


def test_inpaint_depth_without_measurements_is_constant():
    unmeasured = MeasuredDepth(np.zeros(SIZE), np.zeros(SIZE, bool), np.zeros(SIZE, bool), np.zeros(0), {})
    assert np.ptp(inpaint_depth(unmeasured, np.zeros((*SIZE, 3), np.uint8), np.zeros(SIZE, int))) == 0.0


def test_confirmed_regions_are_kept_whole_or_dropped():
    unexplained, epipolar = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    unexplained[5:15, 5:25] = True  # half of this region is confirmed
    epipolar[5:15, 5:15] = True
    unexplained[20:30, 40:50] = True  # not confirmed
    epipolar[2:6, 40:60] = True  # explained by depth
    assert np.array_equal(confirmed_regions(unexplained, epipolar), np.pad(np.ones((10, 20), bool), ((5, 21), (5, 39))))
    assert not confirmed_regions(np.zeros(SIZE, bool), epipolar).any()
