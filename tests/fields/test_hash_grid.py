"""The hash grid: hand values of the torch reference, then the kernels of a CPU against it, forward and backward."""

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from grid_cases import LAYOUTS, sample_points
from nsff.fields.hash_grid import HashGrid, cpu, make_layout
from nsff.fields.hash_grid.layout import PRIMES
from nsff.fields.hash_grid.reference import interpolate

PACKAGES = Path(__file__).resolve().parents[2] / "nsff_exp"


def test_dense_level_by_hand():
    layout = make_layout((2, 1), (2, 1), 1, 10)  # nodes (0..2) x (0..1), rows x + 3 y
    table = torch.tensor([0.0, 1.0, 2.0, 10.0, 11.0, 12.0])[:, None]
    points = torch.tensor([[0.25, 0.0], [0.5, 1.0], [0.75, 0.5], [2.0, -1.0]])
    expected = [0.5, 11.0, 0.5 * 1.5 + 0.5 * 11.5, 2.0]  # the last is outside: the corner (1, 0)
    assert interpolate(points, table, layout).squeeze(1).tolist() == pytest.approx(expected)


def test_hashed_level_by_hand():
    layout = make_layout((100, 100), (100, 100), 1, 4)
    assert layout.hashed.all()
    assert layout.n_rows == 16
    table = torch.arange(16.0)[:, None]
    row = ((7 * PRIMES[0]) ^ (9 * PRIMES[1] % 2**32)) % 16
    assert interpolate(torch.tensor([[0.07, 0.09]]), table, layout).item() == pytest.approx(row, abs=1e-4)


def test_levels_are_geometric_and_hashed_only_if_too_large():
    layout = make_layout((16, 16, 16), (256, 256, 256), 5, 14)
    assert layout.cells[:, 0].tolist() == [16, 32, 64, 128, 256]
    assert layout.hashed.tolist() == [False, True, True, True, True]
    assert layout.first_row.tolist() == [0, 17**3, 17**3 + 2**14, 17**3 + 2 * 2**14, 17**3 + 3 * 2**14]


