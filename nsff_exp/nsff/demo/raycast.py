"""Ray casting of the synthetic scene with numpy: colour, depth, motion of points.

Lengths are in arbitrary units, times in frames.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from nsff.demo.camera import Camera, project, ray_directions
from nsff.demo.shading import shade, visibility
from nsff.demo.solids import Solid, intersect

RAYS_PER_BAND = 2**15  # Rays are cast in bands whose intermediate results fit the CPU's cache.
SHADOW_ROWS = 16  # Rows of pixels per band when shadows of moving solids are cast.
DEPTH_TOLERANCE = 1e-4  # Relative difference up to which two depths belong to one surface point.


@dataclasses.dataclass(frozen=True)
class Hits:
    """First intersections of a grid of rays.

    Attributes:
        depth: along the viewing axis; inf without a hit.
        solid: index of the solid; -1 without a hit.
        ambient: colour by ambient light, linear.
        sun: colour by the sun, linear.
        normal: unit normal of the surface.
    """

    depth: Float[np.ndarray, "h w"]
    solid: Int[np.ndarray, "h w"]
    ambient: Float[np.ndarray, "h w 3"]
    sun: Float[np.ndarray, "h w 3"]
    normal: Float[np.ndarray, "h w 3"]

    @property
    def rgb(self) -> Float[np.ndarray, "h w 3"]:
        """Colour that is seen, linear, from 0; beyond 1 the display is saturated."""
        return self.ambient + self.sun


def bands(solid: Solid, time: float, camera: Camera, rays_per_side: int) -> Iterator[tuple[slice, slice]]:
    """Bound the rays that may hit a solid by a rectangle, split into bands (rows, columns) of `RAYS_PER_BAND`."""
    matrix, centre = solid.motion(time)
    corners = np.indices((2, 2, 2)).reshape(3, 8).T * 2.0 - 1.0
    uv, depth = project(centre + solid.half_size * corners @ matrix.T, camera)
    (left, top), (right, bottom) = (0, 0), (camera.width * rays_per_side, camera.height * rays_per_side)
    if depth.min() > 0.0:  # else the solid extends behind the camera, and projected corners bound nothing
        edges = (np.stack([uv.min(0), uv.max(0)]) + 0.5) * rays_per_side + [[0], [1]]
        (left, top), (right, bottom) = edges.clip(0, [right, bottom]).astype(int)
    n_rows = max(1, RAYS_PER_BAND // max(1, right - left))
    for first in range(top, bottom, n_rows):
        yield slice(first, min(first + n_rows, bottom)), slice(left, right)


def render(
    solids: tuple[Solid, ...], time: float, camera: Camera, rays_per_side: int, background: Hits | None = None
) -> Hits:
    """Render the static solids, or the moving ones and their shadows over a background of static ones.

    Args:
        solids: the scene.
        time: in frames.
        camera: camera.
        rays_per_side: n x n rays per pixel, evenly spaced; 1 = one through its centre.
        background: static solids rendered for the same camera and number of rays; None renders them.
    """
    down, right = ((np.arange(n * rays_per_side) + 0.5) / rays_per_side - 0.5 for n in (camera.height, camera.width))
    centre = camera.c2w[:, 3]
    if background is None:
        shape = (len(down), len(right))
        empty = [np.zeros((*shape, 3), np.float32) for _ in range(3)]
        hits = Hits(np.full(shape, np.inf), np.full(shape, -1, np.int16), *empty)
    else:
        hits = Hits(*(getattr(background, field.name).copy() for field in dataclasses.fields(Hits)))
        moving = tuple(solid for solid in solids if solid.moving)
        for row in range(0, len(down), rays_per_side * SHADOW_ROWS):
            rows = slice(row, row + rays_per_side * SHADOW_ROWS)
            directions = ray_directions(np.stack(np.meshgrid(right, down[rows]), axis=-1), camera)
            points = centre + hits.depth[rows][..., None] * directions
            seen = visibility(moving, time, points.reshape(-1, 3), hits.normal[rows].reshape(-1, 3))
            for colour, fraction in zip((hits.sun, hits.ambient), seen, strict=True):
                colour[rows] *= fraction.reshape(points.shape[:2])[..., None]
    for index, solid in enumerate(solids):
        if solid.moving == (background is None):
            continue
        casters = tuple(other for other in solids if other is not solid and (solid.moving or not other.moving))
        for rows, columns in bands(solid, time, camera, rays_per_side):
            directions = ray_directions(np.stack(np.meshgrid(right[columns], down[rows]), axis=-1), camera)
            length = intersect(solid, time, centre, directions)
            nearer = length < hits.depth[rows, columns]
            points = centre + length[nearer][:, None] * directions[nearer]
            shaded = shade(solid, time, points, centre, casters)
            hits.depth[rows, columns][nearer] = length[nearer]
            hits.solid[rows, columns][nearer] = index
            for target, values in zip((hits.ambient, hits.sun, hits.normal), shaded, strict=True):
                target[rows, columns][nearer] = values
    return hits


def exact_flow(
    solids: tuple[Solid, ...], hits: Hits, cameras: tuple[Camera, Camera], times: tuple[float, float]
) -> tuple[Float[np.ndarray, "h w 2"], Bool[np.ndarray, "h w"]]:
    """Exact optical flow from one frame to another.

    Args:
        solids: the scene.
        hits: the frame, with one ray per pixel, all of which hit a solid.
        cameras: cameras of the frame and of the other.
        times: times of the frame and of the other.

    Returns:
        Displacement (right, down) in pixels, float32; mask of the pixels that are visible in the other frame too.
    """
    (camera, other), (height, width) = cameras, hits.depth.shape
    pixels = np.stack(np.meshgrid(np.arange(float(width)), np.arange(float(height))), axis=-1)
    points = camera.c2w[:, 3] + hits.depth[..., None] * ray_directions(pixels, camera)
    for index, solid in enumerate(solids):
        on_solid = hits.solid == index
        points[on_solid] = solid.advect(points[on_solid], *times)
    uv, depth = project(points, other)
    rays = ray_directions(uv, other)
    nearest = np.min([intersect(solid, times[1], other.c2w[:, 3], rays) for solid in solids], axis=0)
    inside = (uv >= 0.0).all(-1) & (uv[..., 0] <= width - 1) & (uv[..., 1] <= height - 1)
    return (uv - pixels).astype(np.float32), inside & (np.abs(nearest - depth) < DEPTH_TOLERANCE * depth)
