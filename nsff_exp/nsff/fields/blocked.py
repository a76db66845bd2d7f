"""The MLP on a CPU: block by block in the cache, with less memory kept for the gradient.

Plain autograd keeps every hidden layer of every sample and walks through main memory for each ReLU. Here a block of
rays runs through all layers while it is in the cache; kept layers go to buffers made once, two hidden layers and the
encoding are computed again in the backward pass. Same sums as `mlp.forward_plain`, which is its twin in the tests.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from nsff.fields.encoding import encode, encode_backward
from nsff.fields.mlp_weights import SKIP, MlpWeights

BLOCK_BYTES = 2 << 20  # of one hidden layer; larger blocks fall out of the cache, smaller ones waste threads
RECOMPUTED = (0, SKIP)  # hidden layers that are not kept

threshold_backward = torch.ops.aten.threshold_backward  # gradient of ReLU from its output


def forward_blocked(
    x: Float[Tensor, "n s c"], view_term: Float[Tensor, "n v"], n_freqs: int, weights: MlpWeights
) -> Float[Tensor, "n s o"]:
    """As `mlp.forward_plain`, on a CPU."""
    return _BlockedMlp.apply(n_freqs, torch.is_grad_enabled(), x, view_term, *weights.flatten())


def _blocks(n_rays: int, n_samples: int, width: int) -> list[slice]:
    rows = max(1, BLOCK_BYTES // (4 * width * n_samples))
    return [slice(start, min(start + rows, n_rays)) for start in range(0, n_rays, rows)]


def _points(rays: slice, n_samples: int) -> slice:
    return slice(rays.start * n_samples, rays.stop * n_samples)


def _colour_hidden(weights: MlpWeights, view_term: Tensor, hidden: Tensor) -> Tensor:
    """ReLU of the view layer."""
    n_view = view_term.shape[1]
    pre = hidden @ weights.last[:n_view].T
    pre.view(len(view_term), -1, n_view).add_(view_term[:, None])
    return pre.relu_()


class _Block:
    """Buffers for the layers of one block. `joined` holds the encoding and, to its right, the output of layer SKIP."""

    def __init__(self, like: Tensor, rows: int, size: int, width: int, n_spare: int):
        self.all_joined = like.new_empty(rows, size + width)
        self.all_spare = like.new_empty(n_spare, rows, width)
        self.size = size

    def start(self, points: Tensor, n_freqs: int) -> None:
        """Take up to `rows` points."""
        self.joined, self.spare = self.all_joined[: len(points)], self.all_spare[:, : len(points)]
        self.encoded, self.skipped = self.joined[:, : self.size], self.joined[:, self.size :]
        self.encoded.copy_(encode(points, n_freqs))

    def below(self, layer: int, hidden: Tensor) -> Tensor:
        """What a layer takes in."""
        return self.encoded if layer == 0 else self.joined if layer == SKIP + 1 else hidden

    def run(self, weights: MlpWeights, layer: int, hidden: Tensor, out: Tensor) -> Tensor:
        """ReLU of a layer, in `out` (in `joined` if it is layer SKIP)."""
        weight, bias = weights.trunk[layer]
        out = self.skipped if layer == SKIP else out
        return torch.addmm(bias, self.below(layer, hidden), weight.T, out=out).relu_()


class _BlockedMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, n_freqs: int, keep: bool, x: Tensor, view_term: Tensor, *flat: Tensor) -> Tensor:
        """Raw outputs (n, s, o), ray block by ray block; keeps the layers that are not computed again."""
        weights, (n_rays, n_samples, n_channels) = MlpWeights.unflatten(flat), x.shape
        width, size = weights.trunk[0][0].shape
        n_view, points = view_term.shape[1], x.reshape(-1, n_channels)
        out = x.new_empty(len(points), 3 + len(weights.head_bias))
        layers = [layer for layer in range(len(weights.trunk)) if keep and layer not in RECOMPUTED]
        kept = {layer: x.new_empty(len(points), width) for layer in layers}
        blocks = _blocks(n_rays, n_samples, width)
        block = _Block(x, blocks[0].stop * n_samples, size, width, 2)
        for rays in blocks:
            rows = _points(rays, n_samples)
            block.start(points[rows], n_freqs)
            hidden = block.encoded
            for layer in range(len(weights.trunk)):
                store = kept[layer][rows] if layer in kept else block.spare[layer % 2]
                hidden = block.run(weights, layer, hidden, store)
            colour = _colour_hidden(weights, view_term[rays], hidden)
            torch.addmm(weights.rgb_bias, colour, weights.rgb.T, out=out[rows, :3])
            torch.addmm(weights.head_bias, hidden, weights.last[n_view:].T, out=out[rows, 3:])
        ctx.n_freqs, ctx.layers = n_freqs, layers
        ctx.save_for_backward(x, view_term, *flat, *kept.values())
        return out.view(n_rays, n_samples, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        """Gradients in the order of the inputs of `forward`."""
        x, view_term, *saved = ctx.saved_tensors
        n_flat = len(saved) - len(ctx.layers)
        weights, kept = MlpWeights.unflatten(saved[:n_flat]), dict(zip(ctx.layers, saved[n_flat:], strict=True))
        grads = MlpWeights.unflatten([torch.zeros_like(tensor) for tensor in saved[:n_flat]])
        (width, size), (_, n_samples, n_channels) = weights.trunk[0][0].shape, x.shape
        points, grads_out = x.reshape(-1, n_channels), grad_out.reshape(-1, grad_out.shape[2])
        grad_points = torch.empty_like(points) if ctx.needs_input_grad[2] else None
        grad_view = torch.empty_like(view_term)
        blocks = _blocks(len(x), n_samples, width)
        block, depth = _Block(x, blocks[0].stop * n_samples, size, width, 3), len(weights.trunk)
        for rays in blocks:
            rows = _points(rays, n_samples)
            block.start(points[rows], ctx.n_freqs)
            hidden: list[Tensor] = []
            for layer in range(depth):
                below = hidden[-1] if hidden else block.encoded
                again = layer not in kept  # layer 0 into a spare buffer, layer SKIP into `joined`
                hidden.append(block.run(weights, layer, below, block.spare[2]) if again else kept[layer][rows])
            grad = _head_backward(
                weights, grads, view_term[rays], grad_view[rays], hidden[-1], grads_out[rows], block.spare[depth % 2]
            )
            grad_encoded = _trunk_backward(weights, grads, block, hidden, grad, grad_points is not None)
            if grad_points is not None and grad_encoded is not None:
                grad_points[rows] = encode_backward(block.encoded, grad_encoded, n_channels)
        return None, None, None if grad_points is None else grad_points.view_as(x), grad_view, *grads.flatten()


def _head_backward(
    weights: MlpWeights,
    grads: MlpWeights,
    view_term: Tensor,
    grad_view: Tensor,
    hidden: Tensor,
    grad_out: Tensor,
    out: Tensor,
) -> Tensor:
    """Gradient to the last hidden layer, in `out`; those of the weights and the view term are filled in."""
    n_view = view_term.shape[1]
    colour = _colour_hidden(weights, view_term, hidden)
    grad_rgb, grad_heads = grad_out[:, :3], grad_out[:, 3:]
    grads.rgb.addmm_(grad_rgb.T, colour)
    grads.rgb_bias.add_(grad_rgb.sum(0))
    grads.head_bias.add_(grad_heads.sum(0))
    grad_colour = threshold_backward.default(grad_rgb @ weights.rgb, colour, 0)
    torch.sum(grad_colour.view(len(view_term), -1, n_view), 1, out=grad_view)
    grad_last = torch.cat([grad_colour, grad_heads], dim=1)
    grads.last.addmm_(grad_last.T, hidden)
    return torch.mm(grad_last, weights.last, out=out)


def _trunk_backward(
    weights: MlpWeights, grads: MlpWeights, block: _Block, hidden: list[Tensor], grad: Tensor, to_input: bool
) -> Tensor | None:
    """From the gradient to the last hidden layer down; returns that to the encoding if wanted.

    The gradient to the output of layer k lies in spare buffer (k + 1) % 2.
    """
    grad_encoded = None
    for layer in range(len(hidden) - 1, -1, -1):
        threshold_backward.grad_input(grad, hidden[layer], 0, grad_input=grad)
        (weight, _), (grad_weight, grad_bias) = weights.trunk[layer], grads.trunk[layer]
        grad_bias.add_(grad.sum(0))
        grad_weight.addmm_(grad.T, block.below(layer, hidden[layer - 1]))
        if layer == SKIP + 1:
            grad_encoded = grad @ weight[:, : block.size] if to_input else None
            weight = weight[:, block.size :]
        if layer > 0:
            grad = torch.mm(grad, weight, out=block.spare[layer % 2])
        elif grad_encoded is not None:
            grad_encoded.addmm_(grad, weight)
    return grad_encoded
