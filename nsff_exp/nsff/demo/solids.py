"""Textured boxes, balls and waving cloths that may move: intersections with rays, distances, normals.

Lengths are in arbitrary units, times in frames.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float

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
        texture: periodic tile of albedo (linear, 0..1), first row at the bottom; centred on each face, on the front of
            a ball, on a cloth.
        tile: sides of the tile in local units (right, up).
        kind: shape.
        moving: changes over time.
        wave: height (x, y, time) of a cloth over its plane. Its slope times the tangent of the angle between a ray and
            the cloth's normal must stay well below 1, or the intersection may not converge.
        gloss: strength of the highlight of the sun.
        glow: fraction of the albedo that is emitted as light.
        casts_shadow: False for what lies flat on a floor or wall, and for these.
    """

    half_size: Float[np.ndarray, "3"]
    motion: Callable[[float], Placement]
    texture: Float[np.ndarray, "H W 3"]
    tile: tuple[float, float]
    kind: Literal["box", "ball", "cloth"] = "box"
    moving: bool = False
    wave: Wave | None = None
    gloss: float = 0.0
    glow: float = 0.0
    casts_shadow: bool = True

    def bounding_radius(self, time: float) -> float:
        """Radius of a sphere around its centre that encloses it."""
        stretch = np.linalg.norm(self.motion(time)[0], 2)
        return float(stretch * (self.half_size[0] if self.kind == "ball" else np.linalg.norm(self.half_size)))

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

    def albedo(self, local: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Look up the texture at surface points in local coordinates; seen from outside, no face is mirrored."""
        if self.kind == "ball":
            height = (local[:, 1] / self.half_size[1]).clip(-1, 1)
            uv = self.half_size[0] * np.stack([np.arctan2(local[:, 0], local[:, 2]), np.arcsin(height)])
        elif self.kind == "cloth":
            uv = local[:, :2].T
        else:
            face = np.abs(local / self.half_size).argmax(1)  # index of the axis normal to the face
            columns = np.array([[2, 1], [0, 2], [0, 1]])[face]
            uv = np.take_along_axis(local, columns, axis=1).T
            positive = np.take_along_axis(local, face[:, None], axis=1)[:, 0] > 0.0
            uv[0] *= np.where((face == 0) & positive | (face == 2) & ~positive, -1.0, 1.0)
            uv[1] *= np.where((face == 1) & positive, -1.0, 1.0)
        height, width, _ = self.texture.shape
        right = np.floor((uv[0] / self.tile[0] + 0.5) * width).astype(int) % width
        up = np.floor((uv[1] / self.tile[1] + 0.5) * height).astype(int) % height
        return self.texture[up, right]


def intersect(
    solid: Solid, time: float, origin: Float[np.ndarray, "*#b 3"], directions: Float[np.ndarray, "*#b 3"]
) -> Float[np.ndarray, "*b"]:
    """Length along each ray, in units of its direction, at which it enters a solid; inf where it misses."""
    start, direction = _local_rays(solid, time, origin, directions)
    if solid.kind == "ball":
        a, b = np.einsum("...i,...i", direction, direction), np.einsum("...i,...i", direction, start)
        discriminant = b * b - a * (np.einsum("...i,...i", start, start) - solid.half_size[0] ** 2)
        enter = (-b - np.sqrt(np.maximum(discriminant, 0.0))) / a
        return np.where((discriminant > 0.0) & (enter > 0.0), enter, np.inf)
    if solid.kind == "cloth":
        margin, length = _pass_cloth(solid, time, start, direction)
        return np.where((margin > 0.0) & (length > 0.0), length, np.inf)
    enter, leave = np.full(direction.shape[:-1], -np.inf), np.full(direction.shape[:-1], np.inf)
    for k in range(3):
        slope = _nonzero(direction[..., k])
        first, second = (-solid.half_size[k] - start[..., k]) / slope, (solid.half_size[k] - start[..., k]) / slope
        enter, leave = np.maximum(enter, np.minimum(first, second)), np.minimum(leave, np.maximum(first, second))
    return np.where((enter < leave) & (enter > 0.0), enter, np.inf)


def silhouette(
    solid: Solid, time: float, origin: Float[np.ndarray, "*#b 3"], directions: Float[np.ndarray, "*#b 3"]
) -> tuple[Float[np.ndarray, "*b"], Float[np.ndarray, "*b"]]:
    """Measure how far inside a solid's silhouette the line of each ray passes, and the ray's length there.

    Returns:
        Distance from the silhouette, negative outside; length along the ray, negative behind its origin.

    Note:
        The distance is exact for a line near the silhouette of an undeformed ball or near an edge of a box, and enough
        for a soft shadow elsewhere.
    """
    start, direction = _local_rays(solid, time, origin, directions)
    if solid.kind == "ball":
        length = -np.einsum("...i,...i", direction, start) / np.einsum("...i,...i", direction, direction)
        return solid.half_size[0] - np.linalg.norm(start + length[..., None] * direction, axis=-1), length
    if solid.kind == "cloth":
        return _pass_cloth(solid, time, start, direction)
    slope = _nonzero(direction)
    middle, half = -start / slope, solid.half_size / np.abs(slope)
    enter, leave = (middle - half).max(-1), (middle + half).min(-1)
    # A shift along an axis changes the length at which its faces are reached by 1 / slope.
    into, out_of = (
        np.take_along_axis(slope, axes[..., None], axis=-1)[..., 0]
        for axes in ((middle - half).argmax(-1), (middle + half).argmin(-1))
    )
    return (leave - enter) / np.hypot(1.0 / into, 1.0 / out_of), np.where(leave > 0.0, np.maximum(enter, 0.0), -1.0)


def distance(solid: Solid, time: float, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """Distance of points from the surface of a ball or box, in local units; inf for a cloth."""
    if solid.kind == "cloth":
        return np.full(len(points), np.inf)
    local = solid.to_local(points, time)
    if solid.kind == "ball":
        return np.linalg.norm(local, axis=1) - solid.half_size[0]
    return np.linalg.norm(np.maximum(np.abs(local) - solid.half_size, 0.0), axis=1)


def _local_rays(
    solid: Solid, time: float, origin: Float[np.ndarray, "*#b 3"], directions: Float[np.ndarray, "*#b 3"]
) -> tuple[Float[np.ndarray, "*b 3"], Float[np.ndarray, "*b 3"]]:
    matrix, centre = solid.motion(time)
    to_local = np.linalg.inv(matrix).T
    start, direction = np.broadcast_arrays((origin - centre) @ to_local, directions @ to_local)
    return start, direction


def _pass_cloth(
    solid: Solid, time: float, start: Float[np.ndarray, "*b 3"], direction: Float[np.ndarray, "*b 3"]
) -> tuple[Float[np.ndarray, "*b"], Float[np.ndarray, "*b"]]:
    """Intersect local rays with a cloth without an end, by fixed-point iteration from its plane.

    Returns:
        Distance inside the cloth's edges, and length along the ray.
    """
    assert solid.wave is not None
    slope = _nonzero(direction[..., 2])
    length = -start[..., 2] / slope
    for _ in range(CLOTH_ITERATIONS):
        x, y = start[..., 0] + length * direction[..., 0], start[..., 1] + length * direction[..., 1]
        length = (solid.wave(x, y, time) - start[..., 2]) / slope
    return np.minimum(solid.half_size[0] - np.abs(x), solid.half_size[1] - np.abs(y)), length


def _nonzero(slope: Float[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
    return np.where(np.abs(slope) < MIN_SLOPE, MIN_SLOPE, slope)
