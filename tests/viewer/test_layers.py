"""Layers of fields whose content is known: composited, they are the frames that the renderer gives."""

import dataclasses

import numpy as np
import pytest
import torch
from nsff.data.timeline import Timeline
from nsff.errors import InputError
from nsff.fields import DynamicField, DynamicSamples, Fields, StaticField, StaticSamples
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import Camera
from nsff.geometry.space import NdcSpace
from nsff.rendering.frame_render import render_frame
from nsff.rendering.ray_sampling import DepthSampling
from nsff.rendering.space_time import PlaneImages
from nsff.viewer import tiles as tiles_module
from nsff.viewer.composite import composite_layers
from nsff.viewer.layers import SUBPLANES, LayerBaker, LayerFrustum, composite_dynamic, composite_planes, nearest_depth
from nsff.viewer.part import Part
from nsff.viewer.tiles import Tiles
from toy_fields import AHEAD, Nothing, toy

SIZE = Intrinsics(height=40, width=72, focal=60.0)
CAMERA = Camera(AHEAD, SIZE, NdcSpace(SIZE))
TIMELINE = Timeline(4)
N_LAYERS, REACH = 32, 0.1
DEEP = 60.0  # raw density of things: opaque after a few planes, so that neighbouring planes share the light


def stripes(points: torch.Tensor) -> torch.Tensor:
    """Smooth colours before the sigmoid, a function of the position."""
    x, y, z = points.unbind(-1)
    return torch.stack([torch.sin(9.0 * x + 2.0 * z), torch.cos(7.0 * y), torch.sin(5.0 * (x + y))], dim=-1)


class Room(StaticField):
    """A wall behind NDC depth 0.4, a board before it; what is dynamic has a blend weight of 1, beside it of 0.5."""

    def forward(self, points, viewdirs):
        x, y, z = points.unbind(-1)
        board = (z > -0.1) & (z < 0.1) & (x < -0.3) & (y.abs() < 0.5)
        sigma = torch.where((z > 0.4) | board, DEEP, -1.0)
        blend_w = torch.where(z < -0.2, 1.0, torch.where((x > 0.6) & (z > 0.4), 0.5, 0.0))
        return StaticSamples(stripes(points), sigma, blend_w)


class Block(DynamicField):
    """A red block that moves to the right by 0.3 a frame, and a veil on the right part of the wall."""

    def forward(self, points, time, viewdirs):
        x, y, z = points.unbind(-1)
        left = -0.6 + 0.3 * (time[:, None] + 1.0) / TIMELINE.step
        block = (z > -0.5) & (z < -0.3) & (x > left) & (x < left + 0.4) & (y.abs() < 0.4)
        sigma = torch.where(block | ((x > 0.6) & (z > 0.4)), DEEP, -1.0)
        rgb = torch.stack([3.0 + 0.0 * x, 2.0 * x - 2.0, 2.0 * y], dim=-1)
        none, flow = torch.zeros_like(x), torch.zeros_like(points)
        flow[..., 0] = 0.3
        return DynamicSamples(rgb, sigma, -flow, flow, none, none)


FIELDS = Fields(Room(), Block())


@pytest.fixture(scope="module")
def frustum() -> LayerFrustum:
    return LayerFrustum.around(CAMERA, N_LAYERS, margin=0.25, reach=REACH)


@pytest.fixture(scope="module")
def baker(frustum) -> LayerBaker:
    return LayerBaker(FIELDS, frustum, TIMELINE, points_per_chunk=50_000)


@pytest.fixture(scope="module")
def static(baker):
    return baker.static()


def moved(right: float) -> Camera:
    c2w = AHEAD.clone()
    c2w[0, 3] = right
    return dataclasses.replace(CAMERA, c2w=c2w)


def psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    return -10.0 * float(torch.log10(((first - second) ** 2).mean()))


def rendered(camera: Camera, frame: int) -> torch.Tensor:
    sampling = DepthSampling(SUBPLANES * N_LAYERS, 0, 0.0)
    return render_frame(FIELDS, camera, TIMELINE.time_of(float(frame)), sampling, 4096).rgb


@pytest.mark.parametrize("frame", [0, 2])
def test_layers_show_the_frame_at_the_reference_camera(frustum, baker, static, frame):
    layers = [static, baker.dynamic(float(frame), static)]
    assert psnr(composite_layers(frustum, layers, CAMERA), rendered(CAMERA, frame)) > 45.0


@pytest.mark.parametrize("right", [-REACH, REACH])
def test_layers_hold_within_reach(frustum, baker, static, right):
    """Layers hold the wall that the block hides at the reference camera, and the wall outside of its image."""
    camera = moved(right)
    seen = composite_layers(frustum, [static, baker.dynamic(1.0, static)], camera)
    assert psnr(seen, rendered(camera, 1)) > 28.0
    assert psnr(composite_layers(frustum, [static], camera), rendered(camera, 1)) < 20.0  # the block is missing


