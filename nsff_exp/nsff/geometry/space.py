"""Spaces in which the fields live: normalised device coordinates (NDC, as published), and a contracted Euclidean one.

The rest of the code meets them through `Space` alone. Along a ray, s runs from 0 at the near plane to 1 at infinity,
linear in disparity in both, so that depth and flow losses, samples and priors keep their form.
"""

import abc
import dataclasses
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nsff.errors import InputError
from nsff.geometry.ndc import NEAR, RayTensors, ndc_to_world, to_ndc
from nsff.geometry.poses import Intrinsics, Pose, Poses

MAX_REACH = 0.5  # largest part of the distance to infinity that scene flow covers in a frame: the depth doubles
MIN_FORWARD_COSINE = 0.05  # between a ray and the forward axis of the scene; NDC breaks down below
# Of the unit ball. With 1, what moves in the built-in scene, 4 near planes away, was 1 dB worse (600 steps, one run).
MIN_RADIUS = 2.0 * NEAR
MAX_RADIUS = 300.0  # in near planes; beyond, almost all samples would lie before anything that the cameras see
INFINITY = 2.0  # radius at which the contracted space has infinity
MIN_FROM_INFINITY = 1e-6  # points nearer to infinity, or beyond it, are taken to be this far from it, as published
FAR_END = 0.999  # depth s that stands for infinity, 1000 near planes away: at 1 gradients are lost in rounding errors


