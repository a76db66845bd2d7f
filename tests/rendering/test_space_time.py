"""Moments between frames, on fields whose motion is known: a red block that goes to the right, before a grey wall."""

import pytest
import torch
from nsff.data.timeline import Timeline
from nsff.fields import DynamicField, DynamicSamples, Fields, StaticField, StaticSamples
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import Camera
from nsff.rendering.frame_render import render_frame
from nsff.rendering.ray_sampling import DepthSampling
from nsff.rendering.space_time import PlaneSampling, render_space_time
from toy_fields import AHEAD

N_FRAMES, STEP = 4, 8.0  # frames, pixels that the block moves from one to the next
SIZE = Intrinsics(24, 96, 80.0)
CAMERA = Camera(AHEAD, SIZE, SIZE)
TIMELINE = Timeline(N_FRAMES)
FAST = STEP * 2.0 / SIZE.width  # NDC


class Wall(StaticField):
    """Grey, opaque, from NDC depth 0.5 on; in front of it, all belongs to the dynamic field."""

    def forward(self, points_ndc, viewdirs):
        behind = points_ndc[..., 2] > 0.5
        return StaticSamples(torch.zeros_like(points_ndc), torch.where(behind, 1e4, -1.0), (~behind).float())


class Block(DynamicField):
    """Red, opaque, 20 x 10 pixels, from depth -0.2 to 0.2, its middle at -0.4 in the first frame."""

    def __init__(self, flow: float = FAST):
        super().__init__()
        self.flow = flow

    def forward(self, points_ndc, time, viewdirs):
        middle = -0.4 + FAST * (time[:, None] + 1.0) / 2.0 * N_FRAMES
        x, y, z = points_ndc.unbind(-1)
        inside = ((x - middle).abs() < 20.0 / SIZE.width) & (y.abs() < 10.0 / SIZE.height) & (z.abs() < 0.2)
        rgb_raw = torch.where(inside[..., None], torch.tensor([20.0, -20.0, -20.0]), torch.tensor([-20.0, -20.0, 20.0]))
        flow = torch.zeros_like(points_ndc)
        flow[..., 0] = self.flow
        none = torch.zeros_like(x)
        return DynamicSamples(rgb_raw, torch.where(inside, 1e4, -1.0), -flow, flow, none, none)


FIELDS = Fields(Wall(), Block())
ALL, LOOKED = PlaneSampling(64, 0), PlaneSampling(64, 16)


def middle_of(weight: torch.Tensor) -> float:
    """Mean column of a map."""
    return float((weight.sum(0) * torch.arange(weight.shape[1])).sum() / weight.sum())


def within(region: torch.Tensor) -> torch.Tensor:
    """A region without its rim, where the colour of its surroundings has a share."""
    return torch.nn.functional.max_pool2d((~region)[None, None].float(), 3, stride=1, padding=1)[0, 0] == 0.0


@pytest.mark.parametrize("sampling", [ALL, LOOKED])
def test_time_runs_evenly(sampling):
    """The block is where its speed puts it, whole, and keeps its colour: at frames and between them.

    A pixel that it covers in part is opaque after a dozen planes: it may be wider by a pixel, its middle off by less.
    """
    start = render_space_time(FIELDS, CAMERA, TIMELINE, 0.0, sampling, 10_000)
    assert float(start.dynamic_weight.sum()) == pytest.approx(200.0, rel=0.12)
    for frame in (0.125, 0.5, 0.9, 1.0, 1.25, 2.5, 3.0):
        found = render_space_time(FIELDS, CAMERA, TIMELINE, frame, sampling, 10_000, with_flow=True)
        assert middle_of(found.dynamic_weight) == pytest.approx(middle_of(start.dynamic_weight) + STEP * frame, abs=0.3)
        assert float(found.dynamic_weight.sum()) == pytest.approx(float(start.dynamic_weight.sum()), rel=0.06)
        whole = within(found.dynamic_weight > 0.999)
        assert int(whole.sum()) >= 18 * 7
        torch.testing.assert_close(
            found.rgb[whole], torch.tensor([1.0, 0.0, 0.0]).expand(int(whole.sum()), 3), atol=2e-3, rtol=0.0
        )
        torch.testing.assert_close(
            found.flow[whole], torch.tensor([STEP, 0.0]).expand(int(whole.sum()), 2), atol=0.01, rtol=0.0
        )
        empty = found.dynamic_weight == 0.0
        torch.testing.assert_close(found.rgb[empty], torch.full((int(empty.sum()), 3), 0.5), atol=2e-3, rtol=0.0)
        torch.testing.assert_close(found.depth[whole].mean(), torch.tensor(0.4), atol=0.02, rtol=0.0)  # z of the ray


