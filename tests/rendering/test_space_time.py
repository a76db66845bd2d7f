"""Space-time interpolation on fields of known motion: a red block moves right in front of a grey wall."""

import pytest
import torch
from nsff.data.timeline import Timeline
from nsff.fields import DynamicField, DynamicSamples, Fields, StaticField, StaticSamples
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import Camera
from nsff.geometry.space import NdcSpace
from nsff.rendering.frame_render import render_frame
from nsff.rendering.ray_sampling import DepthSampling
from nsff.rendering.space_time import PlaneSampling, render_space_time
from toy_fields import AHEAD

N_FRAMES, STEP = 4, 8.0  # frames; motion of the block in pixels per frame
SIZE = Intrinsics(24, 96, 80.0)
CAMERA = Camera(AHEAD, SIZE, NdcSpace(SIZE))
TIMELINE = Timeline(N_FRAMES)
FLOW_NDC = STEP * 2.0 / SIZE.width


class Wall(StaticField):
    """Opaque grey from NDC depth 0.5 on; the blend weight in front of it is 1."""

    def forward(self, points, viewdirs):
        behind = points[..., 2] > 0.5
        return StaticSamples(torch.zeros_like(points), torch.where(behind, 1e4, -1.0), (~behind).float())


class Block(DynamicField):
    """Opaque red, 20 x 10 pixels, from NDC depth -0.2 to 0.2, centred at x = -0.4 in the first frame."""

    def __init__(self, flow: float = FLOW_NDC):
        super().__init__()
        self.flow = flow

    def forward(self, points, time, viewdirs):
        centre = -0.4 + FLOW_NDC * (time[:, None] + 1.0) / 2.0 * N_FRAMES
        x, y, z = points.unbind(-1)
        inside = ((x - centre).abs() < 20.0 / SIZE.width) & (y.abs() < 10.0 / SIZE.height) & (z.abs() < 0.2)
        rgb_raw = torch.where(inside[..., None], torch.tensor([20.0, -20.0, -20.0]), torch.tensor([-20.0, -20.0, 20.0]))
        flow = torch.zeros_like(points)
        flow[..., 0] = self.flow
        zeros = torch.zeros_like(x)
        return DynamicSamples(rgb_raw, torch.where(inside, 1e4, -1.0), -flow, flow, zeros, zeros)


FIELDS = Fields(Wall(), Block())
ALL, COARSE = PlaneSampling(64, 0), PlaneSampling(64, 16)


def mean_column(weight: torch.Tensor) -> float:
    """Weighted mean column of a map."""
    return float((weight.sum(0) * torch.arange(weight.shape[1])).sum() / weight.sum())


def erode(region: torch.Tensor) -> torch.Tensor:
    """Remove the outermost pixels of a region, whose colour is mixed with the surroundings."""
    return torch.nn.functional.max_pool2d((~region)[None, None].float(), 3, stride=1, padding=1)[0, 0] == 0.0


@pytest.mark.parametrize("sampling", [ALL, COARSE])
def test_block_moves_uniformly_and_keeps_its_colour(sampling):
    """At frames and between them.

    A pixel that the block covers partly is opaque after a dozen planes: it may grow by a pixel, and its centre shift.
    """
    start = render_space_time(FIELDS, CAMERA, TIMELINE, 0.0, sampling, 10_000)
    assert float(start.dynamic_weight.sum()) == pytest.approx(200.0, rel=0.12)
    for frame in (0.125, 0.5, 0.9, 1.0, 1.25, 2.5, 3.0):
        render = render_space_time(FIELDS, CAMERA, TIMELINE, frame, sampling, 10_000, with_flow=True)
        assert mean_column(render.dynamic_weight) == pytest.approx(
            mean_column(start.dynamic_weight) + STEP * frame, abs=0.3
        )
        assert float(render.dynamic_weight.sum()) == pytest.approx(float(start.dynamic_weight.sum()), rel=0.06)
        inside = erode(render.dynamic_weight > 0.999)
        assert int(inside.sum()) >= 18 * 7
        torch.testing.assert_close(
            render.rgb[inside], torch.tensor([1.0, 0.0, 0.0]).expand(int(inside.sum()), 3), atol=2e-3, rtol=0.0
        )
        torch.testing.assert_close(
            render.flow[inside], torch.tensor([STEP, 0.0]).expand(int(inside.sum()), 2), atol=0.01, rtol=0.0
        )
        empty = render.dynamic_weight == 0.0
        torch.testing.assert_close(render.rgb[empty], torch.full((int(empty.sum()), 3), 0.5), atol=2e-3, rtol=0.0)
        torch.testing.assert_close(render.depth[inside].mean(), torch.tensor(0.4), atol=0.02, rtol=0.0)  # z of the ray