class Space(abc.ABC):
    """Space in which the fields live.

    A space represents a ray by two vectors of its own, from `rays`, which the other methods take as `origins` and
    `directions`. Rays are not straight lines in every space.

    Attributes:
        name: in messages.
        extent: half the extent of the fields' grids per axis; farther out, features are those of the border.
        flow_slope: per axis, the factor inside of tanh with which `bounded_flow` has the slope of the raw output at 0.
        has_common_planes: points of equal depth s form planes that are the same for all cameras.
    """

    name: ClassVar[str]
    extent: ClassVar[tuple[float, float, float]]
    flow_slope: ClassVar[tuple[float, float, float]]
    has_common_planes: ClassVar[bool]

    @classmethod
    @abc.abstractmethod
    def around(cls, c2w: Poses, intrinsics: Intrinsics) -> "Space":
        """The space of a scene, from its recentred cameras in scaled world units."""

    @abc.abstractmethod
    def rays(self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]) -> RayTensors:
        """Represent rays of the scaled world; directions have component 1 along the viewing axis of their camera."""

    @abc.abstractmethod
    def points(
        self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], depths: Float[Tensor, "n s"]
    ) -> Float[Tensor, "n s 3"]:
        """Points at depths s (0..1) along rays that `rays` gave."""

    @abc.abstractmethod
    def lengths(
        self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], depths: Float[Tensor, "n s"]
    ) -> Float[Tensor, "n s-1"]:
        """Lengths from each depth s (0..1) along rays to the next, in units of the space, those of density."""

    @abc.abstractmethod
    def whole_length(self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 1"]:
        """Lengths from the near plane to infinity, in units of the space."""

    @abc.abstractmethod
    def to_world(self, points: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
        """Convert points to the scaled world."""

    @abc.abstractmethod
    def depth(
        self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], inverse_depth: Float[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Depth s (0..1) along rays of the scaled world at inverse depths along the viewing axis of their camera.

        Points before the near plane are put on it.
        """

    @abc.abstractmethod
    def expected(
        self,
        weights: Float[Tensor, "n s"],
        points: Float[Tensor, "*k n s 3"],
        origins: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n 3"],
    ) -> Float[Tensor, "*k n 3"]:
        """Expected point of each ray: the sum of its samples, or of k sets of them, by weight."""

    @staticmethod
    @abc.abstractmethod
    def bounded_flow(points: Float[Tensor, "m 3"], flow: Float[Tensor, "m k 3"]) -> Float[Tensor, "m k 3"]:
        """Bound k scene flows of each point, so that none leads to infinity or beyond.

        There the world's depth grows without bound, and the smoothness terms explode.

        Args:
            points: in the space.
            flow: between -1 and 1: tanh(`flow_slope` * raw).
        """

    @abc.abstractmethod
    def blind_spot(self, c2w: Pose, intrinsics: Intrinsics) -> str | None:
        """Say what a recentred camera sees or does that the space cannot represent, and the remedy; None if nothing."""


@dataclasses.dataclass(frozen=True)
class NdcSpace(Space):
    """NDC as published: the half-space in front of the average camera, between x, y, z = -1 and 1 in its view.

    A ray is `origin + s * direction`, see `to_ndc`.
    """

    intrinsics: Intrinsics  # of the training frames

    name = "NDC"
    extent = (1.5, 1.5, 1.05)  # beyond 1, because rays of other cameras and warped points leave +-1
    flow_slope = (1.0, 1.0, 1.0 / MAX_REACH)
    has_common_planes = True

    @classmethod
    def around(cls, c2w: Poses, intrinsics: Intrinsics) -> "NdcSpace":
        return cls(intrinsics)

    def rays(self, origins: Tensor, directions: Tensor) -> RayTensors:
        return to_ndc(origins, directions, self.intrinsics)

    def points(self, origins: Tensor, directions: Tensor, depths: Tensor) -> Tensor:
        return torch.addcmul(origins[:, None], depths[..., None], directions[:, None])

    def lengths(self, origins: Tensor, directions: Tensor, depths: Tensor) -> Tensor:
        return (depths[:, 1:] - depths[:, :-1]) * self.whole_length(origins, directions)

    def whole_length(self, origins: Tensor, directions: Tensor) -> Tensor:
        return directions.norm(dim=-1, keepdim=True)

    def to_world(self, points: Tensor) -> Tensor:
        return ndc_to_world(points, self.intrinsics)

    def depth(self, origins: Tensor, directions: Tensor, inverse_depth: Tensor) -> Tensor:
        """With (o, d) the ray, z_world = -(o_z + d_z / inverse depth), and s is 1 - 1 / z_world."""
        z_world = -(origins[:, 2] + directions[:, 2] / inverse_depth)
        return torch.where(z_world > NEAR, 1.0 - NEAR / z_world.clamp(min=NEAR), 0.0)

    def expected(self, weights: Tensor, points: Tensor, origins: Tensor, directions: Tensor) -> Tensor:
        """As published: weights that sum to less than 1 draw the point towards the middle of NDC."""
        return (weights[..., None] * points).sum(-2)

    @staticmethod
    def bounded_flow(points: Tensor, flow: Tensor) -> Tensor:
        """In z, flow is relative to the distance from infinity (z = 1) and at most `MAX_REACH` of it."""
        remaining = torch.relu(torch.rsub(points[:, 2:], MAX_REACH, alpha=MAX_REACH))
        return flow * torch.nn.functional.pad(remaining, (2, 0), value=1.0)[:, None]

    def blind_spot(self, c2w: Pose, intrinsics: Intrinsics) -> str | None:
        """Name a corner of the frame that faces sideways or backwards, or a camera beyond the near plane."""
        right, up = 0.5 * intrinsics.width / intrinsics.focal, 0.5 * intrinsics.height / intrinsics.focal
        corners = np.array([[x, y, -1.0] for x in (-right, right) for y in (-up, up)]) @ c2w[:, :3].T
        if (corners[:, 2] > -MIN_FORWARD_COSINE * np.linalg.norm(corners, axis=1)).any():
            return (
                "looks sideways or backwards at a corner of its frame; turn it towards the scene, which lies in front "
                "of the video's cameras"
            )
        if c2w[2, 3] <= -NEAR:
            return "is beyond the near plane, inside the scene; move it back"
        return None


@dataclasses.dataclass(frozen=True)
class ContractedSpace(Space):
    """All of the world in a ball of radius 2: x inside the unit ball, (2 - 1 / |x|) x / |x| outside of it.

    x is the scaled world divided by `radius`. Source: mip-NeRF 360, arXiv:2111.12077, section 3.1, equation 10.

    Depth s along a ray is 1 - NEAR / depth along the viewing axis. The ray is a straight line inside the unit ball and
    curved outside of it.
    """

    radius: float  # of the unit ball, in scaled world units

    name = "contracted space"
    extent = (INFINITY, INFINITY, INFINITY)
    flow_slope = (1.0, 1.0, 1.0)
    has_common_planes = False

    @classmethod
    def around(cls, c2w: Poses, intrinsics: Intrinsics) -> "ContractedSpace":
        """Put all cameras into the unit ball, as mip-NeRF 360 does; its radius is at least `MIN_RADIUS`.

        Raises:
            InputError: the path of the cameras is too long for a scene whose near plane is at 1.
        """
        farthest = float(np.linalg.norm(c2w[:, :, 3], axis=1).max())
        if farthest > MAX_RADIUS:
            raise InputError(
                f"the cameras stray {farthest:.0f} times as far as the nearest thing is away: one is inside of an "
                "object, or the near bounds of poses_bounds.npy are wrong; run save_poses_nerf.py, or leave frames out"
            )
        return cls(max(MIN_RADIUS, farthest))

    def rays(self, origins: Tensor, directions: Tensor) -> RayTensors:
        return origins / self.radius, directions * (NEAR / self.radius)

    def points(self, origins: Tensor, directions: Tensor, depths: Tensor) -> Tensor:
        """The point x = q / u at depth NEAR / u, u = 1 - s: neither side of the ball divides by 0 at infinity."""
        u = (1.0 - depths)[..., None]
        q = u * origins[:, None] + directions[:, None]
        length = q.norm(dim=-1, keepdim=True)
        inside = length <= u
        outer = torch.where(inside, 1.0, length)
        return torch.where(inside, q / torch.where(inside, u, 1.0), (INFINITY - u / outer) * (q / outer))

    def lengths(self, origins: Tensor, directions: Tensor, depths: Tensor) -> Tensor:
        """Of the chords, which neighbouring samples make short."""
        return self.points(origins, directions, depths).diff(dim=1).norm(dim=-1)

    def whole_length(self, origins: Tensor, directions: Tensor) -> Tensor:
        return self.lengths(
            origins, directions, torch.linspace(0.0, 1.0, 2, device=origins.device).expand(len(origins), 2)
        )

    def to_world(self, points: Tensor) -> Tensor:
        """Points beyond infinity are put there: 1e6 times `radius` away."""
        length = points.norm(dim=-1, keepdim=True)
        inside = length <= 1.0
        outer = torch.where(inside, 1.0, length)
        return self.radius * torch.where(
            inside, points, points / (outer * (INFINITY - outer).clamp(min=MIN_FROM_INFINITY))
        )

    def depth(self, origins: Tensor, directions: Tensor, inverse_depth: Tensor) -> Tensor:
        return (1.0 - NEAR * inverse_depth).clamp(min=0.0)

    def expected(self, weights: Tensor, points: Tensor, origins: Tensor, directions: Tensor) -> Tensor:
        """Count what weights lack to a sum of 1 at the far end of the ray, `FAR_END` of the way to infinity.

        Unlike in NDC, the middle of the space lies among the cameras: a point that is drawn there may be behind one.

        Note:
            Rays are curved: between two far apart surfaces on a ray, the point lies beside it.
        """
        far = self.points(origins, directions, torch.full_like(origins[:, :1], FAR_END))[:, 0]
        return (weights[..., None] * points).sum(-2) + (1.0 - weights.sum(-1, keepdim=True)) * far

    @staticmethod
    def bounded_flow(points: Tensor, flow: Tensor) -> Tensor:
        """Flow leads away from the middle by at most `MAX_REACH` of the distance to infinity (radius 2)."""
        here, there = points.norm(dim=-1)[:, None, None], points[:, None] + flow
        length = there.norm(dim=-1, keepdim=True)
        reach = (MAX_REACH * (INFINITY - here)).clamp(min=MIN_FROM_INFINITY)
        bounded = torch.minimum(length, here + reach * (torch.relu(length - here) / reach).tanh())
        return there * (bounded / length.clamp(min=MIN_FROM_INFINITY)) - points[:, None]

    def blind_spot(self, c2w: Pose, intrinsics: Intrinsics) -> str | None:
        """None: all of the world is represented."""
        return None


def space_kind(no_ndc: bool) -> type[Space]:
    """The kind of space that `--no_ndc` asks for."""
    return ContractedSpace if no_ndc else NdcSpace
