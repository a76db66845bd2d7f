"""CUDA kernels, compiled at run time and launched on torch's stream, and advice when GPU memory runs out."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nsff.config import Config
from nsff.errors import InputError
from nsff.io import read_text

log = logging.getLogger("nsff")

THREADS_PER_BLOCK = 256


@dataclasses.dataclass(frozen=True)
class KernelSource:
    """A .cu file with the macros that specialise it; equal sources share one compiled module."""

    path: Path
    macros: tuple[tuple[str, int], ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """Options of NVRTC, the run-time compiler."""
        return ("--std=c++17", *(f"-D{name}={value}" for name, value in self.macros))


PROBE = 'extern "C" __global__ void probe(int *out) { out[threadIdx.x] = threadIdx.x; }'


@functools.cache
def available() -> bool:
    """Return True if kernels compile and run on the current GPU; where they do not, one warning gives the reason."""
    if not torch.cuda.is_available():
        return False
    reason = _probe_failure()
    if reason:
        log.warning(
            "no CUDA kernels (%s): hash grids and splatting run many times slower, in plain torch; "
            "install the cupy of torch's CUDA %s, e.g. cupy-cuda%sx",
            reason,
            torch.version.cuda,
            (torch.version.cuda or "").split(".")[0],
        )
    return not reason


def _probe_failure() -> str:
    """Compile and run a kernel that counts; empty if the numbers come back, else the reason in one line."""
    try:
        import cupy

        out = torch.zeros(8, dtype=torch.int32, device="cuda")
        with cupy.cuda.Stream.from_external(torch.cuda.current_stream()):
            module = cupy.RawModule(code=PROBE, options=("--std=c++17",), backend="nvrtc")
            module.get_function("probe")((1,), (8,), (out.data_ptr(),))
        return "" if out.tolist() == list(range(8)) else "a test kernel gives wrong numbers"
    except Exception as error:  # cupy raises errors of its own, of the driver and of the compiler
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def describe_device(device: torch.device) -> str:
    """Name of a device and of the kernels that run on it, for the log."""
    if device.type != "cuda":
        return f"the CPU, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name(device)}, " + ("CUDA kernels" if available() else "kernels in plain torch")


def blocks_for(n_threads: int) -> int:
    """Compute the number of blocks of `THREADS_PER_BLOCK` that hold `n_threads`."""
    return -(-n_threads // THREADS_PER_BLOCK)


def launch(source: KernelSource, name: str, grid: tuple[int, ...], *arguments: Tensor | int) -> None:
    """Launch a kernel on the current torch stream of the device of its tensors, without waiting for it.

    Args:
        source: file that defines the kernel; compiled at its first launch on each device.
        name: of an `extern "C"` kernel.
        grid: blocks along x and, optionally, y and z; nothing is launched if any is 0, which CUDA rejects.
        arguments: in the order of the kernel's parameters; contiguous tensors of one CUDA device are passed as
            pointers, integers as 32-bit int.
    """
    if 0 in grid:
        return
    import cupy

    device = next(value.device for value in arguments if isinstance(value, Tensor))
    values = tuple(value.data_ptr() if isinstance(value, Tensor) else cupy.int32(value) for value in arguments)
    with cupy.cuda.Device(device.index), cupy.cuda.Stream.from_external(torch.cuda.current_stream(device)):
        _kernel(source, name, device.index)(grid, (THREADS_PER_BLOCK,), values)


@functools.cache
def _kernel(source: KernelSource, name: str, device: int) -> Any:
    """Look up a kernel, once: cupy makes a new object at every look-up."""
    return _module(source, device).get_function(name)


@functools.cache
def _module(source: KernelSource, device: int) -> Any:
    """Compile a source for the device that is current in cupy; `device` is its index, a part of the cache key."""
    import cupy

    return cupy.RawModule(code=read_text(source.path), options=source.options, backend="nvrtc")


def render_memory_advice(config: Config) -> contextlib.AbstractContextManager[None]:
    """Turn running out of GPU memory during a render into advice on the option to lower, with a value.

    Raises:
        InputError: instead of torch.OutOfMemoryError.
    """
    points, smaller = config.points_per_chunk("cuda"), max(1, config.netchunk // 4)
    return _memory_advice(f"to render {points} points at once; --netchunk {smaller} needs about a quarter")


def scene_memory_advice() -> contextlib.AbstractContextManager[None]:
    """Turn running out of GPU memory while a scene is loaded into advice on what to lower.

    Raises:
        InputError: instead of torch.OutOfMemoryError.
    """
    return _memory_advice(
        "for the frames and priors, the fields and their optimiser; --cache_gb 0 leaves the former in files, a smaller "
        "--final_height, --hash_log2_rows or --netwidth needs less"
    )


def step_memory_advice(config: Config) -> contextlib.AbstractContextManager[None]:
    """Turn running out of GPU memory during a training step into advice on the options to lower, with values.

    Raises:
        InputError: instead of torch.OutOfMemoryError.
    """
    if (factor := config.step_factor("cuda")) > 1:
        return _memory_advice(f"for a training step; --cuda_factor {factor // 2} needs about half of it")
    names = ("N_rand", "num_extra_sample", "background_rays")
    halved = " ".join(f"--{name} {getattr(config, name) // 2}" for name in names if getattr(config, name) > 1)
    return _memory_advice(f"for a training step; half the rays need about half of it: {halved}")


@contextlib.contextmanager
def _memory_advice(purpose_and_advice: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(f"the GPU has not enough memory {purpose_and_advice}") from error
