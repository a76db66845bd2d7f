"""Splatting: hand values, the paper's sums as a plain loop, derivatives, and the CUDA source run on the CPU."""

import contextlib
import ctypes
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nsff import cuda
from nsff.rendering import splatting
from nsff.rendering.splatting import splat
from torch._subclasses.fake_tensor import FakeTensorMode

WEIGHTINGS = ("summation", "average", "linear", "softmax")
CUDA_ON_CPU = Path(__file__).parents[1] / "cuda_on_cpu.h"
SIZES = [(3, 2, 5, 7), (9, 1, 4, 4), (2, 3, 1, 1), (1, 4, 1, 6), (0, 2, 3, 3)]


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        ("summation", {(1, 1): 3.0, (1, 2): 3.0 + 4.0, (2, 1): 1.0, (2, 2): 1.0, (3, 0): 8.0}),
        ("average", {(1, 1): 8.0, (1, 2): 7.0 / 1.375, (2, 1): 8.0, (2, 2): 8.0, (3, 0): 16.0}),
        ("linear", {(1, 1): 8.0, (1, 2): (3.0 + 3 * 4.0) / (0.375 + 3), (2, 1): 8.0, (2, 2): 8.0, (3, 0): 16.0}),
        ("softmax", {(1, 1): 8.0, (1, 2): (3.0 + 3 * 4.0) / (0.375 + 3), (2, 1): 8.0, (2, 2): 8.0, (3, 0): 16.0}),
    ],
)
def test_splat_by_hand(weighting, expected):
    """8 has bilinear weights 0.375, 0.375, 0.125, 0.125; 4 lands on (1, 2); half of 16 leaves; the rest is dropped."""
    values, flow, importance = torch.full((1, 1, 4, 4), 99.0), torch.full((1, 2, 4, 4), 10.0), torch.zeros(1, 1, 4, 4)
    for row, column, value, right, down, weight in (
        (1, 1, 8.0, 0.5, 0.25, 1.0),
        (2, 3, 4.0, -1.0, -1.0, 3.0),
        (3, 0, 16.0, 0.0, 0.5, 2.0),
    ):
        values[0, 0, row, column] = value
        flow[0, :, row, column] = torch.tensor([right, down])
        importance[0, 0, row, column] = math.log(weight) if weighting == "softmax" else weight
    out = splat(values, flow, weighting, importance)[0, 0]
    truth = torch.zeros(4, 4)
    for pixel, value in expected.items():
        truth[pixel] = value
    torch.testing.assert_close(out, truth, rtol=1e-5, atol=0)


def random_inputs(size, dtype=torch.float32):
    """Draw values, flow (fractional, integer, far outside, exactly on the border, not finite) and importance."""
    n, _, height, width = size
    generator = torch.Generator().manual_seed(7)
    values = torch.rand(size, generator=generator, dtype=dtype)
    flow = torch.randn(n, 2, height, width, generator=generator, dtype=dtype) * 2
    flow[..., ::2] = flow[..., ::2].round()
    bad = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -1e30, 3e9, -1.0, 0.0], dtype=dtype)
    flat = flow.view(-1)
    flat[::5] = bad[torch.arange(len(flat[::5])) % len(bad)]
    return values, flow, torch.rand(n, 1, height, width, generator=generator, dtype=dtype) * 3


def splat_by_loop(values, flow, weighting, importance):
    """Evaluate the paper's equations with b = max(0, 1 - |u_x|) max(0, 1 - |u_y|) for every pair of pixels p and q."""
    weight = {"linear": importance, "softmax": np.exp(importance)}.get(weighting, np.ones_like(importance))
    numerator, denominator = np.zeros_like(values), np.zeros_like(importance)
    n, _, height, width = values.shape
    for i, y, x in np.ndindex(n, height, width):
        x_end, y_end = x + flow[i, 0, y, x], y + flow[i, 1, y, x]
        if not (np.isfinite(x_end) and np.isfinite(y_end)):
            continue
        for q_y, q_x in np.ndindex(height, width):
            b = max(0.0, 1.0 - abs(x_end - q_x)) * max(0.0, 1.0 - abs(y_end - q_y)) * weight[i, 0, y, x]
            numerator[i, :, q_y, q_x] += b * values[i, :, y, x]
            denominator[i, 0, q_y, q_x] += b
    return numerator if weighting == "summation" else numerator / (denominator + 1e-7)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("size", SIZES)
