"""CUDA kernels of the hash grid and of splatting against their twins in torch, forward and backward."""

import pytest
import torch
from grid_cases import LAYOUTS
from nsff.fields.hash_grid import HashGrid
from nsff.fields.hash_grid.reference import interpolate
from nsff.rendering import splatting
from nsff.rendering.splatting import splat


def assert_equal_up_to_rounding(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Sums of atomic additions have no fixed order: compare relative to the largest value."""
    torch.testing.assert_close(actual.cpu(), expected.cpu(), rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("n_points", [1, 1000, 100_003])
@pytest.mark.parametrize("n_features", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("n_axes", [2, 3, 4])
def test_grid_equals_reference(gpu, n_axes, n_features, n_points):
    torch.manual_seed(n_points)
    grid = HashGrid(LAYOUTS[n_axes], n_features).to(gpu)
    grid.table.data.normal_()
    start = torch.rand(n_points, n_axes, device=gpu) * 1.4 - 0.2  # also outside of the box
    start[::3] = (start[::3] * 4).round() / 4  # also on its border and on those of cells
    weight = torch.randn(n_points, grid.n_outputs, device=gpu)
    results = []
    for function in (grid, lambda x: interpolate(x, grid.table, grid.layout)):
        points = start.clone().requires_grad_()
        grid.table.grad = None
        out = function(points)
        (out * weight).sum().backward()
        results.append((out.detach(), points.grad, grid.table.grad))
    for actual, expected in zip(*results, strict=True):
        assert_equal_up_to_rounding(actual, expected)


def test_grid_of_no_points_is_empty(gpu):
    grid = HashGrid(LAYOUTS[3], 2).to(gpu)
    points = torch.zeros(0, 3, device=gpu, requires_grad=True)
    out = grid(points)
    out.sum().backward()
    assert out.shape == (0, grid.n_outputs)
    assert points.grad.shape == (0, 3)


def test_grid_shows_points_that_are_nan(gpu):
    grid = HashGrid(LAYOUTS[4], 2).to(gpu)
    points = torch.full((3, 4), 0.3, device=gpu)
    points[1, 2] = torch.nan
    out = grid(points)
    assert bool(out[1].isnan().all())
    assert not bool(out[[0, 2]].isnan().any())


def test_grid_of_more_than_65536_blocks_equals_its_parts(gpu):
    n_points = 256 * 65536 + 300
    grid = HashGrid(LAYOUTS[3], 2).to(gpu)
    grid.table.data.normal_()
    points = torch.rand(n_points, 3, device=gpu)
    with torch.no_grad():
        out = grid(points)
        assert torch.equal(out[-1000:], grid(points[-1000:]))
        assert torch.equal(out[:1000], grid(points[:1000]))


def test_grid_adds_the_gradients_of_several_queries(gpu):
    grid = HashGrid(LAYOUTS[3], 2).to(gpu)
    first, second = torch.rand(500, 3, device=gpu), torch.rand(700, 3, device=gpu)
    (grid(first).sum() + 2.0 * grid(second).sum()).backward()
    summed = grid.table.grad.clone()
    grid.table.grad = None
    interpolate(first, grid.table, grid.layout).sum().backward()
    (2.0 * interpolate(second, grid.table, grid.layout)).sum().backward()
    assert_equal_up_to_rounding(summed, grid.table.grad)


@pytest.mark.parametrize("weighting", ["summation", "average", "linear", "softmax"])
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (3, 4, 37, 53), (9, 2, 64, 96)])
def test_splat_equals_torch(gpu, size, weighting, monkeypatch):
    n, _, height, width = size
    generator = torch.Generator().manual_seed(0)
    values, importance = torch.rand(size, generator=generator), torch.rand(n, 1, height, width, generator=generator)
    flow = 12.0 * torch.randn(n, 2, height, width, generator=generator)
    flow[:, :, ::5] = flow[:, :, ::5].round()
    flow[0, 0, 0, 0] = torch.nan
    expected = splat(values, flow, weighting, importance)  # on the CPU there is no kernel
    launched = []
    kernel = splatting._sum_by_kernel
    monkeypatch.setattr(splatting, "_sum_by_kernel", lambda *given: launched.append(1) or kernel(*given))
    actual = splat(values.to(gpu), flow.to(gpu), weighting, importance.to(gpu))
    assert launched
    assert_equal_up_to_rounding(actual, expected)


def test_splat_with_gradient_equals_cpu(gpu):
    values, flow = torch.rand(2, 3, 20, 30), 5.0 * torch.randn(2, 2, 20, 30)
    results = []
    for device in (torch.device("cpu"), gpu):
        v, f = (given.clone().to(device).requires_grad_() for given in (values, flow))
        (splat(v, f, "average") ** 2).sum().backward()
        results.append((v.grad, f.grad))
    for expected, actual in zip(*results, strict=True):
        assert_equal_up_to_rounding(actual, expected)
