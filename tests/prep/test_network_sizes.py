"""Input sizes of MiDaS, RAFT and DIS (those of Mask R-CNN: test_semantic_masks.py)."""

import argparse

import cv2
import numpy as np
import pytest
import torch
from nsff.cli import Parser
from nsff.io import Image, write_image
from nsff.prep import flow_stage
from nsff.prep.depth.midas import MidasDepth, input_size
from nsff.prep.flow import DisFlow
from nsff.prep.network_sizes import (
    NO_LIMITS,
    long_side_size,
    network_size,
    resize_image,
    shrink_disparity,
    shrink_mask,
    working_size,
)
from nsff.prep.options import add_depth, add_flow, depth_settings, flow_settings
from nsff.prep.poses_bounds import Cameras
from nsff.scene_folder import SceneFolder
from toy_frames import look_from

CPU = torch.device("cpu")
PUBLISHED = "--input_w 640 --input_h 360 --input_flow_w 768 --input_semantic_w 1024 --input_semantic_h 576"
PORTRAIT, VGA, SQUARE, HD = (1080, 1920), (640, 480), (720, 720), (1920, 1080)


@pytest.mark.parametrize(
    ("frame", "midas", "raft", "mask_rcnn"),
    [
        (PORTRAIT, (352, 640), (432, 768), (540, 960)),
        (VGA, (640, 480), (768, 576), (960, 720)),
        (SQUARE, (640, 640), (768, 768), (960, 960)),
        (HD, (640, 352), (768, 432), (960, 540)),
        ((1000, 740), (640, 448), (768, 568), (960, 710)),  # MiDaS: 474 is nearer to 480, but not above 474
    ],
)
def test_network_sizes_without_limits_fix_long_side(frame, midas, raft, mask_rcnn):
    assert input_size(*frame, NO_LIMITS) == midas
    assert long_side_size(*frame, 768) == network_size(*frame, NO_LIMITS, 768) == raft
    assert long_side_size(*frame, 960) == mask_rcnn


def parse(text: str) -> argparse.Namespace:
    """Parse the options of depth and flow, as prepare_video.py does."""
    parser = Parser(None)
    add_depth(parser, model_option=False)
    add_flow(parser)
    return parser.parse_args(text.split())


def test_settings_have_no_limits_by_default():
    args = parse("")
    assert depth_settings(args).limits == NO_LIMITS
    assert flow_settings(args, None).semantic_limits == NO_LIMITS
    assert flow_settings(args, None).flow_width is None


@pytest.mark.parametrize(
    ("frame", "midas", "raft", "mask_rcnn"),
    [(HD, (640, 352), (768, 432), (1024, 576)), (PORTRAIT, (192, 352), (768, 1365), (324, 576))],
)
def test_network_sizes_of_published_command(frame, midas, raft, mask_rcnn):
    """Given sizes limit MiDaS and Mask R-CNN, and set the width of flow."""
    args = parse(PUBLISHED)
    depth, flow = depth_settings(args), flow_settings(args, None)
    assert input_size(*frame, depth.limits) == midas
    assert network_size(*frame, (flow.flow_width, None), flow_stage.FLOW_LONG_SIDE) == raft
    assert network_size(*frame, flow.semantic_limits, 960) == mask_rcnn


@pytest.mark.parametrize(("text", "size"), [("--input_w 640", (640, 1152)), ("--input_h 640", (352, 640))])
def test_input_size_with_one_limit(text, size):
    assert input_size(*PORTRAIT, depth_settings(parse(text)).limits) == size  # 1138 is nearest to 1152 = 36 times 32


def test_midas_input_has_size_without_limits():
    input_sizes = []

    def network(images: torch.Tensor) -> torch.Tensor:
        input_sizes.append(tuple(images.shape[:1:-1]))
        return images[:, 0]

    depth = object.__new__(MidasDepth)
    depth.model, depth.device, depth.limits = network, CPU, NO_LIMITS
    assert depth(np.zeros((1920, 1080, 3), np.uint8)).shape == (1920, 1080)
    assert input_sizes == [(352, 640)]


def cameras(size: tuple[int, int], n_frames: int) -> Cameras:
    """Cameras at (0.1 k, 0, 0) that look along +z."""
    w2c = np.stack([look_from(0.1 * k) for k in range(n_frames)])
    return Cameras(w2c, size, float(size[0]), np.array([[1.0, 10.0]] * n_frames))


