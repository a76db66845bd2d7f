"""Pictures of layers: colour maps that are the same in all frames of a video."""

import numpy as np
from nsff.rendering.visualize import Ranges, _depth_picture, flow_picture
from torch import tensor


def test_depth_picture_maps_equal_disparity_to_equal_colour():
    ranges = Ranges(min_disparity=0.1, max_disparity=0.5, max_flow=0.1)
    first, second = _depth_picture(tensor([[0.1, 0.3, 0.5]]), ranges), _depth_picture(tensor([[0.3, 0.3, 0.9]]), ranges)
    np.testing.assert_array_equal(first[0, 1], second[0, 0])
    np.testing.assert_array_equal(first[0, 2], second[0, 2])  # beyond the range: its end
    assert first[0, 0].sum() < first[0, 1].sum() < first[0, 2].sum()  # near is bright


def test_flow_picture_maps_equal_flow_to_equal_colour():
    slow, fast = (flow_picture(tensor([[[1.0, 0.0], [0.0, 0.0], [x, 0.0]]]), max_flow=5.0) for x in (2.0, 50.0))
    np.testing.assert_array_equal(slow[0, :2], fast[0, :2])
    np.testing.assert_array_equal(slow[0, 1], [255, 255, 255])
    assert slow[0, 0].min() > slow[0, 2].min() > fast[0, 2].min()