def test_thing_between_two_frames_lies_in_the_middle(frustum, baker, static):
    """Its images at both frames are splatted half way."""
    wide, before = frustum.camera.intrinsics, frustum.depths < 0.4

    def middle_column(timestamp: float) -> float:
        alpha = baker.dynamic(timestamp, static)[before, 3].float().sum(0).view(wide.height, wide.width).mean(0)
        return float((alpha * torch.arange(wide.width)).sum() / alpha.sum())

    first, between, second = (middle_column(timestamp) for timestamp in (1.0, 1.5, 2.0))
    assert second - first > 4.0
    assert between == pytest.approx(0.5 * (first + second), abs=0.3)


def test_composite_planes_hand_values():
    images = torch.tensor([[1.0, 0.0, 0.0, 0.5], [0.0, 1.0, 0.0, 0.5]])[..., None]
    torch.testing.assert_close(composite_planes(images)[:, 0], torch.tensor([0.5, 0.25, 0.0, 0.75]))


def test_dynamic_layer_over_the_static_one_is_their_blend():
    """Two planes; both fields of the first are seen at once: 0.5 white, 0.4 red, and 0.3 of the second plane's blue."""
    static = torch.tensor([[1.0, 1.0, 1.0, 0.5], [0.0, 0.0, 1.0, 1.0]])[..., None]
    dynamic = torch.tensor([[1.0, 0.0, 0.0, 0.4], [0.0, 0.0, 0.0, 0.0]])[..., None]
    layer = composite_dynamic(PlaneImages(torch.zeros(2), static, [(_source(1.0), dynamic)]))
    over = layer[:3] + (1.0 - layer[3:]) * composite_planes(static)[:3]
    torch.testing.assert_close(over[:, 0], torch.tensor([0.5 + 0.4, 0.5, 0.5 + 0.3]))
    assert float(layer[3]) == pytest.approx(0.4)


def _source(weight: float):
    from nsff.rendering.space_time import SourceFrame

    return SourceFrame(time=0.0, distance=0.0, weight=weight, direction="forward")


def test_tiles_and_their_picture_keep_the_layers(frustum, static):
    wide = frustum.camera.intrinsics
    tiles = Tiles.of(static, (wide.height, wide.width))
    part = Part.of(tiles)
    assert 0 < len(tiles.places) < N_LAYERS * 4 * 3
    again = part.tiles().layers(N_LAYERS, (wide.height, wide.width))
    assert float((again.float() - static.float()).abs().mean()) < 0.002
    assert psnr(composite_layers(frustum, [again], CAMERA), composite_layers(frustum, [static], CAMERA)) > 38.0


def test_tile_shows_its_neighbour_s_border():
    layers = torch.zeros(1, 4, 40 * 70, dtype=torch.float16)
    column = torch.arange(70).expand(40, 70) / 100.0
    layers[0] = torch.stack([column, column, column, torch.ones(40, 70)]).flatten(1)
    tiles = Tiles.of(layers, (40, 70))
    assert tiles.places.tolist() == [[0, row, column] for row in range(2) for column in range(3)]
    second = tiles.atlas[:34, 34:68]
    np.testing.assert_allclose(second[1, :, 0], np.rint(2.55 * np.arange(31, 65)), atol=1.0)


def test_empty_layers_have_no_tile():
    tiles = Tiles.of(torch.zeros(3, 4, 40 * 70, dtype=torch.float16), (40, 70))
    assert len(tiles.places) == 0
    assert not Part.of(tiles).tiles().layers(3, (40, 70)).any()


def test_too_many_tiles_are_refused(monkeypatch):
    monkeypatch.setattr(tiles_module, "MAX_ATLAS_SIDE", 100)
    with pytest.raises(InputError, match="choose a higher --render_factor or fewer --planes"):
        Tiles.of(torch.ones(9, 4, 40 * 70, dtype=torch.float16), (40, 70))


def test_scene_in_which_nothing_moves_has_empty_dynamic_layers(frustum):
    fields = toy()
    baker = LayerBaker(fields, frustum, TIMELINE, points_per_chunk=50_000)
    static = baker.static()
    assert not baker.dynamic(1.0, static).any()
    torch.testing.assert_close(
        composite_layers(frustum, [static], CAMERA), torch.full((40, 72, 3), 0.5), rtol=0, atol=0.01
    )


def test_layers_begin_before_the_nearest_thing(frustum, baker, static):
    """The block begins at NDC depth 0.25 (z = -0.5); without it, the board at 0.45."""
    times = [TIMELINE.time_of(frame) for frame in range(4)]
    start = nearest_depth(FIELDS, CAMERA, times)
    assert start == pytest.approx(0.25 - 1.0 / 64, abs=1.01 / 64)
    assert nearest_depth(Fields(Room(), Nothing()), CAMERA, times) == pytest.approx(0.45 - 1.0 / 64, abs=1.01 / 64)
    near = dataclasses.replace(frustum, start=start)
    close = LayerBaker(FIELDS, near, TIMELINE, points_per_chunk=50_000)
    layers = close.static()
    camera = moved(REACH)
    before = psnr(composite_layers(frustum, [static, baker.dynamic(1.0, static)], camera), rendered(camera, 1))
    assert psnr(composite_layers(near, [layers, close.dynamic(1.0, layers)], camera), rendered(camera, 1)) > before
