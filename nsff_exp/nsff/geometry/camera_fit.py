"""Measure how far the cameras of a video turn, and whether a space of the fields holds what they see."""

import dataclasses

import numpy as np
from jaxtyping import Float

from nsff.errors import InputError
from nsff.geometry.poses import Intrinsics, Poses, from_llff, recentre, scene_scale
from nsff.geometry.space import NdcSpace, Space


@dataclasses.dataclass(frozen=True)
class CameraFit:
    """Cameras of a video against a space.

    Attributes:
        turn: largest angle between the viewing axes of two cameras, degrees.
        blind: numbers of the cameras that see what the space cannot represent.
        n_cameras: all of them.
    """

    turn: float
    blind: tuple[int, ...]
    n_cameras: int

    @staticmethod
    def of(c2w: Poses, intrinsics: Intrinsics, space: Space) -> "CameraFit":
        """Measure the recentred cameras of a video, in scaled world units."""
        axes = c2w[:, :, 2].astype(np.float64)
        turn = float(np.degrees(np.arccos(np.clip(axes @ axes.T, -1.0, 1.0)).max()))
        blind = tuple(k for k, pose in enumerate(c2w) if space.blind_spot(pose, intrinsics) is not None)
        return CameraFit(turn, blind, len(c2w))

    @staticmethod
    def in_ndc(poses_bounds: Float[np.ndarray, "n 17"], bd_factor: float) -> "CameraFit":
        """Measure the cameras of `poses_bounds.npy` against NDC, its near plane at `bd_factor` of the near bound."""
        c2w, sizes_and_focals, bounds = from_llff(poses_bounds)
        height, width, focal = sizes_and_focals[0]
        intrinsics = Intrinsics(round(height), round(width), float(focal))
        c2w[:, :, 3] *= scene_scale(bounds, bd_factor)
        return CameraFit.of(recentre(c2w), intrinsics, NdcSpace(intrinsics))

    @property
    def space(self) -> str:
        """The space that fits: `ndc` or `contracted`."""
        return "contracted" if self.blind else "ndc"

    def describe(self) -> str:
        """Describe in words."""
        where = f"{len(self.blind)} of {self.n_cameras} look beside or behind NDC, or stand beyond its near plane"
        return f"the cameras turn by {self.turn:.0f} degrees, and {where if self.blind else 'all see within NDC'}"

    def check(self, scene: str) -> None:
        """Check that the space holds all that the cameras of a scene see.

        Raises:
            InputError: it does not.
        """
        if self.blind:
            raise InputError(f"{scene}: {self.describe()}: train with --no_ndc, or insist with --force_ndc")
