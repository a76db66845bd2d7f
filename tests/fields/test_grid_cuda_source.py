"""The CUDA kernels of the hash grid without a GPU: compiled for the CPU against the reference, and to PTX."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from grid_cases import LAYOUTS, sample_points
from nsff.fields.hash_grid import gpu
from nsff.fields.hash_grid.reference import interpolate

CUDA_ON_CPU = Path(__file__).parents[1] / "cuda_on_cpu.h"
LAYOUT_PARAMS = "int *cells, unsigned *strides, bool *hashed, unsigned *mask, long long *first_row"
LAYOUT_ARGS = "cells, strides, hashed, mask, first_row"


@pytest.fixture(scope="session", params=[(2, 1), (3, 2), (4, 2), (3, 3), (4, 8)])
def cuda_library(request, tmp_path_factory):
    """Compile grid.cu for the CPU; returns (numbers of axes and features, library)."""
    n_axes, n_features = request.param
    folder = tmp_path_factory.mktemp("grid")
    calls = "".join(
        f'extern "C" void run_{name}(int blocks, int rows, int threads, {params}) '
        f"{{ launch({name}, blocks, rows, threads, {args}); }}\n"
        for name, params, args in (
            ("forward", f"float *a, Features *b, {LAYOUT_PARAMS}, int n, float *out", f"a, b, {LAYOUT_ARGS}, n, out"),
            (
                "backward_table",
                f"float *a, float *b, {LAYOUT_PARAMS}, int n, Features *out",
                f"a, b, {LAYOUT_ARGS}, n, out",
            ),
            (
                "backward_points",
                f"float *a, float *b, Features *c, {LAYOUT_PARAMS}, int n, int levels, float *out",
                f"a, b, c, {LAYOUT_ARGS}, n, levels, out",
            ),
        )
    )
    (folder / "grid.cpp").write_text(
        f'#include "{CUDA_ON_CPU}"\n#include "{gpu.kernel_source(*request.param).path}"\n{calls}'
    )
    command = ["g++", "-O1", "-shared", "-fPIC", "-std=c++17", f"-DN_AXES={n_axes}", f"-DN_FEATURES={n_features}"]
    subprocess.run([*command, "-o", str(folder / "grid.so"), str(folder / "grid.cpp")], check=True)
    return n_axes, n_features, ctypes.CDLL(str(folder / "grid.so"))


def run_on_cpu(library, name, layout, rows_of_blocks, n, before, after):
    """Run a kernel that was compiled for the CPU on numpy arrays."""
    arrays = [layout.cells, layout.strides, layout.hashed, layout.mask, layout.first_row]
    arguments = [*before, *arrays, n, *after]
    converted = [value if isinstance(value, int) else ctypes.c_void_p(value.ctypes.data) for value in arguments]
    getattr(library, f"run_{name}")(-(-n // 64), rows_of_blocks, 64, *converted)


@pytest.mark.parametrize("n", [1, 300])
def test_cuda_source_on_the_cpu_equals_reference(cuda_library, n):
    n_axes, n_features, library = cuda_library
    layout = LAYOUTS[n_axes]
    table = torch.randn(layout.n_rows, n_features, requires_grad=True)
    points = sample_points(n_axes, n).requires_grad_()
    grad_out = torch.randn(n, layout.n_levels * n_features)
    expected = interpolate(points, table, layout)
    (expected * grad_out).sum().backward()
    grad_rows = np.ascontiguousarray(grad_out.numpy().T)
    x, rows, levels = points.detach().numpy(), table.detach().numpy(), layout.n_levels
    out, grad_table, grad_points = np.empty_like(grad_rows), np.zeros_like(rows), np.empty_like(x)
    run_on_cpu(library, "forward", layout, levels, n, [x, rows], [out])
    run_on_cpu(library, "backward_table", layout, levels, n, [x, grad_rows], [grad_table])
    run_on_cpu(library, "backward_points", layout, 1, n, [x, grad_rows, rows], [levels, grad_points])
    for actual, truth in ((out.T, expected.detach()), (grad_table, table.grad), (grad_points, points.grad)):
        np.testing.assert_allclose(actual, truth.numpy(), rtol=1e-4, atol=1e-4 * float(truth.abs().max()))


def test_cuda_source_shows_points_that_are_nan(cuda_library):
    n_axes, n_features, library = cuda_library
    layout, x = LAYOUTS[n_axes], np.full((3, n_axes), 0.3, np.float32)
    x[1, -1] = np.nan
    out = np.zeros((layout.n_levels * n_features, 3), np.float32)
    rows = np.ones((layout.n_rows, n_features), np.float32)
    run_on_cpu(library, "forward", layout, layout.n_levels, 3, [x, rows], [out])
    assert np.isnan(out[:, 1]).all()
    np.testing.assert_allclose(out[:, [0, 2]], 1.0, rtol=1e-5)


@pytest.mark.parametrize(("n_axes", "n_features"), [(2, 1), (3, 2), (4, 2), (4, 4)])
def test_cuda_source_compiles_to_ptx(n_axes, n_features):
    from cupy_backends.cuda.libs import nvrtc

    program = nvrtc.createProgram(gpu.kernel_source(n_axes, n_features).path.read_text(), "grid.cu", (), ())
    nvrtc.compileProgram(program, (*gpu.kernel_source(n_axes, n_features).options, "--gpu-architecture=compute_80"))
    ptx = nvrtc.getPTX(program).decode() if isinstance(nvrtc.getPTX(program), bytes) else nvrtc.getPTX(program)
    for name in ("forward", "backward_table", "backward_points"):
        assert f".entry {name}" in ptx
    assert "ld.local" not in ptx  # all arrays are in registers
    loads = {1: "f32", 2: "v2.", 4: "v4."}[n_features]
    assert ptx.count(f"ld.global.nc.{loads}") >= 2 * 2**n_axes  # a row per load: forward, and gradient of the points