def test_splat_equals_the_equations_in_a_loop(size, weighting):
    inputs = random_inputs(size, torch.double)
    values, flow, importance = (tensor.numpy() for tensor in inputs)
    if weighting == "softmax" and size[0]:
        importance = importance - importance.max(axis=(1, 2, 3), keepdims=True)  # as documented
    truth = splat_by_loop(values, flow, weighting, importance)
    np.testing.assert_allclose(splat(inputs[0], inputs[1], weighting, inputs[2]).numpy(), truth, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_splat_of_a_batch_equals_image_by_image(weighting):
    values, flow, importance = random_inputs((2 * splatting.IMAGES_PER_CHUNK + 1, 3, 6, 5))
    single = [
        splat(*(t[i : i + 1] for t in (values, flow)), weighting, importance[i : i + 1]) for i in range(len(flow))
    ]
    assert torch.equal(splat(values, flow, weighting, importance), torch.cat(single))


def test_summation_conserves_mass_inside_the_frame():
    values = torch.zeros(1, 2, 8, 8)
    values[..., 2:6, 2:6] = torch.rand(1, 2, 4, 4)
    flow = torch.rand(1, 2, 8, 8) * 3 - 1.5
    torch.testing.assert_close(splat(values, flow, "summation").sum((2, 3)), values.sum((2, 3)))
    out = splat(torch.ones(1, 1, 4, 5), torch.tensor([0.25, -0.5])[None, :, None, None].expand(1, 2, 4, 5), "summation")
    assert out.sum().item() == (4 - 0.5) * (5 - 0.25)  # half of the first row and a quarter of the last column leave


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_zero_flow_is_the_identity(weighting):
    values = torch.rand(2, 3, 5, 6)
    out = splat(values, torch.zeros(2, 2, 5, 6), weighting, torch.ones(2, 1, 5, 6))
    torch.testing.assert_close(out, values, rtol=0, atol=0 if weighting == "summation" else 1e-6)


def test_integer_flow_shifts_the_image():
    values, flow = torch.rand(1, 2, 5, 6), torch.tensor([2.0, -1.0])[None, :, None, None].expand(1, 2, 5, 6)
    truth = torch.zeros_like(values)
    truth[..., :-1, 2:] = values[..., 1:, :-2]
    assert torch.equal(splat(values, flow, "summation"), truth)
    torch.testing.assert_close(splat(values, flow, "average"), truth, rtol=0, atol=1e-6)


def test_splat_ignores_nonfinite_pixels():
    values, flow = torch.rand(1, 1, 3, 3), torch.zeros(1, 2, 3, 3)
    values[..., 1, 1], flow[..., 1, 1] = math.nan, math.inf
    out = splat(values, flow, "average")
    assert out[0, 0, 1, 1] == 0
    assert out.isfinite().all()


def test_softmax_of_large_importance_is_finite():
    values, flow = torch.tensor([[[[2.0, 6.0]]]]), torch.tensor([[[[1.0, 0.0]], [[0.0, 0.0]]]])
    for low in (-1e4, 0.0, 1e4):
        importance = torch.tensor([[[[low, low + math.log(3.0)]]]])
        out = splat(values, flow, "softmax", importance)
        assert out[0, 0, 0].tolist() == pytest.approx([0.0, (2.0 + 3 * 6.0) / 4], abs=1e-2)  # 1e4 + log 3 is rounded


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_gradients_match_finite_differences(weighting):
    torch.manual_seed(0)
    values = torch.rand(2, 2, 3, 4, dtype=torch.double, requires_grad=True)
    integer, fraction = torch.randint(-2, 3, (2, 2, 3, 4)), torch.rand(2, 2, 3, 4, dtype=torch.double) * 0.8 + 0.1
    flow = (integer + fraction).requires_grad_()
    importance = (torch.rand(2, 1, 3, 4, dtype=torch.double) + 0.5).requires_grad_()

    def function(values, flow, importance):
        return splat(values, flow, weighting, importance)

    # Averages of pixels with little weight vary over short distances: small steps.
    assert torch.autograd.gradcheck(function, (values, flow, importance), eps=1e-7, atol=1e-5, rtol=1e-3)


def test_flow_gradient_at_integer_positions_is_right_sided():
    values = torch.tensor([[[[2.0, 5.0, 3.0]]]])
    flow = torch.zeros(1, 2, 1, 3, requires_grad=True)
    (splat(values, flow, "summation") * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    # Moving right, a value leaves its pixel for the next, the last one leaves the frame; moving down, all leave it.
    assert flow.grad[0, 0, 0].tolist() == [2.0 * (10 - 1), 5.0 * (100 - 10), -3.0 * 100]
    assert flow.grad[0, 1, 0].tolist() == [-2.0 * 1, -5.0 * 10, -3.0 * 100]


def test_dropped_pixels_have_zero_gradient():
    values, flow, _ = random_inputs((2, 2, 5, 7))
    values.requires_grad_()
    flow.requires_grad_()
    splat(values, flow, "average").sum().backward()
    dropped = ~flow.detach().isfinite().all(1)
    assert values.grad.isfinite().all()
    assert flow.grad.isfinite().all()
    for i in range(2):
        assert (flow.grad[i][:, dropped[i]] == 0).all()
        assert (values.grad[i][:, dropped[i]] == 0).all()


def test_splat_rejects_invalid_arguments():
    values, flow = torch.rand(1, 2, 3, 4), torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="'linear' needs an importance"):
        splat(values, flow, "linear")
    with pytest.raises(ValueError, match="'softmax' needs an importance"):
        splat(values, flow, "softmax")
    unchecked = getattr(splat, "__wrapped__", splat)  # without the shape checks of the tests, which would come first
    with pytest.raises(ValueError, match="unknown weighting 'mean': one of summation, average, linear, softmax"):
        unchecked(values, flow, "mean")
    with pytest.raises(ValueError, match=r"flow of size \(1, 2, 4, 3\) for values of size \(1, 2, 3, 4\)"):
        unchecked(values, flow.transpose(2, 3), "average")


@pytest.fixture(scope="session")
def cuda_library(tmp_path_factory):
    """Library of splatting.cu, compiled for the CPU."""
    folder = tmp_path_factory.mktemp("splatting")
    run = (
        'extern "C" void run(int blocks, int threads, const float *values, const float *flow, int n, int c, int h, '
        "int w, float *out) { launch(splat, blocks, 1, threads, values, flow, n, c, h, w, out); }\n"
    )
    (folder / "splatting.cpp").write_text(f'#include "{CUDA_ON_CPU}"\n#include "{splatting.SOURCE.path}"\n{run}')
    command = ["g++", "-O1", "-shared", "-fPIC", "-std=c++17", "-o"]
    subprocess.run([*command, str(folder / "splatting.so"), str(folder / "splatting.cpp")], check=True)
    return ctypes.CDLL(str(folder / "splatting.so"))


@pytest.fixture
def cupy_on_cpu(cuda_library, monkeypatch):
    """Replace cupy by a fake whose kernel is the one compiled for the CPU."""

    def kernel(grid, block, arguments):
        converted = [ctypes.c_void_p(value) if isinstance(value, int) else value for value in arguments]
        cuda_library.run(*grid, *block, *converted)

    def context(*_):
        return contextlib.nullcontext()

    cupy = SimpleNamespace(
        int32=ctypes.c_int, cuda=SimpleNamespace(Device=context, Stream=SimpleNamespace(from_external=context))
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(cuda, "_kernel", lambda source, name, device: kernel)


@pytest.mark.parametrize("size", [*SIZES[:-1], (5, 5, 20, 30)])
@pytest.mark.usefixtures("cupy_on_cpu")
def test_cuda_source_on_the_cpu_equals_torch(size):
    values, flow, _ = random_inputs(size)
    twin = splatting._sum_by_torch(values, flow)
    torch.testing.assert_close(splatting._sum_by_kernel(values, flow), twin, rtol=1e-5, atol=1e-6)


def test_cuda_source_compiles_to_ptx():
    from cupy_backends.cuda.libs import nvrtc

    program = nvrtc.createProgram(splatting.SOURCE.path.read_text(), "splatting.cu", (), ())
    nvrtc.compileProgram(program, (*splatting.SOURCE.options, "--gpu-architecture=compute_80"))
    ptx = nvrtc.getPTX(program)
    assert ".entry splat" in (ptx.decode() if isinstance(ptx, bytes) else ptx)


def test_kernel_is_chosen_on_cuda_without_gradient(monkeypatch):
    runs = []

    def kernel(values, flow):
        runs.append(len(values))
        return torch.zeros_like(values)

    monkeypatch.setattr(splatting, "_sum_by_kernel", kernel)
    with FakeTensorMode(), torch.device("cuda"):
        values, flow = torch.rand(2, 3, 4, 5), torch.zeros(2, 2, 4, 5)
        for available, expected in ((False, []), (True, [2])):
            monkeypatch.setattr(cuda, "available", lambda available=available: available)
            assert splat(values, flow, "average").device.type == "cuda"
            assert runs == expected
        splat(values.double(), flow.double(), "average")
        splat(values, flow.requires_grad_(), "average")
        assert runs == [2]
        with torch.no_grad():
            splat(values, flow, "average")
        assert runs == [2, 2]
