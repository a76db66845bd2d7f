"""Wall time, CPU time and peak memory of a piece of work on a device."""

import resource
import sys
import time
from collections.abc import Callable

import torch


def timed(action: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Run an action and return its (wall, CPU) seconds; on CUDA, wait for queued kernels before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory so far, in bytes: of the whole process, or on CUDA of its tensors (since the last reset)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS counts bytes, Linux kilobytes
