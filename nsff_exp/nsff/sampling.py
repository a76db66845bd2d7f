"""Depths along a ray."""

import torch
from jaxtyping import Float
from torch import Tensor


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


def density_noise(
    shape: tuple[int, int], std: float, generator: torch.Generator | None, device: torch.device
) -> Float[Tensor, "n s"] | float:
    """Gaussian noise on raw density, which keeps early training from settling on empty space; 0.0 if `std` is 0."""
    return std * torch.randn(*shape, generator=generator, device=device) if std else 0.0
