"""Depth without weights: planes, triangulation, what moves, and how the rest is filled in."""

import cv2
import numpy as np
import pytest
from nsff.prep.flow import DisFlow
from nsff.prep.motion_masks import confirmed_regions
from nsff.prep.multiview.inpaint_depth import inpaint_depth
from nsff.prep.multiview.plane_sweep import inverse_depth_planes, sweep
from nsff.prep.multiview.triangulate import MeasuredDepth, measure_depth, neighbour_indices, static_flow, triangulate
from toy_frames import SIZE, K, look_from


def texture(seed: int) -> np.ndarray:
    """(96, 256, 3), smooth enough to be shifted by parts of a pixel."""
    noise = np.random.default_rng(seed).integers(0, 256, (32, 86, 3), np.uint8)
    return cv2.resize(noise, (256, 96), interpolation=cv2.INTER_CUBIC)


def cut(source: np.ndarray, shift: float) -> np.ndarray:
    """A window of a texture whose content moved by `shift` pixels to the right."""
    matrix = np.array([[1.0, 0.0, shift - 64.0], [0.0, 1.0, -8.0]])
    return cv2.warpAffine(source, matrix, (128, 72), flags=cv2.INTER_CUBIC)


BACK, FRONT, THING = 0.1, 0.3, 0.2  # inverse depths of a wall, a board in front of it, and what moves
WIDE = np.array([[100.0, 0.0, 64.0], [0.0, 100.0, 36.0], [0.0, 0.0, 1.0]])
X = [0.1 * k for k in range(9)]


def photograph(k: int) -> np.ndarray:
    """A wall, a board, and a thing that goes down and up, seen from (X[k], 0, 0)."""
    image = cut(texture(1), -100.0 * X[k] * BACK)
    board = slice(round(90 - 100.0 * X[k] * FRONT), round(120 - 100.0 * X[k] * FRONT))
    image[10:50, board] = cut(texture(2), -100.0 * X[k] * FRONT)[10:50, board]
    top, left = 25 + 4 * (k % 3), round(40 - 100.0 * X[k] * THING)
    image[top : top + 20, left : left + 20] = texture(3)[:20, :20]
    return image


@pytest.fixture(scope="module")
def measured() -> MeasuredDepth:
    """Of the frame in the middle."""
    frames = [photograph(k) for k in range(9)]
    return measure_depth(frames, 4, np.stack([look_from(x) for x in X]), WIDE, 1.0 / FRONT, DisFlow())


def test_walls_and_boards_are_where_they_are(measured):
    board, wall = np.zeros((72, 128), bool), np.ones((72, 128), bool)
    board[13:47, 81:105] = True
    wall[7:53, 74:112] = wall[20:56, 20:60] = False
    for part, expected in ((board, FRONT), (wall, BACK)):
        assert measured.valid[part].mean() > 0.95
        errors = np.abs(measured.inverse_depth[part & measured.valid] / expected - 1.0)
        assert np.median(errors) < 0.01
        assert np.mean(errors < 0.05) > 0.97


def test_what_moves_is_seen(measured):
    top, left = 25 + 4 * (4 % 3), round(40 - 100.0 * X[4] * THING)
    thing = np.zeros((72, 128), bool)
    thing[top : top + 20, left : left + 20] = True
    assert measured.moving[thing].mean() > 0.8
    assert (measured.moving & ~thing).mean() < 0.03
    assert np.median(measured.min_motion_inverse_depth[thing]) == pytest.approx(
        THING, rel=0.1
    )  # it moves up and down only


def test_a_sweep_at_the_border():
    """Where only one neighbour sees a pixel, that one is believed."""
    frames = [cut(texture(1), -100.0 * x * FRONT) for x in (0.0, 0.2, 0.4)]
    cameras = np.stack([look_from(x) for x in (0.2, 0.4)])
    planes = inverse_depth_planes(cameras, look_from(0.0), 100.0, 1.0 / FRONT)
    found = sweep(frames[0], frames[1:], cameras, look_from(0.0), WIDE, planes)
    seen = found[4:-4, 12:-6]  # from 6 pixels on the first neighbour sees it, from 12 on both do
    np.testing.assert_allclose(np.median(found[4:-4, 8:12]), FRONT, rtol=0.05)
    assert np.mean(np.abs(seen / FRONT - 1.0) < 0.05) > 0.98


def test_planes_are_a_pixel_apart():
    planes = inverse_depth_planes(np.stack([look_from(-0.5), look_from(0.2)]), look_from(0.0), 100.0, 0.5)
    assert planes[0] == 0.0
    assert planes[-1] > 2.0
    assert 0.9 < 100.0 * 0.5 * (planes[1] - planes[0]) <= 1.1 * 166 / 159  # the number of planes is bounded


