"""Positional encoding (NeRF, arXiv:2003.08934, equation 4).

As in the published code, the factor pi is left out and the input precedes its encoding.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def encoded_size(n_channels: int, n_freqs: int) -> int:
    """Return the number of channels that encode `n_channels` coordinates."""
    return n_channels * (1 + 2 * n_freqs)


def encode(x: Float[Tensor, "*b c"], n_freqs: int) -> Float[Tensor, "*b e"]:
    """Encode x as [x, sin(2^0 x), cos(2^0 x), ..., sin(2^(L-1) x), cos(2^(L-1) x)], each over all coordinates."""
    return _Encode.apply(x, n_freqs)


def encode_columns(x: Float[Tensor, "c n"], n_freqs: int) -> Float[Tensor, "e n"]:
    """Encode points that lie in columns, as `encode` does for rows; without gradient."""
    scaled = x * _frequencies(n_freqs, x)[:, None, None]
    return torch.cat([x[None], torch.stack([scaled.sin(), scaled.cos()], dim=1).flatten(0, 1)]).flatten(0, 1)


def _frequencies(n_freqs: int, like: Tensor) -> Float[Tensor, " l"]:
    return torch.arange(n_freqs, device=like.device, dtype=like.dtype).exp2_()


class _Encode(torch.autograd.Function):
    """The encoding, with its gradient computed from its own output: sines and cosines are each other's derivatives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, n_freqs: int) -> Tensor:
        scaled = x[..., None, :] * _frequencies(n_freqs, x)[:, None]
        waves = torch.stack([scaled.sin(), scaled.cos()], dim=-2)
        encoded = torch.cat([x, waves.flatten(-3)], dim=-1)
        ctx.save_for_backward(encoded)
        ctx.n_channels = x.shape[-1]
        return encoded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        (encoded,) = ctx.saved_tensors
        return encode_backward(encoded, grad, ctx.n_channels), None


def encode_backward(
    encoded: Float[Tensor, "*n e"], grad: Float[Tensor, "*n e"], n_channels: int
) -> Float[Tensor, "*n c"]:
    """Backpropagate the gradient with respect to the encoding to the encoded coordinates."""
    n_freqs = (encoded.shape[-1] // n_channels - 1) // 2
    shape = (n_freqs, 2, n_channels)
    waves, grads = encoded[..., n_channels:].unflatten(-1, shape), grad[..., n_channels:].unflatten(-1, shape)
    (sin, cos), (grad_sin, grad_cos) = waves.unbind(-2), grads.unbind(-2)
    along_waves = torch.addcmul(grad_sin * cos, grad_cos, sin, value=-1.0)
    return grad[..., :n_channels] + (along_waves * _frequencies(n_freqs, grad)[:, None]).sum(-2)
