"""Normalised device coordinates (NDC, as published): rays and points, to and from the scaled world."""

import torch
from jaxtyping import Float
from torch import Tensor

from nsff.geometry.poses import Intrinsics

NEAR = 1.0  # near plane, in scaled world units: of the average camera in NDC, of every camera in the contracted space

RayTensors = tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]


def to_ndc(origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], intrinsics: Intrinsics) -> RayTensors:
    """Convert rays to NDC (NeRF, arXiv:2003.08934, appendix C, equations 25 and 26).

    Origins are first moved along the ray to the near plane. Projected points are not the NDC origin plus world depth
    times the NDC direction: depth along the NDC ray is linear in disparity.

    Args:
        origins: Ray origins in the scaled world.
        directions: Ray directions in the scaled world, of any length.
        intrinsics: Intrinsics that define NDC.

    Returns:
        Origins on the near plane (z = -1) and directions, whose z component is 2.

    Note:
        Directions are not unit vectors: `origin + direction` is the point at infinity in the world.
    """
    shift = -(NEAR + origins[:, 2]) / directions[:, 2]
    x, y, z = (origins + shift[:, None] * directions).unbind(-1)
    dx, dy, dz = directions.unbind(-1)
    sx, sy = -2.0 * intrinsics.focal / intrinsics.width, -2.0 * intrinsics.focal / intrinsics.height
    disparity = 2.0 * NEAR / z
    origins_ndc = torch.stack([sx * x / z, sy * y / z, 1.0 + disparity], dim=-1)
    directions_ndc = torch.stack([sx * (dx / dz - x / z), sy * (dy / dz - y / z), -disparity], dim=-1)
    return origins_ndc, directions_ndc


def ndc_to_world(points_ndc: Float[Tensor, "*b 3"], intrinsics: Intrinsics) -> Float[Tensor, "*b 3"]:
    """Convert points from NDC to the scaled world: z_world = 2 / (z_ndc - 1 + 1e-6).

    Note:
        The published constant 1e-6 is kept. Points beyond z_ndc = 1 end up behind the camera; the denominator is never
        exactly 0 in float32.
    """
    x, y, z = points_ndc.unbind(-1)
    z_world = 2.0 * NEAR / (z - 1.0 + 1e-6)
    per_x, per_y = -intrinsics.width / (2.0 * intrinsics.focal), -intrinsics.height / (2.0 * intrinsics.focal)
    return torch.stack([x * (per_x * z_world), y * (per_y * z_world), z_world], dim=-1)
