"""Cast rays through pixels, in the world and in normalised device coordinates (NDC), and project points back."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from nsff.geometry.poses import Intrinsics
from nsff.geometry.space import ndc_to_world, to_ndc


@dataclasses.dataclass(frozen=True)
class RayBundle:
    """n rays in NDC: `origins_ndc + z * directions_ndc`, z in [0, 1], runs from the near plane to infinity.

    `viewdirs` are unit vectors in the axes of the scaled world, computed before the conversion to NDC.
    """

    origins_ndc: Float[Tensor, "n 3"]
    directions_ndc: Float[Tensor, "n 3"]
    viewdirs: Float[Tensor, "n 3"]

    def __len__(self) -> int:
        return len(self.origins_ndc)

    def __getitem__(self, rows: slice | Tensor) -> "RayBundle":
        return RayBundle(self.origins_ndc[rows], self.directions_ndc[rows], self.viewdirs[rows])

    @staticmethod
    def cat(bundles: "list[RayBundle]") -> "RayBundle":
        """Concatenate the rays of several bundles."""
        names = ("origins_ndc", "directions_ndc", "viewdirs")
        return RayBundle(*(torch.cat([getattr(bundle, name) for bundle in bundles]) for name in names))

    def points_ndc(self, depths: Float[Tensor, "n s"]) -> Float[Tensor, "n s 3"]:
        """Points at the NDC depths z (0..1) along each ray."""
        return self.origins_ndc[:, None] + depths[..., None] * self.directions_ndc[:, None]


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
    up = -(uv[:, 1] - intrinsics.height * 0.5) / intrinsics.focal
    directions_cam = torch.stack([right, up, -torch.ones_like(right)], dim=-1)
    directions = (directions_cam[:, None, :] * c2w[..., :3]).sum(-1)
    return c2w[..., 3].expand_as(directions), directions


def make_rays(
    uv: Float[Tensor, "n 2"],
    c2w: Float[Tensor, "*n 3 4"],
    intrinsics: Intrinsics,
    ndc_intrinsics: Intrinsics | None = None,
) -> RayBundle:
    """Cast the rays through pixels of one camera, or of one camera per ray, and convert them to NDC.

    Args:
        uv: Pixel coordinates (right, down).
        c2w: One camera for all rays (3, 4), or one per ray (n, 3, 4).
        intrinsics: Intrinsics of the rendering camera.
        ndc_intrinsics: Intrinsics that define NDC, those of the training frames; `intrinsics` by default.
    """
    origins, directions = camera_rays(uv, c2w, intrinsics)
    viewdirs = directions / directions.norm(dim=-1, keepdim=True)
    return RayBundle(*to_ndc(origins, directions, ndc_intrinsics or intrinsics), viewdirs)


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
    points_ndc: Float[Tensor, "*k n s 3"],
    c2w: Float[Tensor, "*m 3 4"],
    intrinsics: Intrinsics,
) -> Float[Tensor, "*k n 2"]:
    """Project the expected point of each ray, the weighted sum of its samples in NDC, to pixels (right, down).

    Args:
        weights: of the samples.
        points_ndc: the samples, or k sets of them.
        c2w: one camera, or (k, 1, 3, 4), one per set.
        intrinsics: of all cameras.
    """
    expected_world = ndc_to_world((weights[..., None] * points_ndc).sum(-2), intrinsics)
    return project(world_to_camera(expected_world, c2w), intrinsics)


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera to render: its pose, its intrinsics, and the intrinsics that define NDC."""

    c2w: Float[Tensor, "3 4"]
    intrinsics: Intrinsics
    ndc_intrinsics: Intrinsics  # of the training frames

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
        return make_rays(self.pixels(), self.c2w, self.intrinsics, self.ndc_intrinsics)

    def project(self, points_world: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 2"]:
        """Project points of the world to pixels (right, down)."""
        return project(world_to_camera(points_world, self.c2w), self.intrinsics)

    def pixel_displacement(
        self, points_ndc: Float[Tensor, "*b 3"], flow_ndc: Float[Tensor, "*b 3"], fraction: float = 1.0
    ) -> Float[Tensor, "*b 2"]:
        """Displacement (right, down) in pixels of points that travel a fraction of their scene flow.

        Points travel at constant velocity in the world; in NDC the same motion is not uniform.
        """
        start = ndc_to_world(points_ndc, self.ndc_intrinsics)
        end = ndc_to_world(points_ndc + flow_ndc, self.ndc_intrinsics)
        return self.project(start + fraction * (end - start)) - self.project(start)
