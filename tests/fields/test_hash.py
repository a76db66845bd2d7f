"""Hash-grid fields: finite everywhere, gradients reach everything, the finest level is used."""

import dataclasses

import pytest
import torch
from nsff.data.timeline import Timeline
from nsff.fields import build_fields, build_optimizer
from nsff.fields.hash import time_axis
from toy_fields import SMALL_GRIDS


@pytest.fixture
def config(paper_config):
    return dataclasses.replace(paper_config, field="hash", lrate=5e-4, **SMALL_GRIDS)


def test_initial_fields_are_finite_outside_the_extent_with_small_scene_flow(config):
    fields = build_fields(config)
    points, viewdirs = torch.rand(5, 7, 3) * 8.0 - 4.0, torch.nn.functional.normalize(torch.rand(5, 3), dim=-1)
    dynamic = fields.dynamic(points, torch.linspace(-1.6, 1.6, 5), viewdirs)
    static = fields.static(points, viewdirs)
    for value in (*vars(dynamic).values(), *vars(static).values()):
        assert bool(torch.isfinite(value).all())
    assert float(dynamic.sf_fwd.abs().max()) < 0.05
    for weight in (static.blend_w, dynamic.prob_bwd, dynamic.prob_fwd):
        assert 0.0 < float(weight.min()) <= float(weight.max()) < 1.0


@pytest.mark.parametrize("kind", ["hash", "mlp"])
def test_geometry_equals_the_full_forward_pass(config, kind):
    fields = build_fields(dataclasses.replace(config, field=kind))
    points, time = torch.rand(5, 7, 3), torch.linspace(-1.0, 1.0, 5)
    viewdirs = torch.nn.functional.normalize(torch.rand(5, 3), dim=-1)
    static, dynamic = fields.static(points, viewdirs), fields.dynamic(points, time, viewdirs)
    sigma_raw, blend_w = fields.static.geometry(points)
    torch.testing.assert_close(sigma_raw, static.sigma_raw)
    torch.testing.assert_close(blend_w, static.blend_w)
    torch.testing.assert_close(fields.dynamic.geometry(points, time), dynamic.sigma_raw)


def test_backward_reaches_every_parameter_and_the_points(config):
    fields = build_fields(config)
    points = (torch.rand(40, 7, 3) * 2.0 - 1.0).requires_grad_()
    viewdirs = torch.nn.functional.normalize(torch.rand(40, 3), dim=-1)
    dynamic = fields.dynamic(points, torch.zeros(40), viewdirs)
    static = fields.static(points, viewdirs)
    total = sum(value.square().sum() for value in (*vars(dynamic).values(), *vars(static).values()))
    total.backward()
    assert float(points.grad.abs().min()) > 0.0
    for name, parameter in fields.named_parameters():
        assert float(parameter.grad.abs().max()) > 0.0, name


def test_view_direction_changes_static_colour_only(config):
    fields = build_fields(config)
    points = torch.rand(1, 3, 3).expand(2, 3, 3)
    viewdirs = torch.tensor([[0.0, 0.0, -1.0], [0.6, 0.0, -0.8]])
    static, dynamic = fields.static(points, viewdirs), fields.dynamic(points, torch.zeros(2), viewdirs)
    for samples in (static, dynamic):
        for name, (first, second) in vars(samples).items():
            if samples is dynamic or name != "rgb_raw":
                torch.testing.assert_close(first, second)
    assert float((static.rgb_raw[0] - static.rgb_raw[1]).abs().max()) > 1e-4


def test_fields_fit_stripes_of_the_finest_level(config):
    """Fit stripes one cell of the finest level wide, which the positional encoding alone cannot represent."""
    fields = build_fields(config)
    points = torch.rand(64, 16, 3) * 2.0 - 1.0
    stripes = (points[..., :1] * 30.0).sin().sign().expand(-1, -1, 3)
    viewdirs = torch.tensor([0.0, 0.0, -1.0]).expand(64, 3)
    optimizer = build_optimizer(fields, config)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    for _ in range(150):
        optimizer.zero_grad()
        error = ((fields.static(points, viewdirs).rgb_raw - stripes) ** 2).mean()
        error = error + ((fields.dynamic(points, torch.zeros(64), viewdirs).rgb_raw - stripes) ** 2).mean()
        error.backward()
        optimizer.step()
    assert float(error) < 0.2  # a constant 0 of both fields gives 2


@pytest.mark.parametrize("n_frames", [12, 24, 25, 30, 31, 50])
@pytest.mark.parametrize("cells_per_frame", [1.0, 2.0])
def test_each_frame_has_a_node_of_the_time_axis(n_frames, cells_per_frame):
    """Between two nodes, frames share their features: at 30 frames, 0.05 was left of what alternates between frames."""
    n_cells, scale, offset = time_axis(n_frames, cells_per_frame)
    timeline = Timeline(n_frames)
    unit = torch.tensor([scale * timeline.time_of(frame) + offset for frame in range(-2, n_frames + 2)])
    assert float(unit[0]) > -1e-6
    assert float(unit[-1]) < 1.0 + 1e-6
    nodes = torch.arange(n_cells + 1)
    weights = (1.0 - (unit[:, None] * n_cells - nodes).abs()).clamp(min=0.0)  # of a linear interpolation
    torch.testing.assert_close(weights.sum(1), torch.ones(n_frames + 4))
    assert float(torch.linalg.svdvals(weights.double())[-1]) > 0.9


def test_frames_lie_on_nodes_of_the_finest_level(config):
    field = build_fields(dataclasses.replace(config, start_frame=0, end_frame=24, sequence_length=24)).dynamic
    time = torch.tensor([Timeline(24).time_of(frame) for frame in range(24)])
    unit, _ = field._unit_and_encoded(torch.zeros(24, 1, 3), time)
    position = unit[:, 3] * field.grid.layout.cells[-1, 3]
    torch.testing.assert_close(position, 2.0 * torch.arange(2.0, 26.0), rtol=0.0, atol=1e-4)  # 2 cells per frame
