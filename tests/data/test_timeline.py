"""Frame indices and the time coordinate of the dynamic field."""

import pytest
from nsff.data.timeline import Timeline


def test_timeline_maps_frames_to_field_time():
    timeline = Timeline(24)
    assert [timeline.time_of(frame) for frame in (0, 6, 12)] == [-1.0, -0.5, 0.0]
    assert timeline.time_of(3) + timeline.step == pytest.approx(timeline.time_of(4))


def test_timeline_split_returns_floor_and_remainder():
    assert [Timeline(24).split(timestamp) for timestamp in (3.0, 3.25)] == [(3, 0.0), (3, 0.25)]


def test_timeline_supervised_flow_is_backward_for_the_last_frame_only():
    assert [Timeline(3).supervised_flow(frame) for frame in range(3)] == ["forward", "forward", "backward"]
