"""Volume rendering along rays: one field (NeRF, arXiv:2003.08934, equation 3), or both blended (NSFF, section 3.3)."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from nsff.fields import Radiance, StaticSamples

LAST_INTERVAL = 1e10  # makes the last sample opaque wherever its density is positive
MIN_TRANSPARENCY = 1e-10  # added to each 1 - alpha: at a transmittance of 0 the gradient of the product is not finite

Noise = Float[Tensor, "n s"] | float  # added to raw density


@dataclasses.dataclass(frozen=True)
class Composite:
    """One field composited along n rays."""

    rgb: Float[Tensor, "n 3"]  # 0..1
    depth: Float[Tensor, " n"]  # expected z along the NDC ray: 0 at the near plane, 1 at infinity
    weights: Float[Tensor, "n s"]  # T alpha of each sample


@dataclasses.dataclass(frozen=True)
class BlendedComposite:
    """Both fields composited together along n rays."""

    rgb: Float[Tensor, "n 3"]  # 0..1
    depth: Float[Tensor, " n"]  # expected z along the NDC ray, 0..1
    dynamic_weight: Float[Tensor, " n"]  # sum of the weights of the dynamic samples, 0..1
    dynamic_rgb: Float[Tensor, "n 3"]  # their contribution to `rgb`, on black


def intervals(depths: Float[Tensor, "n s"], directions_ndc: Float[Tensor, "n 3"]) -> Float[Tensor, "n s"]:
    """Compute the distance from each sample to the next, in NDC units; the last is 1e10 times the ray's length."""
    steps = depths[:, 1:] - depths[:, :-1]
    last = torch.full_like(depths[:, :1], LAST_INTERVAL)
    return torch.cat([steps, last], dim=-1) * directions_ndc.norm(dim=-1, keepdim=True)


def opacity(sigma_raw: Float[Tensor, "n s"], deltas: Float[Tensor, "n s"], noise: Noise = 0.0) -> Float[Tensor, "n s"]:
    """Compute alpha = 1 - exp(-ReLU(sigma) delta), 0..1."""
    return 1.0 - torch.exp(-torch.relu(sigma_raw + noise) * deltas)


def transmittance(transparency: Float[Tensor, "n s"]) -> Float[Tensor, "n s"]:
    """Compute T_k, the product of `transparency` (1 - alpha) over the samples before k; 1 at the first.

    Note:
        A sum of logarithms: the gradient of `torch.cumprod` waits for the GPU to look for zeros.
    """
    logs = torch.log(transparency + MIN_TRANSPARENCY).cumsum(dim=-1)
    return torch.cat([torch.ones_like(logs[:, :1]), logs[:, :-1].exp()], dim=-1)


def composite(
    samples: Radiance,
    depths: Float[Tensor, "n s"],
    deltas: Float[Tensor, "n s"],
    noise: Noise = 0.0,
) -> Composite:
    """Composite a single field, w = T alpha.

    Args:
        samples: the field at the sample points; for a warp, at the warped points.
        depths: z of the samples along the reference rays, also for a warp.
        deltas: intervals of the reference rays, from `intervals`.
        noise: added to raw density.
    """
    weights = render_weights(samples.sigma_raw, deltas, noise)
    rgb = (weights[..., None] * samples.rgb_raw.sigmoid()).sum(-2)
    return Composite(rgb, (weights * depths).sum(-1), weights)


def render_weights(
    sigma_raw: Float[Tensor, "n s"], deltas: Float[Tensor, "n s"], noise: Noise = 0.0
) -> Float[Tensor, "n s"]:
    """Compute the weights w = T alpha of a single field."""
    alpha = opacity(sigma_raw, deltas, noise)
    return alpha * transmittance(1.0 - alpha)


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
    alpha_dynamic = opacity(sigma_dynamic, deltas, noise) * blend_w
    alpha_static = opacity(sigma_static, deltas, noise) * (1.0 - blend_w)
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
    dynamic_rgb = (weights_dynamic[..., None] * dynamic.rgb_raw.sigmoid()).sum(-2)
    static_rgb = (weights_static[..., None] * static.rgb_raw.sigmoid()).sum(-2)
    depth = ((weights_dynamic + weights_static) * depths).sum(-1)
    return BlendedComposite(dynamic_rgb + static_rgb, depth, weights_dynamic.sum(-1), dynamic_rgb)