def test_neighbours_at_the_ends():
    assert sorted(neighbour_indices(20, 40)) == [16, 18, 19, 21, 22, 24]
    assert sorted(neighbour_indices(0, 40)) == [1, 2, 4, 6, 8]
    assert sorted(neighbour_indices(1, 3)) == [0, 2]


def test_expected_flow_by_hand():
    flow, inside = static_flow(np.full(SIZE, 0.25), look_from(0.5), look_from(0.0), K)
    np.testing.assert_allclose(flow, np.broadcast_to([-10.0, 0.0], flow.shape), atol=1e-4)  # f x rho = 80 / 2 / 4
    assert inside[:, 10:].all()
    assert not inside[:, :10].any()


def test_triangulation_of_a_known_depth():
    depth = np.random.default_rng(0).uniform(2.0, 9.0, SIZE)
    positions = [-0.5, -0.2, 0.3, 0.6]
    flows = [np.stack([-80.0 * x / depth, 0.0 * depth], axis=-1).astype(np.float32) for x in positions]
    flows[2][5:15, 5:15] += 4.0  # one flow is wrong: three others outvote it
    masks, cameras = [np.ones(SIZE, bool)] * 4, np.stack([look_from(x) for x in positions])
    masks[0] = masks[0].copy()
    masks[0][20:] = False
    inverse_depth, parallax = triangulate(flows, masks, cameras, look_from(0.0), K)
    np.testing.assert_allclose(inverse_depth, 1.0 / depth, rtol=0.03)
    lengths = np.sqrt(sum((80.0 * x / depth) ** 2 for x in positions))
    np.testing.assert_allclose(parallax[16:20, 20:], lengths[16:20, 20:], rtol=1e-3)
    assert (parallax[20:] < lengths[20:]).all()


def measured_by_hand(near: np.ndarray, moving: np.ndarray, slowest: float = 0.0) -> MeasuredDepth:
    return MeasuredDepth(near, np.ones(near.shape, bool), moving, np.full(near.shape, slowest))


@pytest.mark.parametrize(("slowest", "expected"), [(-3.0, 0.5), (0.3, 0.5), (0.55, 0.55), (7.0, 0.5)])
def test_what_moves_stands_on_what_is_below(slowest, expected):
    near = np.full(SIZE, 0.2)
    near[18:] = 0.5  # a floor, nearer than the wall behind
    near[:4] = 0.6  # a lamp: nearer things exist
    moving = np.zeros(SIZE, bool)
    moving[8:20, 20:30] = True
    filled = inpaint_depth(measured_by_hand(near, moving, slowest), np.full((*SIZE, 3), 90, np.uint8))
    np.testing.assert_allclose(filled[moving], expected, atol=0.02)
    still = cv2.dilate(moving.astype(np.uint8), np.ones((7, 7))) == 0
    np.testing.assert_allclose(filled[still], near[still], atol=1e-4)


def test_a_long_thing_follows_the_ground():
    near = np.broadcast_to(np.linspace(0.2, 0.6, SIZE[1]), SIZE).copy()
    moving = np.zeros(SIZE, bool)
    moving[12:20] = True
    filled = inpaint_depth(measured_by_hand(near, moving), np.full((*SIZE, 3), 90, np.uint8))
    np.testing.assert_allclose(filled[15, 10:25], near[15, 10:25].clip(np.median(near)), atol=0.03)
    np.testing.assert_allclose(filled[15, 40:55], near[15, 40:55], atol=0.05)


def test_nothing_known_is_flat():
    nothing = MeasuredDepth(np.zeros(SIZE), np.zeros(SIZE, bool), np.zeros(SIZE, bool), np.zeros(SIZE))
    assert np.ptp(inpaint_depth(nothing, np.zeros((*SIZE, 3), np.uint8))) == 0.0


def test_parts_are_kept_whole_or_not_at_all():
    unexplained, epipolar = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    unexplained[5:15, 5:25] = True  # moves: half of it is confirmed
    epipolar[5:15, 5:15] = True
    unexplained[20:30, 40:50] = True  # errs alone
    epipolar[2:6, 40:60] = True  # errs alone
    assert np.array_equal(confirmed_regions(unexplained, epipolar), np.pad(np.ones((10, 20), bool), ((5, 21), (5, 39))))
    assert not confirmed_regions(np.zeros(SIZE, bool), epipolar).any()
