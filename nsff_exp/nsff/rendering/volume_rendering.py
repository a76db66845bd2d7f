"""Volume rendering along rays (NeRF, arXiv:2003.08934, equation 3), of one field and of both blended (paper, 3.3)."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from nsff.fields import Radiance, StaticSamples

LAST_INTERVAL = 1e10  # the last sample absorbs whatever light is left
TRANSPARENT = 1e-10  # keeps the transmittance off 0, so that its gradient is finite

Noise = Float[Tensor, "n s"] | float


@dataclasses.dataclass(frozen=True)
class Composite:
    """One field composited along n rays. Depth is NDC z (0..1 along the ray)."""

    rgb: Float[Tensor, "n 3"]
    depth: Float[Tensor, " n"]
    weights: Float[Tensor, "n s"]


@dataclasses.dataclass(frozen=True)
class BlendedComposite:
    """Both fields composited together; the last two are the share of the dynamic field in it."""

    rgb: Float[Tensor, "n 3"]
    depth: Float[Tensor, " n"]
    dynamic_weight: Float[Tensor, " n"]
    dynamic_rgb: Float[Tensor, "n 3"]


def intervals(depths: Float[Tensor, "n s"], directions_ndc: Float[Tensor, "n 3"]) -> Float[Tensor, "n s"]:
    """Length of the ray that each sample stands for, in NDC units; the last is 1e10."""
    steps = depths[:, 1:] - depths[:, :-1]
    last = torch.full_like(depths[:, :1], LAST_INTERVAL)
    return torch.cat([steps, last], dim=-1) * directions_ndc.norm(dim=-1, keepdim=True)


def opacity(sigma_raw: Float[Tensor, "n s"], deltas: Float[Tensor, "n s"], noise: Noise = 0.0) -> Float[Tensor, "n s"]:
    """alpha = 1 - exp(-ReLU(sigma) delta)."""
    return 1.0 - torch.exp(-torch.relu(sigma_raw + noise) * deltas)


def transmittance(clear: Float[Tensor, "n s"]) -> Float[Tensor, "n s"]:
    """Share of light that reaches each sample: product of `clear` (1 - alpha) over the samples before it."""
    through = torch.cumprod(clear + TRANSPARENT, dim=-1)
    return torch.cat([torch.ones_like(through[:, :1]), through[:, :-1]], dim=-1)


def composite(
    samples: Radiance,
    depths: Float[Tensor, "n s"],
    deltas: Float[Tensor, "n s"],
    noise: Noise = 0.0,
) -> Composite:
    """One field alone: w = T alpha.

    Args:
        samples: of the field; for a warped field those at the warped points.
        depths: z of the reference ray.
        deltas: from `intervals`.
        noise: on raw density.
    """
    weights = render_weights(samples.sigma_raw, deltas, noise)
    rgb = (weights[..., None] * samples.rgb_raw.sigmoid()).sum(-2)
    return Composite(rgb, (weights * depths).sum(-1), weights)


def render_weights(
    sigma_raw: Float[Tensor, "n s"], deltas: Float[Tensor, "n s"], noise: Noise = 0.0
) -> Float[Tensor, "n s"]:
    """w = T alpha of one field."""
    alpha = opacity(sigma_raw, deltas, noise)
    return alpha * transmittance(1.0 - alpha)


def blended_weights(
    sigma_static: Float[Tensor, "n s"],
    blend_w: Float[Tensor, "n s"],
    sigma_dynamic: Float[Tensor, "n s"],
    deltas: Float[Tensor, "n s"],
    noise: Noise = 0.0,
) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n s"]]:
    """Weights of the static and of the dynamic samples, each opacity scaled by its share of the blend weight."""
    alpha_dynamic = opacity(sigma_dynamic, deltas, noise) * blend_w
    alpha_static = opacity(sigma_static, deltas, noise) * (1.0 - blend_w)
    through = transmittance((1.0 - alpha_dynamic) * (1.0 - alpha_static))
    return through * alpha_static, through * alpha_dynamic


def composite_blended(
    static: StaticSamples,
    dynamic: Radiance,
    depths: Float[Tensor, "n s"],
    deltas: Float[Tensor, "n s"],
    noise: Noise = 0.0,
) -> BlendedComposite:
    """Both fields together."""
    weights_static, weights_dynamic = blended_weights(
        static.sigma_raw, static.blend_w, dynamic.sigma_raw, deltas, noise
    )
    of_dynamic = (weights_dynamic[..., None] * dynamic.rgb_raw.sigmoid()).sum(-2)
    of_static = (weights_static[..., None] * static.rgb_raw.sigmoid()).sum(-2)
    depth = ((weights_dynamic + weights_static) * depths).sum(-1)
    return BlendedComposite(of_dynamic + of_static, depth, weights_dynamic.sum(-1), of_dynamic)
