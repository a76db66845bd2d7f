"""Cast rays through pixels, in the world and in the space of the fields, and project points back."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from nsff.geometry.poses import Intrinsics
from nsff.geometry.space import Space


@dataclasses.dataclass(frozen=True)
class RayBundle:
    """n rays in the space of the fields; depth s along them runs from 0, the near plane, to 1, infinity.

    `origins` and `directions` are the representation of `Space.rays`. `viewdirs` are unit vectors in the axes of the
    scaled world, computed before the conversion.
    """

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    viewdirs: Float[Tensor, "n 3"]
    space: Space

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, rows: slice | Tensor) -> "RayBundle":
        return RayBundle(self.origins[rows], self.directions[rows], self.viewdirs[rows], self.space)

    def points(self, depths: Float[Tensor, "n s"]) -> Float[Tensor, "n s 3"]:
        """Points at depths s (0..1) along each ray."""
        return self.space.points(self.origins, self.directions, depths)

    def lengths(self, depths: Float[Tensor, "n s"]) -> Float[Tensor, "n s-1"]:
        """Lengths from each depth s (0..1) along each ray to the next, in units of the space."""
        return self.space.lengths(self.origins, self.directions, depths)

    def whole_length(self) -> Float[Tensor, "n 1"]:
        """Length of each ray from the near plane to infinity, in units of the space."""
        return self.space.whole_length(self.origins, self.directions)


def pixel_grid(intrinsics: Intrinsics, device: torch.device) -> Float[Tensor, "n 2"]:
    """Coordinates (right, down) of all pixels in row-major order, starting at integer 0."""
    down = torch.arange(intrinsics.height, device=device, dtype=torch.float32)
    right = torch.arange(intrinsics.width, device=device, dtype=torch.float32)
    vertical, horizontal = torch.meshgrid(down, right, indexing="ij")
    return torch.stack([horizontal, vertical], dim=-1).reshape(-1, 2)


def camera_rays(
    uv: Float[Tensor, "n 2"], c2w: Float[Tensor, "*n 3 4"], intrinsics: Intrinsics
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Compute ray origins and directions in the world.

    Args:
        uv: Pixel coordinates (right, down).
        c2w: One camera for all rays (3, 4), or one per ray (n, 3, 4).
        intrinsics: Intrinsics of the camera.

    Note:
        Directions are not unit vectors: their component along the viewing axis is 1, so that depths are along the axis.
    """
    right = (uv[:, 0] - intrinsics.width * 0.5) / intrinsics.focal
    up = (intrinsics.height * 0.5 - uv[:, 1]) / intrinsics.focal
    directions_cam = torch.stack([right, up, torch.full_like(right, -1.0)], dim=-1)
    directions = (directions_cam[:, None, :] * c2w[..., :3]).sum(-1)
    return c2w[..., 3].expand_as(directions), directions


def make_rays(
    uv: Float[Tensor, "n 2"],
    c2w: Float[Tensor, "*n 3 4"],
    intrinsics: Intrinsics,
    space: Space,
) -> RayBundle:
    """Cast the rays through pixels of one camera, or of one camera per ray, into the space of the fields.

    Args:
        uv: Pixel coordinates (right, down).
        c2w: One camera for all rays (3, 4), or one per ray (n, 3, 4).
        intrinsics: Intrinsics of the rendering camera.
        space: Of the fields.
    """
    origins, directions = camera_rays(uv, c2w, intrinsics)
    viewdirs = directions / directions.norm(dim=-1, keepdim=True)
    return RayBundle(*space.rays(origins, directions), viewdirs, space)


def world_to_camera(points_world: Float[Tensor, "*b 3"], c2w: Float[Tensor, "*n 3 4"]) -> Float[Tensor, "*b 3"]:
    """Transform points from the world to the axes (right, up, back) of one camera, or of one camera per point."""
    return rotate_to_camera(points_world - c2w[..., 3], c2w)


def rotate_to_camera(vectors: Float[Tensor, "*b 3"], c2w: Float[Tensor, "*n 3 4"]) -> Float[Tensor, "*b 3"]:
    """Rotate vectors from the world to the axes (right, up, back) of one camera, or of one camera per vector.

    Note:
        No matrix product: on CUDA those are rounded to TF32, tenths of a pixel after projection.
    """
    return (vectors[..., :, None] * c2w[..., :3]).sum(-2)


def project(points_cam: Float[Tensor, "*b 3"], intrinsics: Intrinsics) -> Float[Tensor, "*b 2"]:
    """Project points in camera axes to pixels (right, down)."""
    x, y, z = points_cam.unbind(-1)
    pixels_per_unit = intrinsics.focal / z
    right, down = intrinsics.width * 0.5 - x * pixels_per_unit, intrinsics.height * 0.5 + y * pixels_per_unit
    return torch.stack([right, down], dim=-1)


def expected_pixel(
    weights: Float[Tensor, "n s"],
    points: Float[Tensor, "*k n s 3"],
    rays: RayBundle,
    c2w: Float[Tensor, "*m 3 4"],
    intrinsics: Intrinsics,
) -> Float[Tensor, "*k n 2"]:
    """Project the expected point of each ray to pixels (right, down).

    Args:
        weights: of the samples.
        points: the samples, or k sets of them.
        rays: along which the samples lay before they moved.
        c2w: one camera, or (k, 1, 3, 4), one per set.
        intrinsics: of all cameras.
    """
    expected = rays.space.expected(weights, points, rays.origins, rays.directions)
    return project(world_to_camera(rays.space.to_world(expected), c2w), intrinsics)


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera to render: its pose, its intrinsics, and the space of the fields."""

    c2w: Float[Tensor, "3 4"]
    intrinsics: Intrinsics
    space: Space

    @property
    def device_type(self) -> str:
        """Kind of device that renders it: cpu or cuda."""
        return self.c2w.device.type

    @property
    def n_pixels(self) -> int:
        return self.intrinsics.height * self.intrinsics.width

    def pixels(self) -> Float[Tensor, "n 2"]:
        """Coordinates (right, down) of all pixels in row-major order."""
        return pixel_grid(self.intrinsics, self.c2w.device)

    def rays(self) -> RayBundle:
        """Rays through all pixels in row-major order."""
        return make_rays(self.pixels(), self.c2w, self.intrinsics, self.space)

    def project(self, points_world: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 2"]:
        """Project points of the world to pixels (right, down)."""
        return project(world_to_camera(points_world, self.c2w), self.intrinsics)

    def pixel_displacement(
        self, points: Float[Tensor, "*b 3"], flow: Float[Tensor, "*b 3"], fraction: float = 1.0
    ) -> Float[Tensor, "*b 2"]:
        """Displacement (right, down) in pixels of points that travel a fraction of their scene flow.

        Points travel at constant velocity in the world; in the space of the fields the same motion is not uniform.
        """
        start, end = self.space.to_world(points), self.space.to_world(points + flow)
        return self.project(start + fraction * (end - start)) - self.project(start)
