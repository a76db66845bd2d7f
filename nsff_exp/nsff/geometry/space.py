"""Normalised device coordinates (NDC) and the way back to the world."""

import torch
from jaxtyping import Float
from torch import Tensor

from nsff.geometry.poses import Intrinsics

NEAR = 1.0  # near plane of NDC, in scaled world units


def to_ndc(
    origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], intrinsics: Intrinsics
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """NDC rays (NeRF, arXiv:2003.08934, appendix C, equations 25 and 26).

    Note:
        The direction is not unit: z = 1 along it is infinity in the world.
    """
    shift = -(NEAR + origins[:, 2]) / directions[:, 2]
    x, y, z = (origins + shift[:, None] * directions).unbind(-1)
    dx, dy, dz = directions.unbind(-1)
    sx, sy = -2.0 * intrinsics.focal / intrinsics.width, -2.0 * intrinsics.focal / intrinsics.height
    origins_ndc = torch.stack([sx * x / z, sy * y / z, 1.0 + 2.0 * NEAR / z], dim=-1)
    directions_ndc = torch.stack([sx * (dx / dz - x / z), sy * (dy / dz - y / z), -2.0 * NEAR / z], dim=-1)
    return origins_ndc, directions_ndc


def ndc_to_world(points_ndc: Float[Tensor, "*b 3"], intrinsics: Intrinsics) -> Float[Tensor, "*b 3"]:
    """Inverse of NDC: z_world = 2 / (z_ndc - 1 + 1e-6).

    Note:
        The published constant 1e-6 is kept. Beyond z_ndc = 1 the result lies behind the camera; in float32 the
        denominator never is exactly 0.
    """
    x, y, z = points_ndc.unbind(-1)
    z_world = 2.0 * NEAR / (z - 1.0 + 1e-6)
    x_world = -x * z_world * intrinsics.width / (2.0 * intrinsics.focal)
    y_world = -y * z_world * intrinsics.height / (2.0 * intrinsics.focal)
    return torch.stack([x_world, y_world, z_world], dim=-1)
