"""The launcher of CUDA kernels, with a fake cupy that records what it is asked to do."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nsff import cuda

DEVICE = torch.device("cuda", 1)


class FakeCuda:
    """Record compilations and launches, and the device and stream that are current at each."""

    def __init__(self):
        self.current, self.compiled, self.launched = [], [], []
        self.int32 = lambda value: ("int32", value)
        stream = SimpleNamespace(from_external=lambda stream: self.context("stream", stream))
        self.cuda = SimpleNamespace(Device=lambda index: self.context("device", index), Stream=stream)

    def context(self, *entry):
        return RecordedContext(self.current, entry)

    def RawModule(self, code, options, backend):
        assert backend == "nvrtc"
        self.compiled.append((code, options, self.current[0]))
        return SimpleNamespace(
            get_function=lambda name: lambda *call: self.launched.append((name, *call, *self.current))
        )


class RecordedContext:
    """Keep an entry on a stack while it is entered."""

    def __init__(self, stack, entry):
        self.stack, self.entry = stack, entry

    def __enter__(self):
        self.stack.append(self.entry)

    def __exit__(self, *_):
        assert self.stack.pop() == self.entry


class FakeTensor(torch.Tensor):
    """Claim to be on the second GPU."""

    device = DEVICE

    def data_ptr(self):
        return 4096


@pytest.fixture
def fake_cupy(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"torch's stream of {device}")
    for cached in (cuda._module, cuda._kernel):
        cached.cache_clear()
    yield fake
    for cached in (cuda._module, cuda._kernel):
        cached.cache_clear()


@pytest.fixture
def source(tmp_path: Path) -> cuda.KernelSource:
    (tmp_path / "double.cu").write_text("code")
    return cuda.KernelSource(tmp_path / "double.cu", (("N_AXES", 3),))


def test_launch_uses_device_and_torch_stream_of_the_tensors(fake_cupy, source):
    cuda.launch(source, "twice", (5, 2), 1000, torch.zeros(3).as_subclass(FakeTensor), -1)
    current = (("device", 1), ("stream", "torch's stream of cuda:1"))
    arguments = (("int32", 1000), 4096, ("int32", -1))
    assert fake_cupy.launched == [("twice", (5, 2), (cuda.THREADS_PER_BLOCK,), arguments, *current)]
    assert fake_cupy.compiled == [("code", ("--std=c++17", "-DN_AXES=3"), ("device", 1))]
    assert fake_cupy.current == []


def test_launch_compiles_once_per_source_and_device(fake_cupy, source, monkeypatch):
    tensor = torch.zeros(3).as_subclass(FakeTensor)
    for name in ("forward", "backward", "forward"):
        cuda.launch(cuda.KernelSource(source.path, source.macros), name, (1,), tensor)
    assert len(fake_cupy.compiled) == 1
    cuda.launch(cuda.KernelSource(source.path, (("N_AXES", 4),)), "forward", (1,), tensor)
    monkeypatch.setattr(FakeTensor, "device", torch.device("cuda", 0))
    cuda.launch(source, "forward", (1,), tensor)
    assert [(options[1], device) for _, options, device in fake_cupy.compiled] == [
        ("-DN_AXES=3", ("device", 1)), ("-DN_AXES=4", ("device", 1)), ("-DN_AXES=3", ("device", 0)),
    ]  # fmt: skip
    assert [name for name, *_ in fake_cupy.launched] == ["forward", "backward", "forward", "forward", "forward"]


@pytest.mark.parametrize("grid", [(0,), (0, 4), (4, 0)])
def test_launch_of_empty_grid_does_nothing(fake_cupy, source, grid):
    cuda.launch(source, "forward", grid, torch.zeros(0).as_subclass(FakeTensor))
    assert fake_cupy.compiled == fake_cupy.launched == []


@pytest.mark.parametrize(("n_threads", "blocks"), [(0, 0), (1, 1), (256, 1), (257, 2)])
def test_blocks_for_rounds_up(n_threads, blocks):
    assert cuda.blocks_for(n_threads) == blocks


@pytest.fixture
def on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cuda.available.cache_clear()
    yield
    cuda.available.cache_clear()


def test_kernels_need_a_gpu(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cuda.available.cache_clear()
    assert not cuda.available()
    assert not caplog.records  # a plain CPU is no fault
    cuda.available.cache_clear()


def test_kernels_that_do_not_compile_are_replaced_with_one_warning(on_a_gpu, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "cupy", None)  # makes the import fail
    assert not cuda.available()
    assert not cuda.available()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "no CUDA kernels (ModuleNotFoundError" in record.message
    assert "slower" in record.message


@pytest.mark.parametrize(("counted", "expected"), [([0, 1, 2, 3, 4, 5, 6, 7], True), ([0] * 8, False)])
def test_kernels_must_give_the_right_numbers(on_a_gpu, fake_cupy, monkeypatch, counted, expected, caplog):
    class Memory:
        data_ptr = staticmethod(lambda: 4096)
        tolist = staticmethod(lambda: counted)

    def compile_probe(code, options, backend):
        return SimpleNamespace(get_function=lambda name: lambda *call: fake_cupy.launched.append((name, *call)))

    monkeypatch.setattr(torch, "zeros", lambda *size, **options: Memory)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "torch's stream")
    fake_cupy.RawModule = compile_probe
    assert cuda.available() is expected
    assert fake_cupy.launched == [("probe", (1,), (8,), (4096,))]
    assert len(caplog.records) == (not expected)
