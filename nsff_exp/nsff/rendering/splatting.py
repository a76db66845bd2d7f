"""Forward warping: pixels are moved by their flow and spread where they arrive (Niklaus & Liu, arXiv:2003.05534)."""

import functools
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from nsff.fields.hash_grid import cuda

Weighting = Literal["summation", "average", "linear", "softmax"]

EMPTY = 1e-7  # added to the sum of weights: a pixel that nothing reaches is 0
PLANES_AT_ONCE = 4  # more fall out of a CPU's cache, with fewer its threads wait for each other most of the time
SOURCE = Path(__file__).with_name("splatting.cu")
OPTIONS = ("--std=c++17",)  # for its compiler
THREADS = 256  # a block


def splat(
    values: Float[Tensor, "n c h w"],
    flow: Float[Tensor, "n 2 h w"],
    weighting: Weighting,
    importance: Float[Tensor, "n 1 h w"] | None = None,
) -> Float[Tensor, "n c h w"]:
    """Move each pixel p by its flow F(p) and spread it bilinearly over the four pixels around p + F(p).

    With b the bilinear weight of p at q, the pixel q of the result is (section 3 of the paper)

        summation  sum_p b V(p)
        average    sum_p b V(p) / (sum_p b + 1e-7)
        linear     sum_p b Z(p) V(p) / (sum_p b Z(p) + 1e-7)
        softmax    sum_p b exp(Z(p)) V(p) / (sum_p b exp(Z(p)) + 1e-7)

    What arrives outside the frame is lost, as is a pixel whose flow is not finite. Differentiable in values, flow and
    importance by autograd; the derivative to the flow is the right-sided one where a pixel arrives at whole numbers.

    Args:
        values: V of n images, any unit, finite.
        flow: F in pixels, right and down.
        weighting: as above.
        importance: Z of 'linear' (not negative) and 'softmax' (any unit), finite; the others do not look at it.

    Returns:
        The images at the place where their pixels went; 0 where none arrives.

    Raises:
        ValueError: an unknown weighting, an importance that is missing, or a flow of another size than the values.

    Note:
        Softmax subtracts the largest importance of each image, so that exp stays finite. Without the 1e-7 that would
        change nothing; with it, a pixel that lies 16 or more below the largest and arrives alone fades out.
    """
    if weighting not in get_args(Weighting):
        raise ValueError(f"unknown weighting {weighting!r}: one of {', '.join(get_args(Weighting))}")
    if weighting in ("linear", "softmax") and importance is None:
        raise ValueError(f"splatting with the weighting {weighting!r} needs an importance")
    n, _, height, width = values.shape
    if flow.shape != (n, 2, height, width):
        raise ValueError(f"flow of size {tuple(flow.shape)} for values of size {tuple(values.shape)}")
    share = _share(values, weighting, importance)
    planes = zip(*(tensor.split(PLANES_AT_ONCE) for tensor in (values, flow, share)), strict=True)
    return torch.cat([_splat(*chunk, normalise=weighting != "summation") for chunk in planes])


def _share(values: Tensor, weighting: Weighting, importance: Tensor | None) -> Float[Tensor, "n 1 h w"]:
    """What each pixel's bilinear weights are multiplied with."""
    if weighting == "linear" and importance is not None:
        return importance
    if weighting == "softmax" and importance is not None:
        return torch.exp(importance - importance.amax(dim=(2, 3), keepdim=True))
    return torch.ones_like(values[:, :1])


def _splat(values: Tensor, flow: Tensor, share: Tensor, normalise: bool) -> Tensor:
    total = _sum(torch.cat([values * share, share], dim=1), flow)
    weighted, weight = total[:, :-1], total[:, -1:]
    return weighted / (weight + EMPTY) if normalise else weighted


def _sum(values: Float[Tensor, "n c h w"], flow: Float[Tensor, "n 2 h w"]) -> Float[Tensor, "n c h w"]:
    """Summation splatting, by the kernel where it can run and nobody asks for gradients."""
    needs_grad = torch.is_grad_enabled() and (values.requires_grad or flow.requires_grad)
    fits = values.is_cuda and values.device == flow.device and values.dtype == flow.dtype == torch.float32
    if fits and not needs_grad and values.numel() and cuda.available():
        return _sum_by_kernel(values, flow)
    return _sum_by_torch(values, flow)


def _sum_by_torch(values: Float[Tensor, "n c h w"], flow: Float[Tensor, "n 2 h w"]) -> Float[Tensor, "n c h w"]:
    """On a canvas with a margin around the frame, where all that is lost goes: no corner has to be checked."""
    n, channels, height, width = values.shape
    x = _arrival(torch.arange(width, dtype=flow.dtype, device=flow.device), flow[:, 0])
    y = _arrival(torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None], flow[:, 1])
    left, top = x.detach().floor(), y.detach().floor()  # a step has no slope
    right_share, lower_share = x - left, y - top
    stride = width + 3  # one column before the frame, two behind it
    canvas = values.new_zeros(n, channels, (height + 3) * stride)
    place = ((top.long() + 1) * stride + left.long() + 1).flatten(1)[:, None].expand(-1, channels, -1)
    for row, across in ((0, 1.0 - lower_share), (stride, lower_share)):
        for column, along in ((0, 1.0 - right_share), (1, right_share)):
            part = values * (across * along)[:, None]
            canvas[..., row + column :].scatter_add_(2, place, part.flatten(2))
    return canvas.unflatten(2, (height + 3, stride))[:, :, 1 : height + 1, 1 : width + 1]


def _arrival(start: Tensor, flow: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Where pixels arrive along an axis; what reaches no pixel of the frame (NaN too) goes to the margin behind it."""
    size, arrival = start.numel(), start + flow
    return torch.where((arrival >= -1.0) & (arrival < size), arrival, size)


@functools.cache
def _kernel(device: int) -> Any:
    import cupy

    with cupy.cuda.Device(device):
        return cupy.RawModule(code=SOURCE.read_text(), options=OPTIONS, backend="nvrtc").get_function("splat")


def _sum_by_kernel(values: Float[Tensor, "n c h w"], flow: Float[Tensor, "n 2 h w"]) -> Float[Tensor, "n c h w"]:
    """On float32 tensors of one CUDA device and torch's stream; the host waits for nothing, sums are in no order."""
    import cupy

    values, flow, out = values.contiguous(), flow.contiguous(), values.new_zeros(values.shape)
    n, channels, height, width = values.shape
    sizes = [cupy.int32(size) for size in (n, channels, height, width)]
    blocks, device = -(-n * height * width // THREADS), values.device
    with (
        cupy.cuda.Device(device.index),
        cupy.cuda.ExternalStream(torch.cuda.current_stream(device).cuda_stream, device.index),
    ):
        _kernel(device.index)((blocks,), (THREADS,), (values.data_ptr(), flow.data_ptr(), *sizes, out.data_ptr()))
    return out
