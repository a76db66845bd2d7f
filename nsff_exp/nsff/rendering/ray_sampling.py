"""Depths along a ray: uniform, or where a first look found something."""

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nsff.config import Config
from nsff.fields import Fields
from nsff.geometry.rays import RayBundle
from nsff.rendering.volume_rendering import (
    blended_weights,
    render_weights,
)

UNIFORM_SHARE = 0.2  # of the importance samples: nothing is ever out of sight


@dataclasses.dataclass(frozen=True)
class DepthSampling:
    """How many depths a ray gets.

    With `n_coarse` > 0 the fields are first looked at, without gradient, at so many depths, and the `n_samples` are
    drawn where that found weight; else they are uniform, as published.
    """

    n_samples: int
    n_coarse: int
    perturb: float

    @staticmethod
    def of(config: Config) -> "DepthSampling":
        if config.importance:
            return DepthSampling(config.hash_samples, config.hash_coarse_samples, config.perturb)
        return DepthSampling(config.N_samples, 0, config.perturb)

    def without_jitter(self) -> "DepthSampling":
        """The same without jitter, for everything but training."""
        return dataclasses.replace(self, perturb=0.0)


def sample_depths(
    n_rays: int, n_samples: int, perturb: float, generator: torch.Generator | None, device: torch.device
) -> Float[Tensor, "n s"]:
    """Depths uniform in [0, 1] of the NDC ray; jittered between mid-points if `perturb` > 0.

    Args:
        n_rays: rows.
        n_samples: depths a ray, from 0 to 1 inclusive.
        perturb: 0 = none; any other value jitters fully, as published.
        generator: source of the jitter, on `device`.
        device: where.
    """
    depths = torch.linspace(0.0, 1.0, n_samples, device=device).expand(n_rays, n_samples)
    if perturb == 0.0:
        return depths
    middle = 0.5 * (depths[:, 1:] + depths[:, :-1])
    upper = torch.cat([middle, depths[:, -1:]], dim=-1)
    lower = torch.cat([depths[:, :1], middle], dim=-1)
    return lower + (upper - lower) * torch.rand(n_rays, n_samples, generator=generator, device=device)


def stratified_depths(
    n_rays: int, n_spans: int, perturb: float, generator: torch.Generator | None, device: torch.device
) -> Float[Tensor, "n m"]:
    """One depth in each of `n_spans` equal spans of [0, 1]: its middle, or anywhere if `perturb` > 0."""
    within = torch.rand(n_rays, n_spans, generator=generator, device=device) if perturb else 0.5
    return (torch.arange(n_spans, device=device, dtype=torch.float32) + within).expand(n_rays, n_spans) / n_spans


def spread(weights: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """Weights of spans, spread to their neighbours: a span was seen at one depth only.

    Source: mip-NeRF, arXiv:2103.13415, section 3.1.
    """
    padded = F.pad(weights[:, None], (1, 1), mode="replicate")[:, 0]
    larger = torch.maximum(padded[:, 1:], padded[:, :-1])
    return 0.5 * (larger[:, 1:] + larger[:, :-1])


def dilate_and_normalise(weights: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """Weights of spans, spread to the neighbours and summing to 1."""
    wide = spread(weights)
    return wide / wide.sum(-1, keepdim=True).clamp(min=1e-6)


def importance_depths(
    density: Float[Tensor, "n m"], n_samples: int, perturb: float, generator: torch.Generator | None
) -> Float[Tensor, "n s"]:
    """Sorted depths distributed as `density` over m equal spans of [0, 1], by the inverse of its cumulative sum.

    Args:
        density: not negative; rows need not sum to 1.
        n_samples: depths a ray.
        perturb: 0 = at even steps of the cumulative sum; else jittered within the steps.
        generator: source of the jitter.
    """
    n_rays, n_spans = density.shape
    mixed = (1.0 - UNIFORM_SHARE) * density / density.sum(-1, keepdim=True).clamp(min=1e-6) + UNIFORM_SHARE / n_spans
    below = F.pad(mixed.cumsum(-1), (1, 0))
    below = below / below[:, -1:]
    wanted = stratified_depths(n_rays, n_samples, perturb, generator, density.device).contiguous()
    span = torch.searchsorted(below, wanted, right=True).clamp(1, n_spans) - 1
    start, end = below.gather(1, span), below.gather(1, span + 1)
    return (span + (wanted - start) / (end - start)) / n_spans


def density_noise(
    shape: tuple[int, int], std: float, generator: torch.Generator | None, device: torch.device
) -> Float[Tensor, "n s"] | float:
    """Gaussian noise on raw density, which keeps early training from settling on empty space; 0.0 if `std` is 0."""
    return std * torch.randn(*shape, generator=generator, device=device) if std else 0.0


DensityPass = Callable[[Float[Tensor, "n m 3"], Float[Tensor, "n m"]], Float[Tensor, "n m"]]


@torch.no_grad()
def _coarse_to_fine_depths(
    look: DensityPass, rays: RayBundle, sampling: DepthSampling, generator: torch.Generator | None
) -> Float[Tensor, "n s"]:
    """Depths that follow the density which `look` finds at (points, intervals); uniform ones without a look."""
    n_rays, device = len(rays), rays.origins_ndc.device
    if not sampling.n_coarse:
        return sample_depths(n_rays, sampling.n_samples, sampling.perturb, generator, device)
    depths = stratified_depths(n_rays, sampling.n_coarse, sampling.perturb, generator, device)
    deltas = (rays.directions_ndc.norm(dim=-1, keepdim=True) / sampling.n_coarse).expand_as(depths)
    density = look(rays.points_ndc(depths), deltas)
    return importance_depths(density, sampling.n_samples, sampling.perturb, generator)


def choose_depths(
    fields: Fields, rays: RayBundle, time: float, sampling: DepthSampling, generator: torch.Generator | None = None
) -> Float[Tensor, "n s"]:
    """Depths of the samples of each ray.

    After a first look, half of them follow the union of both fields and half the dynamic field alone: the losses look
    at both.

    Args:
        fields: static and dynamic.
        rays: n.
        time: of the frame.
        sampling: how many.
        generator: source of the jitter, on the device of the rays.
    """

    def look(points_ndc: Tensor, deltas: Tensor) -> Tensor:
        dynamic = fields.dynamic.geometry(points_ndc, points_ndc.new_full((len(rays),), time))
        static, blend_w = fields.static.geometry(points_ndc)
        of_static, of_dynamic = blended_weights(static, blend_w, dynamic, deltas)
        return dilate_and_normalise(of_static + of_dynamic) + dilate_and_normalise(render_weights(dynamic, deltas))

    return _coarse_to_fine_depths(look, rays, sampling, generator)
