"""Depths of samples along rays: uniform, or importance-sampled from a coarse density pass."""

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nsff.config import Config
from nsff.fields import Fields
from nsff.geometry.rays import RayBundle
from nsff.rendering.volume_rendering import blended_weights, render_weights

Time = float | Float[Tensor, ""]  # of the dynamic field, -1..1
FARTHEST_ADDED = 0.999  # depth s; samples around a prior stay before it
UNIFORM_FRACTION = 0.2  # of the sampling density kept uniform, so that every depth may be sampled


@dataclasses.dataclass(frozen=True)
class DepthSampling:
    """Numbers of samples per ray.

    With `n_coarse` > 0, densities are first evaluated without gradient at `n_coarse` depths per ray, and the
    `n_samples` depths follow the weights found there; with 0 they are uniform, as published.
    """

    n_samples: int
    n_coarse: int
    perturb: float  # 0 = no jitter; any other value jitters fully, as published

    @staticmethod
    def of(config: Config) -> "DepthSampling":
        """Take the numbers that the options give for the kind of field."""
        if config.importance:
            return DepthSampling(config.hash_samples, config.hash_coarse_samples, config.perturb)
        return DepthSampling(config.N_samples, 0, config.perturb)

    def without_jitter(self) -> "DepthSampling":
        """Copy without jitter, for everything but training."""
        return dataclasses.replace(self, perturb=0.0)


def sample_depths(
    n_rays: int, n_samples: int, perturb: float, generator: torch.Generator | None, device: torch.device
) -> Float[Tensor, "n s"]:
    """Sample depths uniformly in [0, 1] of the ray, both ends included.

    Args:
        n_rays: number of rays.
        n_samples: samples per ray.
        perturb: 0 = evenly spaced; any other value jitters each depth between the mid-points to its neighbours.
        generator: source of the jitter, on `device`.
        device: of the result.
    """
    depths = torch.linspace(0.0, 1.0, n_samples, device=device).expand(n_rays, n_samples)
    if perturb == 0.0:
        return depths
    middle = 0.5 * (depths[:, 1:] + depths[:, :-1])
    upper = torch.cat([middle, depths[:, -1:]], dim=-1)
    lower = torch.cat([depths[:, :1], middle], dim=-1)
    return lower + (upper - lower) * torch.rand(n_rays, n_samples, generator=generator, device=device)


def stratified_depths(
    n_rays: int, n_bins: int, perturb: float, generator: torch.Generator | None, device: torch.device
) -> Float[Tensor, "n m"]:
    """Sample one depth in each of `n_bins` equal bins of [0, 1]: its middle, or at random if `perturb` is not 0."""
    within = torch.rand(n_rays, n_bins, generator=generator, device=device) if perturb else 0.5
    return (torch.arange(n_bins, device=device, dtype=torch.float32) + within).expand(n_rays, n_bins) / n_bins