def test_coarse_pass_renders_the_same_as_all_planes():
    for frame in (0.0, 0.5, 1.7):
        reference = render_space_time(FIELDS, CAMERA, TIMELINE, frame, ALL, 10_000)
        for points in (500, 10_000):
            coarse = render_space_time(FIELDS, CAMERA, TIMELINE, frame, COARSE, points)
            assert float((coarse.rgb - reference.rgb).abs().max()) < 0.21  # at the silhouette, where colours mix
            torch.testing.assert_close(coarse.depth, reference.depth, atol=0.02, rtol=0.0)
            inside = erode(reference.dynamic_weight > 0.999) | erode(reference.dynamic_weight == 0.0)
            torch.testing.assert_close(coarse.rgb[inside], reference.rgb[inside], atol=1e-3, rtol=0.0)


class Fog(DynamicField):
    """White and almost transparent; only the last plane, at infinity, is opaque."""

    def forward(self, points, time, viewdirs):
        zeros = torch.zeros_like(points[..., 0])
        vectors = torch.zeros_like(points)
        return DynamicSamples(vectors + 20.0, zeros + 0.01, vectors, vectors, zeros, zeros)


class Clear(StaticField):
    """Empty; the blend weight is 1 everywhere."""

    def forward(self, points, viewdirs):
        zeros = torch.zeros_like(points[..., 0])
        return StaticSamples(torch.zeros_like(points), zeros - 1.0, zeros + 1.0)


@pytest.mark.parametrize("sampling", [ALL, COARSE])
def test_dynamic_density_at_infinity_is_rendered(sampling):
    frame = render_space_time(Fields(Clear(), Fog()), CAMERA, TIMELINE, 0.5, sampling, 10_000)
    torch.testing.assert_close(frame.rgb, torch.ones(24, 96, 3), atol=1e-3, rtol=0.0)


def test_source_frames_are_weighted_by_distance_in_time():
    """With a scene flow of 0, which is wrong here, both source frames show through."""
    still = Fields(Wall(), Block(flow=0.0))
    blended = render_space_time(still, CAMERA, TIMELINE, 0.25, ALL, 10_000).dynamic_weight[12]
    first = render_space_time(still, CAMERA, TIMELINE, 0.0, ALL, 10_000).dynamic_weight[12]
    second = render_space_time(still, CAMERA, TIMELINE, 1.0, ALL, 10_000).dynamic_weight[12]
    only_first, only_second = (first > 0.99) & (second < 0.01), (second > 0.99) & (first < 0.01)
    assert min(int(only_first.sum()), int(only_second.sum())) >= 6
    # Each of the 11 planes of the block has an opacity of 0.75 in one frame and of 0.25 in the other.
    assert float(blended[only_first].min()) > 0.99
    assert 0.9 < float(blended[only_second].mean()) < 0.999
    torch.testing.assert_close(blended[(first > 0.99) & (second > 0.99)].min(), torch.tensor(1.0), atol=1e-3, rtol=0.0)


def test_flow_of_the_last_frame_is_the_reversed_backward_flow():
    planes = render_space_time(FIELDS, CAMERA, TIMELINE, N_FRAMES - 1.0, ALL, 10_000, with_flow=True)
    rays = render_frame(FIELDS, CAMERA, TIMELINE.time_of(N_FRAMES - 1), DepthSampling(64, 0, 0.0), 1000, "backward")
    for flow, weight in ((planes.flow, planes.dynamic_weight), (rays.flow, rays.dynamic_weight)):
        torch.testing.assert_close(flow[weight > 0.999].mean(0), torch.tensor([STEP, 0.0]), atol=0.01, rtol=0.0)
        assert float(flow[weight == 0.0].abs().max()) == 0.0


def test_twice_the_focal_length_shows_the_block_twice_as_wide():
    """NDC stays that of the input camera."""
    long_focal = Camera(AHEAD, Intrinsics(24, 96, 160.0), NdcSpace(SIZE))
    wide, narrow = (
        render_space_time(FIELDS, camera, TIMELINE, 1.5, ALL, 10_000).dynamic_weight[12].sum()
        for camera in (CAMERA, long_focal)
    )
    assert float(narrow) == pytest.approx(2.0 * float(wide), rel=0.08)
