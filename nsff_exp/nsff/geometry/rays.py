"""Rays of a camera, normalised device coordinates (NDC), and the way back to the world and to pixels."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from nsff.geometry.poses import Intrinsics
from nsff.geometry.space import ndc_to_world, to_ndc


@dataclasses.dataclass(frozen=True)
class RayBundle:
    """n rays. `origins_ndc + z * directions_ndc`, z in [0, 1], runs from the near plane to infinity.

    `viewdirs` are unit vectors taken in the world, before NDC.
    """

    origins_ndc: Float[Tensor, "n 3"]
    directions_ndc: Float[Tensor, "n 3"]
    viewdirs: Float[Tensor, "n 3"]

    def __len__(self) -> int:
        return len(self.origins_ndc)

    def __getitem__(self, rows: slice | Tensor) -> "RayBundle":
        return RayBundle(self.origins_ndc[rows], self.directions_ndc[rows], self.viewdirs[rows])

    def points_ndc(self, depths: Float[Tensor, "n s"]) -> Float[Tensor, "n s 3"]:
        """Points at the given depths z (0..1)."""
        return self.origins_ndc[:, None] + depths[..., None] * self.directions_ndc[:, None]


def pixel_grid(intrinsics: Intrinsics, device: torch.device) -> Float[Tensor, "n 2"]:
    """(right, down) of all pixels, row-major, starting at integer 0."""
    down = torch.arange(intrinsics.height, device=device, dtype=torch.float32)
    right = torch.arange(intrinsics.width, device=device, dtype=torch.float32)
    vertical, horizontal = torch.meshgrid(down, right, indexing="ij")
    return torch.stack([horizontal, vertical], dim=-1).reshape(-1, 2)


def camera_rays(
    uv: Float[Tensor, "n 2"], c2w: Float[Tensor, "*n 3 4"], intrinsics: Intrinsics
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Origins and directions in the world; directions have length 1 along the viewing axis, not unit length.

    `c2w` is one camera, or one for each ray.
    """
    right = (uv[:, 0] - intrinsics.width * 0.5) / intrinsics.focal
    up = -(uv[:, 1] - intrinsics.height * 0.5) / intrinsics.focal
    directions_cam = torch.stack([right, up, -torch.ones_like(right)], dim=-1)
    directions = (directions_cam[:, None, :] * c2w[..., :3]).sum(-1)
    return c2w[..., 3].expand_as(directions), directions


def make_rays(
    uv: Float[Tensor, "n 2"], c2w: Float[Tensor, "*n 3 4"], intrinsics: Intrinsics, ndc: Intrinsics | None = None
) -> RayBundle:
    """The rays through pixels `uv` of the camera `c2w`, or each of a camera of its own.

    `ndc` is the camera that NDC is made for, if it is another than the one that looks.
    """
    origins, directions = camera_rays(uv, c2w, intrinsics)
    viewdirs = directions / directions.norm(dim=-1, keepdim=True)
    return RayBundle(*to_ndc(origins, directions, ndc or intrinsics), viewdirs)


def world_to_camera(points_world: Float[Tensor, "*b 3"], c2w: Float[Tensor, "3 4"]) -> Float[Tensor, "*b 3"]:
    """Points in the axes (right, up, back) of a camera."""
    return (points_world - c2w[:, 3]) @ c2w[:, :3]


def project(points_cam: Float[Tensor, "*b 3"], intrinsics: Intrinsics) -> Float[Tensor, "*b 2"]:
    """Pixel (right, down) of points in camera axes."""
    x, y, z = points_cam.unbind(-1)
    right = -x / z * intrinsics.focal + intrinsics.width * 0.5
    down = y / z * intrinsics.focal + intrinsics.height * 0.5
    return torch.stack([right, down], dim=-1)


def expected_pixel(
    weights: Float[Tensor, "n s"], points_ndc: Float[Tensor, "n s 3"], c2w: Float[Tensor, "3 4"], intrinsics: Intrinsics
) -> Float[Tensor, "n 2"]:
    """Pixel (right, down) at which a camera sees the expected point of each ray, the weighted sum of its samples."""
    expected_world = ndc_to_world((weights[..., None] * points_ndc).sum(-2), intrinsics)
    return project(world_to_camera(expected_world, c2w), intrinsics)


@dataclasses.dataclass(frozen=True)
class Camera:
    """What a frame is seen with: a pose, size and focal length of the frame, and those that NDC is made for."""

    c2w: Float[Tensor, "3 4"]
    intrinsics: Intrinsics
    ndc_intrinsics: Intrinsics  # of the camera that filmed

    @property
    def n_pixels(self) -> int:
        return self.intrinsics.height * self.intrinsics.width

    def pixels(self) -> Float[Tensor, "n 2"]:
        """(right, down) of all pixels, row-major."""
        return pixel_grid(self.intrinsics, self.c2w.device)

    def rays(self) -> RayBundle:
        """Through all pixels, row-major."""
        return make_rays(self.pixels(), self.c2w, self.intrinsics, self.ndc_intrinsics)

    def image(self, points_world: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 2"]:
        """Where in the frame points of the world are seen, (right, down)."""
        return project(world_to_camera(points_world, self.c2w), self.intrinsics)

    def motion(
        self, points_ndc: Float[Tensor, "*b 3"], flow_ndc: Float[Tensor, "*b 3"], share: float = 1.0
    ) -> Float[Tensor, "*b 2"]:
        """Pixels (right, down) that points move by when they go a share of their scene flow, straight in the world."""
        start, end = (
            ndc_to_world(points_ndc, self.ndc_intrinsics),
            ndc_to_world(points_ndc + flow_ndc, self.ndc_intrinsics),
        )
        return self.image(start + share * (end - start)) - self.image(start)
