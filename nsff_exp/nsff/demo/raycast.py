"""Ray casting of textured boxes, balls and waving cloths with numpy: colour, shadows, depth and motion of points.

Lengths are in arbitrary units, times in frames.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from nsff.demo.camera import Camera, project, ray_directions

LIGHT = np.array([-0.40, 0.65, 0.65])  # Direction towards the sun.
LIGHT /= np.linalg.norm(LIGHT)
AMBIENT = 0.45  # Fraction of the light that is ambient, and stays in the shadow.
RAYS_PER_BAND = 2**15  # Rays are cast in bands whose intermediate results fit the CPU's cache.
SHADOW_ROWS = 16  # Rows of pixels per band when shadows of moving solids are cast.
DEPTH_TOLERANCE = 1e-4  # Relative difference up to which two depths belong to one surface point.
SURFACE_OFFSET = 1e-3  # Shadow rays start at this distance from the surface, so that it does not shade itself.
CLOTH_ITERATIONS = 16  # Each shrinks the error of a cloth's intersection by slope times tan(angle to its normal).
MIN_SLOPE = 1e-12  # Keeps divisions finite for rays along a face.
DERIVATIVE_STEP = 1e-4  # Of the central differences of a cloth's normals.

Placement = tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]
Wave = Callable[[Float[np.ndarray, "*b"], Float[np.ndarray, "*b"], float], Float[np.ndarray, "*b"]]


@dataclasses.dataclass(frozen=True)
class Solid:
    """A box, a ball, or a waving cloth.

    Attributes:
        half_size: half its extent along its local axes (ball: its radius, three times; cloth: the third is the
            amplitude of its waves).
        motion: local-to-world matrix and centre at a time; the matrix may stretch and shear as well as rotate.
        texture: periodic tile of albedo, 0..1.
        tile: side of the tile in local units.
        kind: shape.
        moving: changes over time.
        wave: height (x, y, time) of a cloth over its plane. Its slope times the tangent of the angle between a ray and
            the cloth's normal must stay well below 1, or the intersection may not converge.
    """

    half_size: Float[np.ndarray, "3"]
    motion: Callable[[float], Placement]
    texture: Float[np.ndarray, "T T 3"]
    tile: float
    kind: Literal["box", "ball", "cloth"] = "box"
    moving: bool = False
    wave: Wave | None = None

    def to_local(self, points: Float[np.ndarray, "*b 3"], time: float) -> Float[np.ndarray, "*b 3"]:
        """Transform world points to local coordinates."""
        matrix, centre = self.motion(time)
        return (points - centre) @ np.linalg.inv(matrix).T

    def advect(self, points: Float[np.ndarray, "n 3"], time: float, target_time: float) -> Float[np.ndarray, "n 3"]:
        """Move world points on the surface from one time to another."""
        local = self.to_local(points, time)
        if self.wave is not None:
            x, y = local[:, 0], local[:, 1]
            local = np.stack([x, y, self.wave(x, y, target_time)], axis=1)
        matrix, centre = self.motion(target_time)
        return local @ matrix.T + centre

    def normals(self, local: Float[np.ndarray, "n 3"], time: float) -> Float[np.ndarray, "n 3"]:
        """Unit normals in the world, at surface points in local coordinates."""
        if self.kind == "ball":
            normal = local
        elif self.kind == "box":
            face = np.abs(local / self.half_size).argmax(1)
            normal = np.sign(local) * np.eye(3)[face]
        else:
            assert self.wave is not None
            x, y, step = local[:, 0], local[:, 1], DERIVATIVE_STEP
            slope_x, slope_y = (
                (self.wave(x + dx, y + dy, time) - self.wave(x - dx, y - dy, time)) / (2.0 * step)
                for dx, dy in ((step, 0.0), (0.0, step))
            )
            normal = np.stack([-slope_x, -slope_y, np.ones_like(x)], axis=1)
        world = normal @ np.linalg.inv(self.motion(time)[0])  # normals transform by the inverse transpose
        return world / np.linalg.norm(world, axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Hits:
    """First intersections of a grid of rays.

    Attributes:
        depth: along the viewing axis; inf without a hit.
        solid: index of the solid; -1 without a hit.
        rgb: colour, 0..1.
        shadow_factor: ratio of the colour without the sun to the colour with it, 0..1; 1 where already in shadow.
    """

    depth: Float[np.ndarray, "h w"]
    solid: Int[np.ndarray, "h w"]
    rgb: Float[np.ndarray, "h w 3"]
    shadow_factor: Float[np.ndarray, "h w"]


def intersect(
    solid: Solid, time: float, origin: Float[np.ndarray, "*#b 3"], directions: Float[np.ndarray, "*#b 3"]
) -> Float[np.ndarray, "*b"]:
    """Length along each ray, in units of its direction, at which it enters a solid; inf where it misses."""
    matrix, centre = solid.motion(time)
    to_local = np.linalg.inv(matrix).T
    start, direction = np.broadcast_arrays((origin - centre) @ to_local, directions @ to_local)
    if solid.kind == "ball":
        a, b = np.einsum("...i,...i", direction, direction), np.einsum("...i,...i", direction, start)
        discriminant = b * b - a * (np.einsum("...i,...i", start, start) - solid.half_size[0] ** 2)
        enter = (-b - np.sqrt(np.maximum(discriminant, 0.0))) / a
        return np.where((discriminant > 0.0) & (enter > 0.0), enter, np.inf)
    if solid.kind == "cloth":
        return _intersect_cloth(solid, time, start, direction)
    enter, leave = np.full(direction.shape[:-1], -np.inf), np.full(direction.shape[:-1], np.inf)
    for k in range(3):
        slope = _nonzero(direction[..., k])
        first, second = (-solid.half_size[k] - start[..., k]) / slope, (solid.half_size[k] - start[..., k]) / slope
        enter, leave = np.maximum(enter, np.minimum(first, second)), np.minimum(leave, np.maximum(first, second))
    return np.where((enter < leave) & (enter > 0.0), enter, np.inf)


def _intersect_cloth(
    solid: Solid, time: float, start: Float[np.ndarray, "*b 3"], direction: Float[np.ndarray, "*b 3"]
) -> Float[np.ndarray, "*b"]:
    """Intersect rays in local coordinates with a cloth by fixed-point iteration, starting from its plane."""
    assert solid.wave is not None
    slope = _nonzero(direction[..., 2])
    length = -start[..., 2] / slope
    for _ in range(CLOTH_ITERATIONS):
        x, y = start[..., 0] + length * direction[..., 0], start[..., 1] + length * direction[..., 1]
        length = (solid.wave(x, y, time) - start[..., 2]) / slope
    inside = (np.abs(x) < solid.half_size[0]) & (np.abs(y) < solid.half_size[1])
    return np.where(inside & (length > 0.0), length, np.inf)


def _nonzero(slope: Float[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
    return np.where(np.abs(slope) < MIN_SLOPE, MIN_SLOPE, slope)


def in_shadow(casters: tuple[Solid, ...], time: float, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
    """Mask the points between which and the sun a solid lies."""
    dark = np.zeros(len(points), bool)
    for solid in casters:
        matrix, centre = solid.motion(time)
        radius = np.linalg.norm(matrix, 2) * np.linalg.norm(solid.half_size)  # of a bounding sphere
        offset = points - centre
        squared_distance = np.square(offset).sum(1) - (offset @ LIGHT) ** 2  # of the shadow ray's line to the centre
        candidates = np.flatnonzero(~dark & (squared_distance < radius**2))
        dark[candidates] = np.isfinite(intersect(solid, time, points[candidates] + SURFACE_OFFSET * LIGHT, LIGHT))
    return dark


def shade(
    solid: Solid, time: float, points: Float[np.ndarray, "n 3"], casters: tuple[Solid, ...]
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """Colour of points on a solid by diffuse shading of its texture (0..1), and their shadow factor (see `Hits`)."""
    local = solid.to_local(points, time)
    normals = solid.normals(local, time)
    if solid.kind == "ball":
        height = (local[:, 1] / solid.half_size[1]).clip(-1, 1)
        uv = solid.half_size[0] * np.stack([np.arctan2(local[:, 0], local[:, 2]), np.arcsin(height)], 1)
    elif solid.kind == "cloth":
        uv = local[:, :2]
        normals = normals * np.sign(normals @ LIGHT)[:, None]  # thin cloth is lit on both sides
    else:
        face = np.abs(local / solid.half_size).argmax(1)  # index of the axis normal to the face
        uv = np.take_along_axis(local, np.array([[2, 1], [0, 2], [0, 1]])[face], axis=1)
    texels = len(solid.texture)
    right, up = np.floor(uv.T / solid.tile * texels).astype(int) % texels
    sun = (1.0 - AMBIENT) * np.maximum(normals @ LIGHT, 0.0)
    sun[in_shadow(casters, time, points + SURFACE_OFFSET * normals)] = 0.0
    return solid.texture[up, right] * (AMBIENT + sun)[:, None], AMBIENT / (AMBIENT + sun)


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
        empty = np.zeros((*shape, 3), np.float32)
        hits = Hits(np.full(shape, np.inf), np.full(shape, -1), empty, np.ones(shape, np.float32))
    else:
        hits = Hits(*(getattr(background, field.name).copy() for field in dataclasses.fields(Hits)))
        moving = tuple(solid for solid in solids if solid.moving)
        for row in range(0, len(down), rays_per_side * SHADOW_ROWS):
            rows = slice(row, row + rays_per_side * SHADOW_ROWS)
            directions = ray_directions(np.stack(np.meshgrid(right, down[rows]), axis=-1), camera)
            points = centre + hits.depth[rows][..., None] * directions
            dark = in_shadow(moving, time, points.reshape(-1, 3)).reshape(points.shape[:2])
            hits.rgb[rows][dark] *= hits.shadow_factor[rows][dark][:, None]
    for index, solid in enumerate(solids):
        if solid.moving == (background is None):
            continue
        casters = tuple(other for other in solids if other is not solid and (solid.moving or not other.moving))
        for rows, columns in bands(solid, time, camera, rays_per_side):
            directions = ray_directions(np.stack(np.meshgrid(right[columns], down[rows]), axis=-1), camera)
            length = intersect(solid, time, centre, directions)
            nearer = length < hits.depth[rows, columns]
            points = centre + length[nearer][:, None] * directions[nearer]
            rgb, shadow_factor = shade(solid, time, points, casters)
            hits.depth[rows, columns][nearer] = length[nearer]
            hits.solid[rows, columns][nearer] = index
            hits.rgb[rows, columns][nearer] = rgb
            hits.shadow_factor[rows, columns][nearer] = shadow_factor
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