def test_a_look_leaves_out_nothing_that_is_seen():
    for frame in (0.0, 0.5, 1.7):
        everywhere = render_space_time(FIELDS, CAMERA, TIMELINE, frame, ALL, 10_000)
        for points in (500, 10_000):
            looked = render_space_time(FIELDS, CAMERA, TIMELINE, frame, LOOKED, points)
            assert float((looked.rgb - everywhere.rgb).abs().max()) < 0.21  # at the rim, mixed with its surroundings
            torch.testing.assert_close(looked.depth, everywhere.depth, atol=0.02, rtol=0.0)
            inside = within(everywhere.dynamic_weight > 0.999) | within(everywhere.dynamic_weight == 0.0)
            torch.testing.assert_close(looked.rgb[inside], everywhere.rgb[inside], atol=1e-3, rtol=0.0)


class Fog(DynamicField):
    """White and almost clear; only the last plane, behind which nothing comes, is opaque of it."""

    def forward(self, points_ndc, time, viewdirs):
        none = torch.zeros_like(points_ndc[..., 0])
        nowhere = torch.zeros_like(points_ndc)
        return DynamicSamples(nowhere + 20.0, none + 0.01, nowhere, nowhere, none, none)


class Clear(StaticField):
    """Nothing; all belongs to the dynamic field."""

    def forward(self, points_ndc, viewdirs):
        none = torch.zeros_like(points_ndc[..., 0])
        return StaticSamples(torch.zeros_like(points_ndc), none - 1.0, none + 1.0)


@pytest.mark.parametrize("sampling", [ALL, LOOKED])
def test_what_is_at_infinity_may_be_dynamic(sampling):
    found = render_space_time(Fields(Clear(), Fog()), CAMERA, TIMELINE, 0.5, sampling, 10_000)
    torch.testing.assert_close(found.rgb, torch.ones(24, 96, 3), atol=1e-3, rtol=0.0)


def test_each_frame_has_its_weight():
    """Where scene flow is wrong (none), both neighbours shine through, by their nearness."""
    still = Fields(Wall(), Block(flow=0.0))
    found = render_space_time(still, CAMERA, TIMELINE, 0.25, ALL, 10_000).dynamic_weight[12]
    first = render_space_time(still, CAMERA, TIMELINE, 0.0, ALL, 10_000).dynamic_weight[12]
    second = render_space_time(still, CAMERA, TIMELINE, 1.0, ALL, 10_000).dynamic_weight[12]
    only_first, only_second = (first > 0.99) & (second < 0.01), (second > 0.99) & (first < 0.01)
    assert min(int(only_first.sum()), int(only_second.sum())) >= 6
    # 11 planes of the block, one behind the other, each let through 1 - 0.75 and 1 - 0.25
    assert float(found[only_first].min()) > 0.99
    assert 0.9 < float(found[only_second].mean()) < 0.999
    torch.testing.assert_close(found[(first > 0.99) & (second > 0.99)].min(), torch.tensor(1.0), atol=1e-3, rtol=0.0)


def test_the_last_frame_knows_its_flow_backward():
    found = render_space_time(FIELDS, CAMERA, TIMELINE, N_FRAMES - 1.0, ALL, 10_000, with_flow=True)
    rays = render_frame(FIELDS, CAMERA, TIMELINE.time_of(N_FRAMES - 1), DepthSampling(64, 0, 0.0), 1000, "backward")
    for flow, weight in ((found.flow, found.dynamic_weight), (rays.flow, rays.dynamic_weight)):
        torch.testing.assert_close(flow[weight > 0.999].mean(0), torch.tensor([STEP, 0.0]), atol=0.01, rtol=0.0)
        assert float(flow[weight == 0.0].abs().max()) == 0.0


def test_another_lens_sees_the_same_scene():
    """Half the angle of view: the block is twice as wide, NDC stays that of the camera that filmed."""
    near = Camera(AHEAD, Intrinsics(24, 96, 160.0), SIZE)
    wide, narrow = (
        render_space_time(FIELDS, camera, TIMELINE, 1.5, ALL, 10_000).dynamic_weight[12].sum()
        for camera in (CAMERA, near)
    )
    assert float(narrow) == pytest.approx(2.0 * float(wide), rel=0.08)
