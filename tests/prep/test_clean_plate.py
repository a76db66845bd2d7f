"""Sharper edges of moving regions, on a block that passes before a wall."""

import cv2
import numpy as np
import pytest
from nsff.prep.multiview.clean_plate import MeasuredFrames, background_inverse_depth, sharpen_edges
from nsff.prep.multiview.triangulate import MeasuredDepth, project_static
from toy_frames import SIZE, K, look_from

HEIGHT, WIDTH = 72, 128
INTRINSICS = np.array([[100.0, 0.0, 64.0], [0.0, 100.0, 36.0], [0.0, 0.0, 1.0]])
WALL = 0.1  # inverse depth
N_FRAMES, RIM = 8, 4
CAMERAS = np.stack([look_from(0.1 * k) for k in range(N_FRAMES)])  # the wall moves by one pixel a frame


def block_mask(k: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[25:45, 20 + 9 * k : 40 + 9 * k] = True
    return mask


def frame(k: int) -> np.ndarray:
    """Frame k: a wall with a smooth texture, and a block before it that moves to the right."""
    noise = np.random.default_rng(1).integers(60, 200, (20, 40, 3), np.uint8)
    wall = cv2.resize(noise, (160, 80), interpolation=cv2.INTER_CUBIC)[4:76, 10 + k : 138 + k].copy()
    wall[block_mask(k)] = (250, 20, 30)
    return wall


def measured_with_rims(k: int) -> MeasuredDepth:
    """Depth as flow finds it: the block with a rim of background, and the depth of the wall elsewhere."""
    moving = cv2.dilate(block_mask(k).astype(np.uint8), np.ones((2 * RIM + 1,) * 2)) > 0
    order = np.arange(moving.sum(), dtype=np.float32)
    depth = np.where(moving, 0.5, WALL).astype(np.float32)
    return MeasuredDepth(depth, ~moving, moving, order, {1: np.stack([order, order], axis=1)})


@pytest.fixture(scope="module")
def measured() -> list[MeasuredDepth]:
    return [measured_with_rims(k) for k in range(N_FRAMES)]


@pytest.mark.parametrize("index", [0, 4, 7])
def test_sharpen_edges_leaves_the_block(measured, index):
    frames = [frame(k) for k in range(N_FRAMES)]
    sharp = sharpen_edges(MeasuredFrames(frames, measured, CAMERAS, INTRINSICS), index, measured[index])
    block, rim = block_mask(index), measured[index].moving & ~block_mask(index)
    assert sharp.moving[block].mean() > 0.98
    assert sharp.moving[rim].mean() < 0.25  # of four pixels, the innermost: differences are averaged over a box
    taken_out = rim & ~sharp.moving
    np.testing.assert_allclose(sharp.inverse_depth[taken_out], WALL, rtol=1e-3)
    assert sharp.valid[taken_out].all()
    kept = sharp.moving[measured[index].moving]
    np.testing.assert_array_equal(sharp.min_motion_inverse_depth, np.flatnonzero(kept))
    np.testing.assert_array_equal(sharp.moving_flows[1][:, 0], np.flatnonzero(kept))


def test_thing_with_a_part_of_the_background_s_colour_keeps_it(measured):
    """The part is inside of the thing: only what touches the outside is taken out."""
    frames = [frame(k) for k in range(N_FRAMES)]
    clean = cv2.resize(
        np.random.default_rng(1).integers(60, 200, (20, 40, 3), np.uint8), (160, 80), interpolation=cv2.INTER_CUBIC
    )[4:76, 14:142]
    frames[4][32:38, 64:70] = clean[32:38, 64:70]  # a window through the block
    sharp = sharpen_edges(MeasuredFrames(frames, measured, CAMERAS, INTRINSICS), 4, measured[4])
    assert sharp.moving[32:38, 64:70].all()


def test_what_stands_where_it_was_keeps_its_mask(measured):
    """No neighbour shows what is behind it: nothing is known, nothing is taken out."""
    still = [measured_with_rims(0)] * N_FRAMES
    cameras = np.stack([look_from(0.0)] * N_FRAMES)
    sharp = sharpen_edges(MeasuredFrames([frame(0)] * N_FRAMES, still, cameras, INTRINSICS), 3, still[3])
    np.testing.assert_array_equal(sharp.moving, still[3].moving)


def test_background_inverse_depth_comes_from_neighbours(measured):
    around = MeasuredFrames([frame(k) for k in range(N_FRAMES)], measured, CAMERAS, INTRINSICS)
    behind = background_inverse_depth(around, 4, measured[4], [0, 1, 6, 7])
    np.testing.assert_allclose(behind[measured[4].moving], WALL, rtol=1e-3)


def test_project_static_hand_values():
    mask = np.zeros(SIZE, bool)
    mask[5, 20] = mask[7, 3] = True
    pixels, values = project_static(np.full(SIZE, 0.25), mask, look_from(0.5), look_from(0.0), K)
    assert pixels.tolist() == [5 * SIZE[1] + 10]  # f x rho = 80 / 2 / 4 to the left; the other leaves the frame
    np.testing.assert_allclose(values, 0.25)
