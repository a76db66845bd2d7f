"""Masks of movable things: dilated at the size of Mask R-CNN's input, then resized, united and dilated again."""

import cv2
import numpy as np
import pytest
import torch
from nsff.io import Mask
from nsff.prep.motion_masks import motion_mask
from nsff.prep.network_sizes import NO_LIMITS, Limits
from nsff.prep.semantic_masks import MOVABLE, MaskRcnn, dilate, movable_mask
from skimage.morphology import disk, erosion

PERSON = 1


def mask_of(*regions: tuple[int | slice, int | slice]) -> Mask:
    mask = np.zeros((40, 60), bool)
    for region in regions:
        mask[region] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "n_dilated"),
    [
        (mask_of((slice(10, 22), slice(20, 32))), 144 + 4 * 12),  # a block, and a row of pixels along each side
        (mask_of((20, slice(10, 30))), 3 * 20 + 2),  # a line one pixel wide: a row above, one below, two ends
        (mask_of((slice(5, 18), 30)), 3 * 13 + 2),
        (mask_of((20, 30)), 5),
        (mask_of((0, 30)), 4),  # at the border
        (mask_of((39, 0)), 3),  # in a corner
        (mask_of(), 0),
        (mask_of((slice(None), slice(None))), 40 * 60),
    ],
)
def test_dilate_adds_one_pixel(mask, n_dilated):
    dilated = dilate(mask)
    assert dilated.sum() == n_dilated
    assert dilated[mask].all()


@pytest.mark.parametrize("density", [0.01, 0.2, 0.9])
def test_dilate_equals_published_erosion_of_background(density):
    """The published code erodes a map that is 1 where nothing is movable; equal at the borders too."""
    mask = np.random.default_rng(0).random((40, 60)) < density
    background = erosion(1.0 - mask.astype(np.float32), disk(1))
    np.testing.assert_array_equal(dilate(mask), background < 1e-3)


def test_motion_mask_keeps_thin_semantic_masks():
    nothing, line = mask_of(), mask_of((20, slice(10, 30)))
    np.testing.assert_array_equal(motion_mask(nothing, line), cv2.dilate(line.astype(np.uint8), disk(2)) > 0)
    assert motion_mask(nothing, line).sum() == 24 + 2 * 22 + 2 * 20  # rows of a line dilated by a disk of radius 2
    block = mask_of((slice(10, 20), slice(10, 20)))
    assert motion_mask(nothing, block).sum() == 12 * 12 + 4 * 10
    apart = mask_of((0, slice(40, 50)))
    np.testing.assert_array_equal(motion_mask(apart, block), motion_mask(nothing, block) | motion_mask(apart))


class OnePixelDetector:
    """Stand-in for the network: detects a person at row 3, column 5 of its input, and records the input sizes."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def __call__(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        height, width = images[0].shape[1:]
        self.sizes.append((width, height))
        masks = torch.zeros(1, 1, height, width)
        masks[0, 0, 3, 5] = 1.0
        return [{"labels": torch.tensor([PERSON]), "scores": torch.tensor([0.9]), "masks": masks}]


def mask_rcnn(limits: Limits = NO_LIMITS) -> tuple[MaskRcnn, OnePixelDetector]:
    """Mask R-CNN around the stand-in network, and the network."""
    network, detector = OnePixelDetector(), object.__new__(MaskRcnn)
    detector.model, detector.device, detector.limits = network, torch.device("cpu"), limits
    return detector, network


def test_mask_rcnn_dilates_before_resizing():
    detector, _ = mask_rcnn((40, 20))
    image = np.zeros((40, 80, 3), np.uint8)  # twice the size of the network's input
    expected = np.zeros((20, 40), bool)
    expected[[2, 3, 3, 3, 4], [5, 4, 5, 6, 5]] = True
    np.testing.assert_array_equal(detector(image), expected.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(detector(image, (40, 20)), expected)  # at training size, without resizing


@pytest.mark.parametrize(
    ("frame", "input_size"),
    [((1080, 1920), (540, 960)), ((640, 480), (960, 720)), ((720, 720), (960, 960)), ((1920, 1080), (960, 540))],
)
def test_mask_rcnn_without_limits_has_long_side_960(frame, input_size):
    detector, network = mask_rcnn()
    assert detector(np.zeros((frame[1], frame[0], 3), np.uint8)).shape == frame[::-1]
    assert network.sizes == [input_size]


@pytest.mark.parametrize(
    ("limits", "frame", "input_size"),
    [
        ((1024, 576), (1920, 1080), (1024, 576)),
        ((1024, 576), (1080, 1920), (324, 576)),
        ((1024, None), (1080, 1920), (1024, 1820)),  # only one limit
        ((None, 576), (640, 480), (768, 576)),
    ],
)
def test_mask_rcnn_input_is_within_limits(limits, frame, input_size):
    detector, network = mask_rcnn(limits)
    detector(np.zeros((frame[1], frame[0], 3), np.uint8))
    assert network.sizes == [input_size]


def test_movable_mask_ignores_other_classes_and_low_scores():
    masks = torch.zeros(3, 1, 4, 4)
    for k in range(3):
        masks[k, 0, k] = 1.0
    detections = {"labels": torch.tensor([1, 3, 18]), "scores": torch.tensor([0.9, 0.9, 0.4]), "masks": masks}
    assert movable_mask(detections)[0].all()  # a person
    assert not movable_mask(detections)[1:].any()  # a car, and a dog of low score
    assert len(MOVABLE) == 9
