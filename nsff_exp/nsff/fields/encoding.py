"""Positional encoding (NeRF, arXiv:2003.08934, equation 4).

As in the published code, the factor pi is left out and the input precedes its encoding.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Encoding(nn.Module):
    """Encode x as [x, sin(2^0 x), cos(2^0 x), ..., sin(2^(L-1) x), cos(2^(L-1) x)], each over all coordinates.

    Attributes:
        frequencies: 2^0 to 2^(L-1); not part of a checkpoint.
        size: number of channels that encode the coordinates.
    """

    frequencies: Float[Tensor, " l"]

    def __init__(self, n_channels: int, n_freqs: int):
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(n_freqs), persistent=False)
        self.size = n_channels * (1 + 2 * n_freqs)

    def forward(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b e"]:
        return _Encode.apply(x, self.frequencies)

    def columns(self, x: Float[Tensor, "c n"]) -> Float[Tensor, "e n"]:
        """Encode points that lie in columns; without gradient."""
        scaled = x * self.frequencies[:, None, None]
        return torch.cat([x[None], torch.stack([scaled.sin(), scaled.cos()], dim=1).flatten(0, 1)]).flatten(0, 1)

    def backpropagate(self, encoded: Float[Tensor, "*n e"], grad: Float[Tensor, "*n e"]) -> Float[Tensor, "*n c"]:
        """Compute the gradient of the coordinates from that of their encoding."""
        return _backpropagate(encoded, grad, self.frequencies)


class _Encode(torch.autograd.Function):
    """The encoding, with its gradient computed from its own output: sines and cosines are each other's derivatives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frequencies: Tensor) -> Tensor:
        scaled = x[..., None, :] * frequencies[:, None]
        waves = torch.stack([scaled.sin(), scaled.cos()], dim=-2)
        encoded = torch.cat([x, waves.flatten(-3)], dim=-1)
        ctx.save_for_backward(encoded, frequencies)
        return encoded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        encoded, frequencies = ctx.saved_tensors
        return _backpropagate(encoded, grad, frequencies), None


def _backpropagate(encoded: Tensor, grad: Tensor, frequencies: Tensor) -> Tensor:
    n_channels = encoded.shape[-1] // (1 + 2 * len(frequencies))
    shape = (len(frequencies), 2, n_channels)
    waves, grads = encoded[..., n_channels:].unflatten(-1, shape), grad[..., n_channels:].unflatten(-1, shape)
    (sin, cos), (grad_sin, grad_cos) = waves.unbind(-2), grads.unbind(-2)
    along_waves = torch.addcmul(grad_sin * cos, grad_cos, sin, value=-1.0)
    return grad[..., :n_channels] + (along_waves * frequencies[:, None]).sum(-2)
