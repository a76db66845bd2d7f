"""Light on the synthetic scene: a warm sun with soft shadows, bluish light from all around, highlights."""

import numpy as np
from jaxtyping import Float

from nsff.demo.solids import Solid, distance, silhouette

LIGHT = np.array([-0.36, 0.82, 0.44])  # Direction towards the sun.
LIGHT /= np.linalg.norm(LIGHT)
SUN = np.array([1.28, 1.16, 0.98])  # Colour of the sun on a surface that faces it (linear).
AMBIENT = np.array(
    [0.28, 0.31, 0.36]
)  # Colour of the light from above; vertical surfaces get less, see `AMBIENT_TILT`.
AMBIENT_TILT = 0.25  # Fraction of the ambient light that depends on the height of the normal.
SUN_SIZE = 0.04  # Radius of the sun over its distance: the wider, the softer the shadows.
REACH = 0.35  # A solid darkens the ambient light of surfaces that are nearer than this,
CONTACT = 0.65  # down to 1 minus this where they touch.
HIGHLIGHT_EXPONENT = 36.0  # The larger, the smaller the highlight of the sun.
SURFACE_OFFSET = 1e-3  # Shadow rays start at this distance from the surface, so that it does not shade itself.
POOL_CENTRE, POOL_RADIUS, POOL_EDGE = np.array([0.2, -0.6, -6.5]), 3.0, 3.5  # The sun fades outside of this ball,
POOL_MINIMUM = 0.55  # down to this fraction: light falls in through a wide window.

Points = Float[np.ndarray, "n 3"]
Fractions = Float[np.ndarray, " n"]


def smoothstep(x: Fractions) -> Fractions:
    """Rise from 0 at x = -1 to 1 at x = 1, flat at both ends."""
    unit = ((x + 1.0) / 2.0).clip(0.0, 1.0)
    return unit * unit * (3.0 - 2.0 * unit)


def visibility(casters: tuple[Solid, ...], time: float, points: Points, normals: Points) -> tuple[Fractions, Fractions]:
    """Fractions of the sun and of the ambient light that reach points on surfaces past other solids, 0..1."""
    sun, ambient = np.ones(len(points)), np.ones(len(points))
    if not casters:
        return sun, ambient
    starts, above = points + SURFACE_OFFSET * normals, points + REACH * normals
    centres = np.stack([solid.motion(time)[1] for solid in casters], axis=1)
    offset_along = LIGHT @ centres - (starts @ LIGHT)[:, None]  # from each point to each solid, towards the sun
    squared = np.square(starts).sum(1)[:, None] - 2.0 * starts @ centres + np.square(centres).sum(0)
    for solid, along, squared_distance in zip(casters, offset_along.T, squared.T, strict=True):
        radius = solid.bounding_radius(time)
        if solid.casts_shadow:
            reach = radius + SUN_SIZE * along.clip(0.0)
            near = np.flatnonzero((along > -radius) & (squared_distance - along**2 < reach**2))
            if len(near):
                inside, length = silhouette(solid, time, starts[near], LIGHT)
                covered = smoothstep(inside / np.maximum(SUN_SIZE * length, SURFACE_OFFSET))
                sun[near] *= 1.0 - np.where(length > 0.0, covered, 0.0)
        near = np.flatnonzero(squared_distance < (radius + 2.0 * REACH) ** 2)
        if len(near):
            closeness = 1.0 - (distance(solid, time, above[near]) / REACH).clip(0.0, 1.0)
            ambient[near] *= 1.0 - CONTACT * closeness**2
    return sun, ambient


def shade(
    solid: Solid, time: float, points: Points, eye: Float[np.ndarray, "3"], casters: tuple[Solid, ...]
) -> tuple[Points, Points, Points]:
    """Shade points on a solid.

    Returns:
        Colour by ambient light, colour by the sun (linear; their sum is what is seen), unit normals.
    """
    local = solid.to_local(points, time)
    albedo, normals = solid.albedo(local), solid.normals(local, time)
    if solid.kind == "cloth":
        normals = normals * np.sign(normals @ LIGHT)[:, None]  # thin cloth is lit on both sides
    sun, ambient = visibility(casters, time, points, normals)
    far = np.linalg.norm(points - POOL_CENTRE, axis=1) - POOL_RADIUS
    sun *= 1.0 - (1.0 - POOL_MINIMUM) * smoothstep(2.0 * far / POOL_EDGE - 1.0)
    ambient *= 1.0 - AMBIENT_TILT + AMBIENT_TILT * normals[:, 1]
    direct = albedo * (sun * np.maximum(normals @ LIGHT, 0.0))[:, None]
    if solid.gloss:
        towards = eye - points
        halfway = LIGHT + towards / np.linalg.norm(towards, axis=1, keepdims=True)
        cosine = np.einsum("ni,ni->n", normals, halfway) / np.linalg.norm(halfway, axis=1)
        direct = direct + (solid.gloss * sun * cosine.clip(0.0) ** HIGHLIGHT_EXPONENT)[:, None]
    return albedo * (AMBIENT * ambient[:, None] + solid.glow), direct * SUN, normals