def test_linear_function_is_interpolated_exactly():
    layout = make_layout((5, 4, 3), (5, 4, 3), 1, 10)
    nodes = np.stack(np.meshgrid(np.arange(6) / 5, np.arange(5) / 4, np.arange(4) / 3, indexing="ij"), -1)
    values = nodes @ np.array([1.0, -2.0, 3.0])
    grid = HashGrid(layout, 2)
    grid.table.data = torch.from_numpy(values.transpose(2, 1, 0).reshape(-1, 1)).float() * torch.tensor([1.0, -3.0])
    points = torch.rand(50, 3, requires_grad=True)
    out = grid(points)
    out[:, 0].sum().backward()
    expected = points.detach() @ torch.tensor([1.0, -2.0, 3.0])
    torch.testing.assert_close(out, torch.stack([expected, -3.0 * expected], dim=1))
    torch.testing.assert_close(points.grad, torch.tensor([1.0, -2.0, 3.0]).expand(50, 3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_points", [1, 64, 999])
@pytest.mark.parametrize(("n_axes", "n_features"), [(2, 1), (3, 2), (4, 2), (4, 4)])  # compiling each takes seconds
def test_cpu_kernels_equal_reference(n_axes, n_features, n_points):
    torch.manual_seed(0)
    layout = LAYOUTS[n_axes]
    grid = HashGrid(layout, n_features)
    grid.table.data.normal_()
    weight = torch.randn(n_points, grid.n_outputs)
    results = []
    for function in (grid, lambda x: interpolate(x, grid.table, layout)):
        points = sample_points(n_axes, n_points).requires_grad_()
        grid.table.grad = None
        out = function(points)
        (out * weight).sum().backward()
        results.append((out.detach(), points.grad, grid.table.grad))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_cpu_kernels_show_points_that_are_nan():
    """As on CUDA: NaN shows in the outputs of its point, and no address outside of the table is touched."""
    grid = HashGrid(LAYOUTS[4], 2)  # dense levels too: those of hashed ones are masked
    torch.nn.init.ones_(grid.table)
    points = torch.full((3, 4), 0.3)
    points[1, 0] = torch.nan
    points.requires_grad_()
    features = grid(points)
    assert bool(features[1].isnan().all())
    torch.testing.assert_close(features[::2].detach(), torch.ones(2, grid.n_outputs))
    features.sum().backward()
    assert bool(points.grad[1].isnan().any())
    torch.testing.assert_close(points.grad[::2], torch.zeros(2, 4), rtol=0.0, atol=1e-3)


def test_cpu_kernels_cover_all_spans_of_points():
    layout = LAYOUTS[3]
    grid = HashGrid(layout, 2)
    grid.table.data.normal_()
    points = torch.rand(2 * cpu.SPAN + 17, 3)
    torch.testing.assert_close(grid(points), interpolate(points, grid.table, layout), rtol=1e-4, atol=1e-4)


FIRST_USE_SCRIPT = """
import sys, torch
from nsff.fields.hash_grid import HashGrid, make_layout
from nsff.fields.hash_grid.reference import interpolate
for n_axes in map(int, sys.argv[1:]):
    grid = HashGrid(make_layout((4,) * n_axes, (40,) * n_axes, 3, 8), 1)
    points = torch.rand(99, n_axes)
    assert torch.allclose(grid(points), interpolate(points, grid.table, grid.layout))
"""


def test_cpu_kernels_compile_once_per_type_and_under_the_lock(monkeypatch):
    locks_held, compiled = [], []

    class Lock:
        def __init__(self, path):
            assert Path(path).parent.is_dir()

        def __enter__(self):
            locks_held.append(self)

        def __exit__(self, *_):
            locks_held.clear()

    class Kernel:
        signatures = []  # noqa: RUF012

        def compile(self, types):
            compiled.append((types, bool(locks_held)))
            self.signatures.append(types)

        def __call__(self, value):
            assert not locks_held  # only the first use may wait for other processes

    monkeypatch.setattr(cpu, "FileLock", Lock)
    kernel = Kernel()
    for value in (1, 2, 1.0):
        cpu._run(kernel, value)
    assert [locked for _, locked in compiled] == [True, True]  # int, then float


@pytest.mark.nightly  # the lock is covered by the test above
def test_disk_cache_written_by_two_processes_at_once_is_complete(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(PACKAGES)}

    def start(*axis_counts):
        return subprocess.Popen([sys.executable, "-c", FIRST_USE_SCRIPT, *axis_counts], env=environment)

    assert [process.wait() for process in (start("2", "3"), start("3", "2"))] == [0, 0]
    cached = sorted(tmp_path.rglob("*.nbc"))
    assert cached
    assert start("3", "2").wait() == 0
    assert sorted(tmp_path.rglob("*.nbc")) == cached  # nothing is compiled again


ONE_THREAD_SCRIPT = """
import torch
from nsff.fields.hash_grid import HashGrid, make_layout
HashGrid(make_layout((4, 4), (40, 30), 2, 8), 1)(torch.rand(9, 2))
import numba
print(torch.get_num_threads(), numba.get_num_threads())
"""


def test_cpu_kernels_preserve_the_number_of_threads():
    """Run in a fresh process: numba sets the thread count of OpenMP, which torch shares, when it starts."""
    command, environment = (
        [sys.executable, "-c", ONE_THREAD_SCRIPT],
        {**os.environ, "PYTHONPATH": str(PACKAGES), "OMP_NUM_THREADS": "1"},
    )
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["1", "1"]


def test_gradient_of_the_table_is_returned_to_autograd():
    """Of two queries in one sum: by torch.autograd.grad, through a hook, and accumulated by a second backward pass."""
    grid = HashGrid(LAYOUTS[3], 2)
    first, second = sample_points(3, 300), sample_points(3, 200)
    reference = torch.autograd.grad(
        interpolate(first, grid.table, grid.layout).sum() + 2.0 * interpolate(second, grid.table, grid.layout).sum(),
        grid.table,
    )[0]

    def loss() -> torch.Tensor:
        return grid(first).sum() + 2.0 * grid(second).sum()

    torch.testing.assert_close(torch.autograd.grad(loss(), grid.table)[0], reference)
    assert grid.table.grad is None
    hooked = []
    grid.table.register_hook(hooked.append)
    loss().backward()
    loss().backward()
    torch.testing.assert_close(grid.table.grad, 2.0 * reference)
    assert len(hooked) == 2
    torch.testing.assert_close(hooked[1], reference)


def test_a_changed_table_gets_a_gradient_of_its_own():
    """An optimiser changes values in place; moving a module to another device changes where they are."""
    grid = HashGrid(LAYOUTS[2], 1)
    points = sample_points(2, 50)
    optimizer = torch.optim.Adam(grid.parameters(), lr=0.1, fused=True)
    grid(points).sum().backward()
    expected = grid.table.grad.clone()
    optimizer.step()
    optimizer.zero_grad()
    grid(points).sum().backward()
    torch.testing.assert_close(grid.table.grad, expected)  # of a sum: it does not depend on the table
    grid.table.data = torch.ones_like(grid.table)
    torch.testing.assert_close(grid(points), torch.ones(50, grid.n_outputs))
    grid.table.requires_grad_(False)
    assert not grid(points).requires_grad


def test_device_copies_of_a_layout_end_with_it():
    layout = make_layout((2, 3), (4, 5), 2, 8)
    copy = weakref.ref(layout.on_device(torch.device("cpu"))[0])
    assert layout.on_device(torch.device("cpu"))[0] is copy()
    grid = HashGrid(layout, 1)
    grid(torch.rand(5, 2)).sum().backward()
    del layout, grid
    gc.collect()
    assert copy() is None
