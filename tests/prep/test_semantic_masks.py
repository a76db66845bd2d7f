"""Masks of movable things: grown at the size of Mask R-CNN's input, then resized, united, grown again."""

import cv2
import numpy as np
import pytest
import torch
from nsff.io import Mask
from nsff.prep.motion_masks import motion_mask
from nsff.prep.network_sizes import NO_LIMITS, Limits
from nsff.prep.semantic_masks import MaskRcnn, dilate
from skimage.morphology import disk, erosion

PERSON = 1


def things(*places: tuple[int | slice, int | slice]) -> Mask:
    mask = np.zeros((40, 60), bool)
    for place in places:
        mask[place] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "n_grown"),
    [
        (things((slice(10, 22), slice(20, 32))), 144 + 4 * 12),  # a block, and a row of pixels along each side
        (things((20, slice(10, 30))), 3 * 20 + 2),  # a line one pixel wide: a row above, one below, two ends
        (things((slice(5, 18), 30)), 3 * 13 + 2),
        (things((20, 30)), 5),
        (things((0, 30)), 4),  # at the border
        (things((39, 0)), 3),  # in a corner
        (things(), 0),
        (things((slice(None), slice(None))), 40 * 60),
    ],
)
def test_things_grow_by_a_pixel(mask, n_grown):
    grown = dilate(mask)
    assert grown.sum() == n_grown
    assert grown[mask].all()


@pytest.mark.parametrize("density", [0.01, 0.2, 0.9])
def test_growing_things_is_eroding_the_background(density):
    """As the published code does it, on a map that is 1 where nothing movable is; borders included."""
    mask = np.random.default_rng(0).random((40, 60)) < density
    background = erosion(1.0 - mask.astype(np.float32), disk(1))
    np.testing.assert_array_equal(dilate(mask), background < 1e-3)


def test_thin_things_stay_in_the_motion_mask():
    nothing, line = things(), things((20, slice(10, 30)))
    np.testing.assert_array_equal(motion_mask(nothing, line), cv2.dilate(line.astype(np.uint8), disk(2)) > 0)
    assert motion_mask(nothing, line).sum() == 24 + 2 * 22 + 2 * 20  # rows of a line that a disk of radius 2 grew
    block = things((slice(10, 20), slice(10, 20)))
    assert motion_mask(nothing, block).sum() == 12 * 12 + 4 * 10
    apart = things((0, slice(40, 50)))
    np.testing.assert_array_equal(motion_mask(apart, block), motion_mask(nothing, block) | motion_mask(apart))


class OnePixel:
    """Stands for the network: it finds a person in the pixel (row 3, column 5) of its input, and notes the size."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def __call__(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        height, width = images[0].shape[1:]
        self.sizes.append((width, height))
        masks = torch.zeros(1, 1, height, width)
        masks[0, 0, 3, 5] = 1.0
        return [{"labels": torch.tensor([PERSON]), "scores": torch.tensor([0.9]), "masks": masks}]


def mask_rcnn(limits: Limits = NO_LIMITS) -> tuple[MaskRcnn, OnePixel]:
    """Mask R-CNN around the stand-in, and the stand-in."""
    network, found = OnePixel(), object.__new__(MaskRcnn)
    found.model, found.device, found.limits = network, torch.device("cpu"), limits
    return found, network


def test_masks_grow_before_they_are_resized():
    find, _ = mask_rcnn((40, 20))
    image = np.zeros((40, 80, 3), np.uint8)  # twice the size of the network's input
    expected = np.zeros((20, 40), bool)
    expected[[2, 3, 3, 3, 4], [5, 4, 5, 6, 5]] = True
    np.testing.assert_array_equal(find(image), expected.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(find(image, (40, 20)), expected)  # as training wants it, straight from the network


@pytest.mark.parametrize(
    ("frame", "seen"),
    [((1080, 1920), (540, 960)), ((640, 480), (960, 720)), ((720, 720), (960, 960)), ((1920, 1080), (960, 540))],
)
def test_the_long_side_of_mask_rcnn_is_960(frame, seen):
    find, network = mask_rcnn()
    assert find(np.zeros((frame[1], frame[0], 3), np.uint8)).shape == frame[::-1]
    assert network.sizes == [seen]


@pytest.mark.parametrize(
    ("limits", "frame", "seen"),
    [
        ((1024, 576), (1920, 1080), (1024, 576)),
        ((1024, 576), (1080, 1920), (324, 576)),
        ((1024, None), (1080, 1920), (1024, 1820)),  # one limit alone
        ((None, 576), (640, 480), (768, 576)),
    ],
)
def test_limits_of_the_user(limits, frame, seen):
    find, network = mask_rcnn(limits)
    find(np.zeros((frame[1], frame[0], 3), np.uint8))
    assert network.sizes == [seen]
