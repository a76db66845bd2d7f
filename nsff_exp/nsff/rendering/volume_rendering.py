"""Volume rendering along rays: one field (NeRF, arXiv:2003.08934, equation 3), or both blended (NSFF, section 3.3)."""

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from nsff.fields import Radiance, StaticSamples
from nsff.geometry.rays import RayBundle

LAST_INTERVAL = 1e10  # makes the last sample opaque wherever its density is positive
MIN_TRANSPARENCY = 1e-10  # added to each 1 - alpha: at a transmittance of 0 the gradient of the product is not finite

Noise = Float[Tensor, "n s"] | float  # added to raw density


@dataclasses.dataclass(frozen=True)
class Composite:
    """One field composited along n rays."""

    rgb: Float[Tensor, "n 3"]  # 0..1
    depth: Float[Tensor, " n"]  # expected depth s along the ray: 0 at the near plane, 1 at infinity
    weights: Float[Tensor, "n s"]  # T alpha of each sample


@dataclasses.dataclass(frozen=True)
class BlendedComposite:
    """Both fields composited together along n rays."""

    rgb: Float[Tensor, "n 3"]  # 0..1
    depth: Float[Tensor, " n"]  # expected depth s along the ray, 0..1
    dynamic_weight: Float[Tensor, " n"]  # sum of the weights of the dynamic samples, 0..1
    dynamic_rgb: Float[Tensor, "n 3"]  # their contribution to `rgb`, on black


def intervals(rays: RayBundle, depths: Float[Tensor, "n s"]) -> Float[Tensor, "n s"]:
    """Compute the distance from each sample to the next in the space of the fields; the last is 1e10 times the ray."""
    return torch.cat([rays.lengths(depths), LAST_INTERVAL * rays.whole_length()], dim=-1)


def opacity(
    sigma_raw: Float[Tensor, "*k n s"], deltas: Float[Tensor, "n s"], noise: Noise = 0.0
) -> Float[Tensor, "*k n s"]:
    """Compute alpha = 1 - exp(-ReLU(sigma) delta), 0..1."""
    return 1.0 - torch.exp(-torch.relu(sigma_raw + noise) * deltas)


def transmittance(transparency: Float[Tensor, "n s"]) -> Float[Tensor, "n s"]:
    """Compute T_k, the product of `transparency` (1 - alpha) over the samples before k; 1 at the first.

    Note:
        A sum of logarithms: the gradient of `torch.cumprod` waits for the GPU to look for zeros.
    """
    logs = torch.log(transparency + MIN_TRANSPARENCY).cumsum(dim=-1)
    return F.pad(logs[:, :-1], (1, 0)).exp()


def composite(
    samples: Radiance,
    depths: Float[Tensor, "n s"],
    deltas: Float[Tensor, "n s"],
) -> Composite:
    """Composite a single field, w = T alpha.

    Args:
        samples: the field at the sample points; for a warp, at the warped points.
        depths: s of the samples along the reference rays, also for a warp.
        deltas: intervals of the reference rays, from `intervals`.
    """
    weights = render_weights(samples.sigma_raw, deltas)
    return Composite(composite_colour(weights, samples), (weights * depths).sum(-1), weights)


def composite_colour(weights: Float[Tensor, "n s"], samples: Radiance) -> Float[Tensor, "n 3"]:
    """Sum the weighted colours of samples, 0..1."""
    return (weights[..., None] * samples.rgb_raw.sigmoid()).sum(-2)


def render_weights(
    sigma_raw: Float[Tensor, "n s"], deltas: Float[Tensor, "n s"], noise: Noise = 0.0
) -> Float[Tensor, "n s"]:
    """Compute the weights w = T alpha of a single field."""
    return _RenderWeights.apply(torch.relu(sigma_raw + noise) * deltas)


class _RenderWeights(torch.autograd.Function):
    """Weights w_k = T_k - T_(k+1) of optical depths x, with T_k = exp(-(x_1 + ... + x_(k-1))).

    The gradient has a closed form: dw_k / dx_k = T_(k+1), and dw_j / dx_k = -w_j for every sample j behind k.
    """

    @staticmethod
    def forward(ctx: Any, optical_depth: Tensor) -> Tensor:
        behind = optical_depth.cumsum(-1).neg_().exp_()  # T_(k+1)
        weights = F.pad(behind[:, :-1], (1, 0), value=1.0) - behind
        ctx.save_for_backward(weights, behind)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        weights, behind = ctx.saved_tensors
        up_to = (grad * weights).cumsum(-1)
        return torch.addcmul(up_to - up_to[:, -1:], grad, behind)


def blended_weights(
    sigma_static: Float[Tensor, "n s"],
    blend_w: Float[Tensor, "n s"],
    sigma_dynamic: Float[Tensor, "n s"],
    deltas: Float[Tensor, "n s"],
    noise: Noise = 0.0,
) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n s"]]:
    """Compute the weights of the static and of the dynamic samples of the blended fields.

    The opacities of the two fields are scaled by b and 1 - b, with b the blend weight; the transparency of a sample is
    (1 - alpha_dynamic b) (1 - alpha_static (1 - b)).

    Returns:
        (static weights, dynamic weights).
    """
    static_alone, dynamic_alone = opacity(torch.stack([sigma_static, sigma_dynamic]), deltas, noise)
    alpha_dynamic = dynamic_alone * blend_w
    alpha_static = torch.addcmul(static_alone, static_alone, blend_w, value=-1.0)
    visible = transmittance((1.0 - alpha_dynamic) * (1.0 - alpha_static))
    return visible * alpha_static, visible * alpha_dynamic


def composite_blended(
    static: StaticSamples,
    dynamic: Radiance,
    depths: Float[Tensor, "n s"],
    deltas: Float[Tensor, "n s"],
    noise: Noise = 0.0,
) -> BlendedComposite:
    """Composite both fields, blended by the static field's `blend_w`; one noise serves both, as published."""
    weights_static, weights_dynamic = blended_weights(
        static.sigma_raw, static.blend_w, dynamic.sigma_raw, deltas, noise
    )
    dynamic_rgb, static_rgb = composite_colour(weights_dynamic, dynamic), composite_colour(weights_static, static)
    depth = ((weights_dynamic + weights_static) * depths).sum(-1)
    return BlendedComposite(dynamic_rgb + static_rgb, depth, weights_dynamic.sum(-1), dynamic_rgb)
