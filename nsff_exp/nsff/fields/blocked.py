"""The MLP on a CPU: block by block in the cache, with less memory kept for the gradient.

Plain autograd keeps every hidden layer of every sample and walks through main memory for each ReLU. Here a block of
points runs through all layers while it is in the cache; kept layers go to buffers made once, two hidden layers and the
encoding are computed again in the backward pass. Same sums as `mlp.forward_plain`, which is its twin in the tests.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from nsff.encoding import encode, encode_backward
from nsff.fields.layers import SKIP, MlpWeights

BLOCK_BYTES = 2 << 20  # of one hidden layer; larger blocks fall out of the cache, smaller ones waste threads
RECOMPUTED = (0, 3)  # hidden layers that are not kept


def forward_blocked(
    x: Float[Tensor, "n s c"], view_term: Float[Tensor, "n v"], n_freqs: int, weights: MlpWeights
) -> Float[Tensor, "n s o"]:
    """As `mlp.forward_plain`; float32 on a CPU."""
    return _BlockedMlp.apply(x, view_term, n_freqs, torch.is_grad_enabled(), *weights.flatten())


def _blocks(n_rays: int, n_samples: int, width: int) -> list[slice]:
    rows = max(1, BLOCK_BYTES // (4 * width * n_samples))
    return [slice(start, min(start + rows, n_rays)) for start in range(0, n_rays, rows)]


def _points(rays: slice, n_samples: int) -> slice:
    return slice(rays.start * n_samples, rays.stop * n_samples)


def _trunk_layer(weights: MlpWeights, layer: int, encoded: Tensor, hidden: Tensor, out: Tensor | None) -> Tensor:
    """ReLU of one layer; layer 0 takes the encoding, the one after SKIP both."""
    weight, bias = weights.trunk[layer]
    if layer == 0:
        pre = torch.addmm(bias, encoded, weight.T, out=out)
    elif layer == SKIP + 1:
        size = encoded.shape[1]
        pre = torch.addmm(bias, encoded, weight[:, :size].T, out=out)
        pre.addmm_(hidden, weight[:, size:].T)
    else:
        pre = torch.addmm(bias, hidden, weight.T, out=out)
    return pre.relu_()


def _colour_hidden(pre: Tensor, view_term: Tensor, n_samples: int) -> Tensor:
    """ReLU of the view layer; `pre` is its part that depends on the point."""
    n_view = view_term.shape[1]
    return (pre.view(-1, n_samples, n_view) + view_term[:, None]).relu_().view(-1, n_view)


class _BlockedMlp(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, view_term: Tensor, n_freqs: int, keep: bool, *flat: Tensor
    ) -> Tensor:
        weights = MlpWeights.unflatten(flat)
        n_rays, n_samples, n_channels = x.shape
        depth, width, n_view = len(weights.trunk), weights.trunk[0][0].shape[0], view_term.shape[1]
        points = x.reshape(-1, n_channels)
        out = x.new_empty(len(points), 3 + len(weights.head_bias))
        layers = [layer for layer in range(depth) if keep and layer not in RECOMPUTED]
        kept = {layer: x.new_empty(len(points), width) for layer in layers}
        for rays in _blocks(n_rays, n_samples, width):
            rows = _points(rays, n_samples)
            encoded = hidden = encode(points[rows], n_freqs)
            for layer in range(depth):
                store = kept[layer][rows] if layer in kept else None
                hidden = _trunk_layer(weights, layer, encoded, hidden, store)
            last = hidden @ weights.last.T
            colour = _colour_hidden(last[:, :n_view], view_term[rays], n_samples)
            torch.addmm(weights.rgb_bias, colour, weights.rgb.T, out=out[rows, :3])
            torch.add(last[:, n_view:], weights.head_bias, out=out[rows, 3:])
        ctx.n_freqs, ctx.layers = n_freqs, layers
        ctx.save_for_backward(x, view_term, *flat, *kept.values())
        return out.view(n_rays, n_samples, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> Any:  # type: ignore[override]
        x, view_term, *saved = ctx.saved_tensors
        flat, kept = saved[: len(saved) - len(ctx.layers)], dict(zip(ctx.layers, saved[-len(ctx.layers) :], strict=True))
        weights, n_samples = MlpWeights.unflatten(flat), x.shape[1]
        points, grads_out = x.reshape(-1, x.shape[2]), grad_out.reshape(-1, grad_out.shape[2])
        grads = MlpWeights.unflatten([torch.zeros_like(tensor) for tensor in flat])
        grad_view = torch.empty_like(view_term)
        grad_points = torch.empty_like(points) if ctx.needs_input_grad[0] else None
        for rays in _blocks(len(x), n_samples, weights.last.shape[1]):
            rows = _points(rays, n_samples)
            encoded = encode(points[rows], ctx.n_freqs)
            hidden: list[Tensor] = []
            for layer in range(len(weights.trunk)):
                previous = hidden[-1] if hidden else encoded
                again = layer not in kept
                hidden.append(_trunk_layer(weights, layer, encoded, previous, None) if again else kept[layer][rows])
            grad_last, grad_view[rays] = _head_backward(
                weights, grads, hidden[-1], view_term[rays], grads_out[rows], n_samples
            )
            grad_hidden = grad_last @ weights.last
            grad_encoded = _trunk_backward(weights, grads, encoded, hidden, grad_hidden, grad_points is not None)
            if grad_points is not None:
                assert grad_encoded is not None
                grad_points[rows] = encode_backward(encoded, grad_encoded, points.shape[1])
        grad_x = None if grad_points is None else grad_points.view_as(x)
        return grad_x, grad_view, None, None, *grads.flatten()


def _head_backward(
    weights: MlpWeights, grads: MlpWeights, hidden: Tensor, view_term: Tensor, grad_out: Tensor, n_samples: int
) -> tuple[Tensor, Tensor]:
    """Gradients to the stacked last product and to the view term; those of the weights are added to `grads`."""
    n_view = view_term.shape[1]
    colour = _colour_hidden(hidden @ weights.last[:n_view].T, view_term, n_samples)
    grad_rgb, grad_heads = grad_out[:, :3], grad_out[:, 3:]
    grads.rgb.addmm_(grad_rgb.T, colour)
    grads.rgb_bias.add_(grad_rgb.sum(0))
    grads.head_bias.add_(grad_heads.sum(0))
    grad_colour = torch.ops.aten.threshold_backward(grad_rgb @ weights.rgb, colour, 0)
    grad_last = torch.cat([grad_colour, grad_heads], dim=1)
    grads.last.addmm_(grad_last.T, hidden)
    return grad_last, grad_colour.view(-1, n_samples, n_view).sum(1)


def _trunk_backward(
    weights: MlpWeights, grads: MlpWeights, encoded: Tensor, hidden: list[Tensor], grad: Tensor, to_input: bool
) -> Tensor | None:
    """Gradient to the encoding if `to_input`; those of the weights are added to `grads`."""
    size = encoded.shape[1]
    grad_encoded = torch.zeros_like(encoded) if to_input else None
    for layer in range(len(hidden) - 1, -1, -1):
        grad = torch.ops.aten.threshold_backward(grad, hidden[layer], 0)
        weight, (grad_weight, grad_bias) = weights.trunk[layer][0], grads.trunk[layer]
        grad_bias.add_(grad.sum(0))
        if layer in (0, SKIP + 1):
            grad_weight[:, :size].addmm_(grad.T, encoded)
            if grad_encoded is not None:
                grad_encoded.addmm_(grad, weight[:, :size])
            weight, grad_weight = weight[:, size:], grad_weight[:, size:]
        if layer > 0:
            grad_weight.addmm_(grad.T, hidden[layer - 1])
            grad = grad @ weight
    return grad_encoded