class RecordingFlow(DisFlow):
    """DIS flow that records the sizes (width, height) of its images."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[tuple[int, int]] = set()

    def __call__(self, first: Image, second: Image) -> np.ndarray:
        self.sizes |= {first.shape[1::-1], second.shape[1::-1]}
        return super().__call__(first, second)


@pytest.mark.parametrize(
    ("frame", "flow_width", "expected_size"), [((108, 192), None, (432, 768)), ((108, 192), 216, (216, 384))]
)
def test_write_flows_computes_at_input_size_and_writes_training_size(frame, flow_width, expected_size, tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(2)]
    for path in paths:
        write_image(path, np.zeros((frame[1], frame[0], 3), np.uint8))
    method, folder = RecordingFlow(), SceneFolder(tmp_path)
    finder = flow_stage.MaskFinder(cameras((108, 192), 2), (108, 192), 1.0, "none", None)
    masks = flow_stage._write_flows_and_masks(folder, paths, (54, 96), method, flow_width, finder)
    assert [mask.shape for mask in masks] == [(96, 54)] * 2
    assert method.sizes == {expected_size}
    assert np.load(folder.flow(0, 1))["flow"].shape == (96, 54, 2)


@pytest.mark.parametrize("height", [27, 54, 135, 270])
def test_motion_masks_do_not_depend_on_small_training_size(height, tmp_path):
    """A block moves by 1.5 pixels of 480, which is 0.15 pixels at the smallest training size."""
    rows, columns = slice(100, 180), slice(200, 320)

    def flow_of_block(first: Image, second: Image) -> np.ndarray:
        flow = np.zeros((*first.shape[:2], 2), np.float32)  # along the epipolar lines: static
        flow[rows, columns, 1] = 1.5 * (1 if first.mean() < second.mean() else -1)
        return flow

    folder = SceneFolder(tmp_path)
    for k in range(3):
        write_image(folder.images / f"{k}.png", np.full((270, 480, 3), 50 * k, np.uint8))
    size = (round(480 * height / 270), height)
    finder = flow_stage.MaskFinder(cameras((480, 270), 3), working_size((480, 270), size), 1.0, "none", None)
    masks = flow_stage._write_flows_and_masks(folder, folder.list_images(), size, flow_of_block, 480, finder)
    expected = np.zeros((270, 480), bool)
    expected[98:182, 198:322] = True  # dilated by two pixels of 480
    for mask in masks:
        difference = (cv2.resize(mask.astype(np.uint8), (480, 270), interpolation=cv2.INTER_NEAREST) > 0) != expected
        assert difference.sum() < (2 * (84 + 124)) * 270 / height / 2  # half a pixel of the training size all around


def test_resize_image_is_bilinear_up_and_average_down():
    """Enlarging a step from 0 to 200 gives values in between; shrinking averages."""
    step = np.zeros((4, 4, 3), np.uint8)
    step[:, 2:] = 200
    assert resize_image(step, (8, 8))[0, :, 0].tolist() == [0, 0, 0, 50, 150, 200, 200, 200]
    assert resize_image(step, (2, 2))[0, :, 0].tolist() == [0, 200]
    assert resize_image(step, (1, 1))[0, 0, 0] == 100


@pytest.mark.parametrize(
    ("source", "training", "expected"),
    [
        ((960, 540), (512, 288), (512, 288)),  # published
        ((960, 540), (480, 270), (480, 270)),
        ((960, 540), (128, 72), (480, 270)),
        ((540, 960), (72, 128), (270, 480)),
        ((256, 144), (128, 72), (256, 144)),  # the source is not enlarged
        ((256, 144), (512, 288), (512, 288)),  # unless training does
    ],
)
def test_working_size_hand_values(source, training, expected):
    assert working_size(source, training) == expected


def test_shrink_mask_covers_pixels_that_are_half_covered():
    mask = np.zeros((4, 8), bool)
    mask[:, :3] = True  # pixels of 4x4: three quarters, nothing
    assert shrink_mask(mask, (2, 1)).tolist() == [[True, False]]
    mask[:, 3:5] = True
    mask[:2, 5] = True  # six of the sixteen in the second pixel
    assert shrink_mask(mask, (2, 1)).tolist() == [[True, False]]
    mask[2:, 5] = True
    assert shrink_mask(mask, (2, 1)).tolist() == [[True, True]]


def test_shrink_disparity_averages_moving_and_static_apart():
    disparity = np.array([[1.0, 3.0, 9.0, 9.0], [9.0, 9.0, 2.0, 4.0]])
    moving = disparity == 9.0
    moving[0, 1] = moving[1, 3] = True
    shrunk = shrink_disparity(disparity, moving, (2, 1))
    np.testing.assert_allclose(shrunk, [[(3.0 + 9.0 + 9.0) / 3.0, (9.0 + 9.0 + 4.0) / 3.0]], rtol=1e-6)
    np.testing.assert_array_equal(shrink_disparity(disparity, ~moving, (2, 1)), shrunk)  # the larger part either way
