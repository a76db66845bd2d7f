"""Measure how far the cameras of a video turn, and whether a space of the fields holds what they see."""

import dataclasses

import numpy as np

from nsff.errors import InputError
from nsff.geometry.poses import Intrinsics, Poses
from nsff.geometry.space import Space


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

    def describe(self) -> str:
        """Describe in words."""
        return (
            f"the cameras turn by {self.turn:.0f} degrees, and {len(self.blind)} of {self.n_cameras} stand or see "
            "beyond the near plane of NDC"
        )

    def check(self, scene: str) -> None:
        """Check that the space holds all that the cameras of a scene see.

        Raises:
            InputError: it does not.
        """
        if self.blind:
            raise InputError(f"{scene}: {self.describe()}: train with --no_ndc, or insist with --force_ndc")
