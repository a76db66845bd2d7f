"""Forward warping: splatting of pixels along their flow (Niklaus & Liu, arXiv:2003.05534)."""

from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from nsff import cuda

Weighting = Literal["summation", "average", "linear", "softmax"]

EPSILON = 1e-7  # added to the sum of weights, so that a pixel without any weight is 0
IMAGES_PER_CHUNK = 4  # more exceed a CPU's cache, fewer leave its threads idle
SOURCE = cuda.KernelSource(Path(__file__).with_name("splatting.cu"))


def splat(
    values: Float[Tensor, "n c h w"],
    flow: Float[Tensor, "n 2 h w"],
    weighting: Weighting,
    importance: Float[Tensor, "n 1 h w"] | None = None,
) -> Float[Tensor, "n c h w"]:
    """Move each pixel p by its flow F(p) and distribute it bilinearly over the four pixels around p + F(p).

    With b the bilinear weight of p at q, pixel q of the result is (Niklaus and Liu, section 3)

        summation  sum_p b V(p)
        average    sum_p b V(p) / (sum_p b + 1e-7)
        linear     sum_p b Z(p) V(p) / (sum_p b Z(p) + 1e-7)
        softmax    sum_p b exp(Z(p)) V(p) / (sum_p b exp(Z(p)) + 1e-7)

    Values that land outside the frame are dropped, as are pixels whose flow is not finite. Differentiable in values,
    flow and importance; at integer positions the derivative with respect to the flow is the right-sided one.

    Args:
        values: V of n images, any unit, finite.
        flow: F in pixels, right and down.
        weighting: as above.
        importance: Z for 'linear' (not negative) and 'softmax' (any unit), finite; ignored by the others.

    Returns:
        The warped images; 0 at pixels that no value reaches.

    Raises:
        ValueError: unknown weighting, missing importance, or flow of another size than the values.

    Note:
        Softmax subtracts the largest importance of each image to keep exp finite. The result would not change but for
        the 1e-7: a pixel whose importance is 16 or more below the largest fades out if no other lands with it.
    """
    if weighting not in get_args(Weighting):
        raise ValueError(f"unknown weighting {weighting!r}: one of {', '.join(get_args(Weighting))}")
    if weighting in ("linear", "softmax") and importance is None:
        raise ValueError(f"splatting with the weighting {weighting!r} needs an importance")
    n, _, height, width = values.shape
    if flow.shape != (n, 2, height, width):
        raise ValueError(f"flow of size {tuple(flow.shape)} for values of size {tuple(values.shape)}")
    weights = _pixel_weights(values, weighting, importance)
    chunks = zip(*(tensor.split(IMAGES_PER_CHUNK) for tensor in (values, flow, weights)), strict=True)
    return torch.cat([_splat_chunk(*chunk, normalise=weighting != "summation") for chunk in chunks])


def _pixel_weights(values: Tensor, weighting: Weighting, importance: Tensor | None) -> Float[Tensor, "n 1 h w"]:
    """Compute the factor on each pixel's bilinear weights."""
    if weighting == "linear" and importance is not None:
        return importance
    if weighting == "softmax" and importance is not None:
        return torch.exp(importance - importance.amax(dim=(2, 3), keepdim=True))
    return torch.ones_like(values[:, :1])


def _splat_chunk(values: Tensor, flow: Tensor, weights: Tensor, normalise: bool) -> Tensor:
    total = _sum(torch.cat([values * weights, weights], dim=1), flow)
    weighted, weight = total[:, :-1], total[:, -1:]
    return weighted / (weight + EPSILON) if normalise else weighted


def _sum(values: Float[Tensor, "n c h w"], flow: Float[Tensor, "n 2 h w"]) -> Float[Tensor, "n c h w"]:
    """Splat by summation: with the CUDA kernel if it can run and no gradient is needed, else with torch."""
    needs_grad = torch.is_grad_enabled() and (values.requires_grad or flow.requires_grad)
    fits = values.is_cuda and values.device == flow.device and values.dtype == flow.dtype == torch.float32
    if fits and not needs_grad and values.numel() and cuda.available():
        return _sum_by_kernel(values, flow)
    return _sum_by_torch(values, flow)


def _sum_by_torch(values: Float[Tensor, "n c h w"], flow: Float[Tensor, "n 2 h w"]) -> Float[Tensor, "n c h w"]:
    """Splat by summation onto a canvas with a margin, which takes the dropped values without a check per corner."""
    n, channels, height, width = values.shape
    x = _arrival(torch.arange(width, dtype=flow.dtype, device=flow.device), flow[:, 0])
    y = _arrival(torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None], flow[:, 1])
    left, top = x.detach().floor(), y.detach().floor()  # constant in the flow
    right_weight, lower_weight = x - left, y - top
    stride = width + 3  # one column before the frame, two behind it
    canvas = values.new_zeros(n, channels, (height + 3) * stride)
    index = ((top.long() + 1) * stride + left.long() + 1).flatten(1)[:, None].expand(-1, channels, -1)
    for row, vertical in ((0, 1.0 - lower_weight), (stride, lower_weight)):
        for column, horizontal in ((0, 1.0 - right_weight), (1, right_weight)):
            part = values * (vertical * horizontal)[:, None]
            canvas[..., row + column :].scatter_add_(2, index, part.flatten(2))
    return canvas.unflatten(2, (height + 3, stride))[:, :, 1 : height + 1, 1 : width + 1]


def _arrival(start: Tensor, flow: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Compute the target coordinates along one axis; those that reach no pixel, NaN included, go to the far margin."""
    size, arrival = start.numel(), start + flow
    return torch.where((arrival >= -1.0) & (arrival < size), arrival, size)


def _sum_by_kernel(values: Float[Tensor, "n c h w"], flow: Float[Tensor, "n 2 h w"]) -> Float[Tensor, "n c h w"]:
    """Splat by summation with CUDA, on float32 tensors of one device; the order of the sums is not fixed."""
    values, flow, out = values.contiguous(), flow.contiguous(), values.new_zeros(values.shape)
    n, channels, height, width = values.shape
    grid = (cuda.blocks_for(n * height * width),)
    cuda.launch(SOURCE, "splat", grid, values, flow, n, channels, height, width, out)
    return out