def blur_weights(weights: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """Dilate and blur the weights of bins: one sample per bin may miss the surface by up to a bin.

    Maximum of neighbours, then mean of neighbours (mip-NeRF, arXiv:2103.13415, section 3.1).
    """
    padded = F.pad(weights[:, None], (1, 1), mode="replicate")[:, 0]
    larger = torch.maximum(padded[:, 1:], padded[:, :-1])
    return 0.5 * (larger[:, 1:] + larger[:, :-1])


def dilate_and_normalise(weights: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """Blur the weights of bins and scale each ray's to a sum of 1; all-zero weights stay 0."""
    blurred = blur_weights(weights)
    return blurred / blurred.sum(-1, keepdim=True).clamp(min=1e-6)


def importance_depths(
    pdf: Float[Tensor, "n m"], n_samples: int, perturb: float, generator: torch.Generator | None
) -> Float[Tensor, "n s"]:
    """Draw sorted depths from a piecewise-constant PDF over m equal bins of [0, 1], by inverting its CDF.

    Args:
        pdf: not negative; rows need not sum to 1. `UNIFORM_FRACTION` of a uniform density is mixed in.
        n_samples: samples per ray.
        perturb: 0 = at even quantiles; any other value jitters the quantiles within their steps.
        generator: source of the jitter, on the device of `pdf`.
    """
    n_rays, n_bins = pdf.shape
    normalised = (1.0 - UNIFORM_FRACTION) * pdf / pdf.sum(-1, keepdim=True).clamp(min=1e-6)
    cdf = F.pad((normalised + UNIFORM_FRACTION / n_bins).cumsum(-1), (1, 0))
    cdf = cdf / cdf[:, -1:]
    quantiles = stratified_depths(n_rays, n_samples, perturb, generator, pdf.device).contiguous()
    index = torch.searchsorted(cdf, quantiles, right=True).clamp(1, n_bins) - 1
    start, end = cdf.gather(1, index), cdf.gather(1, index + 1)
    return (index + (quantiles - start) / (end - start)) / n_bins


def add_prior_depths(
    depths: Float[Tensor, "n s"],
    prior: Float[Tensor, " n"],
    std: Float[Tensor, " n"],
    n_samples: int,
    generator: torch.Generator | None,
) -> Float[Tensor, "n t"]:
    """Add samples around the prior depth of each ray.

    Args:
        depths: sorted, 0..1.
        prior: depth of the prior, 0..1.
        std: standard deviation of the samples around it.
        n_samples: to add to each ray.
        generator: source of the samples, on the device of the rays.

    Returns:
        All depths, sorted; t = s + n_samples. Those added are 0..`FARTHEST_ADDED`, reflected at both ends.

    Note:
        Clamped to 1, all of a wide normal distribution's tail would lie at infinity, where the least scene flow is
        millions of world units in the smoothness terms.
    """
    offsets = torch.randn(len(depths), n_samples, generator=generator, device=depths.device)
    around = (prior[:, None] + std[:, None] * offsets).abs()
    around = (FARTHEST_ADDED - (FARTHEST_ADDED - around).abs()).clamp(min=0.0)
    return torch.cat([depths, around], dim=-1).sort(dim=-1).values


def density_noise(
    shape: tuple[int, int], std: float, generator: torch.Generator | None, device: torch.device
) -> Float[Tensor, "n s"] | float:
    """Draw Gaussian noise for raw density, which keeps early training from collapsing to empty space; 0.0 without."""
    return std * torch.randn(*shape, generator=generator, device=device) if std else 0.0


@dataclasses.dataclass(frozen=True)
class CoarseSamples:
    """One sample in each of m equal depth bins per ray, at which densities alone are evaluated."""

    points: Float[Tensor, "n m 3"]
    deltas: Float[Tensor, "n m"]  # length of a bin in units of the space, also of the last and with jitter

    @staticmethod
    def along(
        rays: RayBundle, n_bins: int, perturb: float = 0.0, generator: torch.Generator | None = None
    ) -> "CoarseSamples":
        """Place the samples: mid-bin, or jittered within the bins if `perturb` is not 0."""
        depths = stratified_depths(len(rays), n_bins, perturb, generator, rays.origins.device)
        edges = torch.linspace(0.0, 1.0, n_bins + 1, device=depths.device).expand(len(rays), -1)
        return CoarseSamples(rays.points(depths), rays.lengths(edges))

    def weights(
        self,
        sigma_static: Float[Tensor, "n m"],
        blend_w: Float[Tensor, "n m"],
        sigma_dynamic: Float[Tensor, "n m"],
        opaque_end: bool = False,
    ) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
        """Compute the weights of the static and of the dynamic field in each bin.

        Args:
            sigma_static: raw density.
            blend_w: 0..1, 1 = dynamic.
            sigma_dynamic: raw density.
            opaque_end: add the remaining transmittance to the last bin of both fields: the sample at infinity is
                opaque, and the middle of the last bin cannot show to which field it belongs.

        Note:
            Training leaves `opaque_end` off: it would move most samples of rays through empty space to infinity.
        """
        static, dynamic = blended_weights(sigma_static, blend_w, sigma_dynamic, self.deltas)
        if opaque_end:
            remaining = 1.0 - (static + dynamic).sum(-1)
            static[:, -1] += remaining
            dynamic[:, -1] += remaining
        return static, dynamic


CoarseDensity = Callable[[CoarseSamples], Float[Tensor, "n m"]]


@torch.no_grad()
def coarse_to_fine_depths(
    coarse_density: CoarseDensity, rays: RayBundle, sampling: DepthSampling, generator: torch.Generator | None
) -> Float[Tensor, "n s"]:
    """Sample depths from a coarse density pass, or uniformly if `sampling.n_coarse` is 0.

    Args:
        coarse_density: sampling density of each bin, any scale.
        rays: n.
        sampling: numbers of samples, and jitter.
        generator: source of the jitter, on the device of the rays.
    """
    if not sampling.n_coarse:
        return sample_depths(len(rays), sampling.n_samples, sampling.perturb, generator, rays.origins.device)
    samples = CoarseSamples.along(rays, sampling.n_coarse, sampling.perturb, generator)
    return importance_depths(coarse_density(samples), sampling.n_samples, sampling.perturb, generator)


def choose_depths(
    fields: Fields, rays: RayBundle, time: Time, sampling: DepthSampling, generator: torch.Generator | None = None
) -> Float[Tensor, "n s"]:
    """Sample the depths of a frame's rays.

    After a coarse pass, half of the samples follow the weights of the blended fields and half those of the dynamic
    field by itself: the losses use both renders.

    Args:
        fields: static and dynamic.
        rays: n.
        time: of the frame, -1..1.
        sampling: numbers of samples, and jitter.
        generator: source of the jitter, on the device of the rays.
    """

    def coarse_density(samples: CoarseSamples) -> Tensor:
        points = samples.points
        sigma_dynamic = fields.dynamic.geometry(points, torch.zeros_like(points[:, 0, 0]) + time)
        weights_static, weights_dynamic = samples.weights(*fields.static.geometry(points), sigma_dynamic)
        dynamic_only = render_weights(sigma_dynamic, samples.deltas)
        return dilate_and_normalise(weights_static + weights_dynamic) + dilate_and_normalise(dynamic_only)

    return coarse_to_fine_depths(coarse_density, rays, sampling, generator)
