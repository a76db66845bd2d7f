"""Optical flow, and the motion masks made from it or given by the user."""

import numpy as np
import pytest
from nsff.errors import InputError, UsageError
from nsff.io import write_image
from nsff.prep.flow import DisFlow, consistent
from nsff.prep.motion_masks import disk, epipolar_distance, epipolar_mask, fundamental, motion_mask, parse_threshold
from nsff.prep.user_masks import read_user_masks
from toy_frames import SIZE, K, look_from, textured


def test_dis_flow_of_shifted_image():
    picture = textured(3, 144, 256)
    moved = np.roll(picture, (2, 5), axis=(0, 1))
    flow = DisFlow()(picture, moved)[20:-20, 20:-20]
    assert np.abs(flow - [5.0, 2.0]).mean() < 0.1


def test_consistent_excludes_flow_that_leaves_frame():
    fwd = np.full((*SIZE, 2), [10.0, 0.0], np.float32)
    agree = consistent(fwd, -fwd)
    assert agree[:, :50].all()
    assert not agree[:, 56:].any()  # ends_inside outside


def test_epipolar_distance_and_mask_of_static_and_moving_points():
    depth = np.random.default_rng(0).uniform(2.0, 9.0, SIZE)
    flow = np.stack([-80.0 * 0.5 / depth, 0.0 * depth], axis=-1).astype(np.float32)  # half a unit to the right
    matrix = fundamental(look_from(0.0), look_from(0.5), K)
    assert epipolar_distance(flow, matrix).max() < 1e-4
    flow[10:20, 10:20, 1] += 3.0
    distance = epipolar_distance(flow, matrix)
    mask = epipolar_mask([distance], [np.ones(SIZE, bool)], 1.0)
    expected = np.zeros(SIZE, bool)
    expected[10:20, 10:20] = True
    expected[[10, 10, 19, 19], [10, 19, 10, 19]] = False  # opening by a disk rounds corners
    np.testing.assert_array_equal(mask, expected)
    assert motion_mask(mask).sum() > mask.sum()
    assert not epipolar_mask([distance], [np.zeros(SIZE, bool)], 1.0).any()  # inconsistent flow is ignored


def test_disk_hand_values():
    assert disk(1).tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    assert disk(2).sum() == 13


def test_motion_mask_unites_and_dilates():
    semantic = np.zeros(SIZE, bool)
    semantic[5:15, 5:15] = True
    joined = motion_mask(np.zeros(SIZE, bool), semantic)
    assert joined[semantic].all()
    assert joined.sum() == 12 * 12 + 4 * 10  # one row all around, and a second one along the sides


@pytest.mark.parametrize(("text", "pixels"), [("1.0", 1.0), ("2", 2.0), ("0.002w", 1.0), (".5", 0.5)])
def test_parse_threshold_in_pixels_or_widths(text, pixels):
    assert parse_threshold(text, 500) == pytest.approx(pixels)


@pytest.mark.parametrize("text", ["", "w", "-1", "0", "1px", "nan"])
def test_parse_threshold_rejects_malformed(text):
    with pytest.raises(UsageError, match="--epi_threshold"):
        parse_threshold(text, 500)


def test_read_user_masks_of_labels_and_subsets(tmp_path):
    labels = np.zeros((20, 30, 3), np.uint8)
    labels[5:9, 5:9] = 1  # a label, not white
    write_image(tmp_path / "0.png", labels)
    write_image(tmp_path / "1.png", np.zeros_like(labels))
    masks = read_user_masks(tmp_path, 2)
    assert [mask.sum() for mask in masks] == [16, 0]
    with pytest.raises(InputError, match="2 masks for 3 frames"):
        read_user_masks(tmp_path, 3)
    assert [mask.sum() for mask in read_user_masks(tmp_path, 1, [0], 2)] == [16]  # one of two source frames is used
    write_image(tmp_path / "0.png", np.zeros_like(labels))
    with pytest.raises(InputError, match="all masks are black"):
        read_user_masks(tmp_path, 2)


def test_read_user_masks_in_natural_order(tmp_path):
    for k in range(12):
        write_image(tmp_path / f"mask{k}.png", np.eye(4, 4 + k, dtype=np.uint8) * 255)
    assert [mask.shape[1] for mask in read_user_masks(tmp_path, 12)] == list(range(4, 16))
