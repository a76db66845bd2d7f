"""Ray casting of textured boxes, balls and waving sheets with numpy: colour, shadows, depth, and where the points go.

Lengths are in arbitrary units, times in frames. World and camera axes are (right, up, back); cameras look along -z.
Pixel (0, 0) lies at integer 0 and covers half a pixel to each side; the principal point is (W / 2, H / 2).
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

LIGHT = np.array([-0.40, 0.65, 0.65])  # towards the light
LIGHT /= np.linalg.norm(LIGHT)
AMBIENT = 0.45  # share of the light that comes from everywhere
RAYS_AT_ONCE = 2**15  # so that what is computed for them stays in the cache, whatever the size of the picture
SAME_DEPTH = 1e-4  # relative difference up to which two depths belong to one surface point
OFF_SURFACE = 1e-3  # a point casts no shadow on itself
ROWS_AT_ONCE = 16  # of pixels, for shadows
SHEET_STEPS = (
    16  # of the search for a sheet along a ray; the error shrinks with each by slope times tan(angle of the ray)
)

Placement = tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]
Wave = Callable[[Float[np.ndarray, "*b"], Float[np.ndarray, "*b"], float], Float[np.ndarray, "*b"]]


@dataclasses.dataclass(frozen=True)
class Camera:
    """`c2w`: axes right, up, back, then the centre. Sizes and focal length in pixels."""

    c2w: Float[np.ndarray, "3 4"]
    width: int
    height: int
    focal: float


@dataclasses.dataclass(frozen=True)
class Solid:
    """A box, a ball, or a sheet that waves.

    `half`: half its sizes along its own axes (a ball: its radius, three times; a sheet: the third is the most that it
    waves). `motion(time)`: matrix and centre that take its own coordinates to the world; the matrix is a rotation, or
    stretches and shears as well. `texture`: a periodic tile of albedo, 0..1, of which `tile` is the side in its own
    units. `wave(x, y, time)`: of a sheet, how far it lies off its plane; its slope, times the tangent of the angle
    between a ray and the sheet's normal, must stay well below 1, or rays are not sure to find it.
    """

    half: Float[np.ndarray, "3"]
    motion: Callable[[float], Placement]
    texture: Float[np.ndarray, "T T 3"]
    tile: float
    kind: Literal["box", "ball", "sheet"] = "box"
    moving: bool = False
    wave: Wave | None = None

    def to_own(self, points: Float[np.ndarray, "*b 3"], time: float) -> Float[np.ndarray, "*b 3"]:
        """World points in its own coordinates."""
        matrix, centre = self.motion(time)
        return (points - centre) @ np.linalg.inv(matrix).T

    def carry(self, points: Float[np.ndarray, "n 3"], time: float, then: float) -> Float[np.ndarray, "n 3"]:
        """Where points on it are at another time."""
        own = self.to_own(points, time)
        if self.wave is not None:
            own = np.stack([own[:, 0], own[:, 1], self.wave(own[:, 0], own[:, 1], then)], axis=1)
        matrix, centre = self.motion(then)
        return own @ matrix.T + centre

    def normals(self, own: Float[np.ndarray, "n 3"], time: float) -> Float[np.ndarray, "n 3"]:
        """Directions across the surface in the world, of length 1, at points in its own coordinates."""
        if self.kind == "ball":
            across = own
        elif self.kind == "box":
            face = np.abs(own / self.half).argmax(1)
            across = np.sign(own) * np.eye(3)[face]
        else:
            assert self.wave is not None
            x, y, step = own[:, 0], own[:, 1], 1e-4
            along_x, along_y = (
                (self.wave(x + dx, y + dy, time) - self.wave(x - dx, y - dy, time)) / (2.0 * step)
                for dx, dy in ((step, 0.0), (0.0, step))
            )
            across = np.stack([-along_x, -along_y, np.ones_like(x)], axis=1)
        world = across @ np.linalg.inv(self.motion(time)[0])
        return world / np.linalg.norm(world, axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Layer:
    """What a grid of rays sees: depth along the viewing axis (inf: nothing), number of the solid (-1), colour 0..1.

    `shaded`: by how much less light comes where the sun is blocked, 0..1; 1 where it does not shine anyway.
    """

    depth: Float[np.ndarray, "h w"]
    solid: Int[np.ndarray, "h w"]
    rgb: Float[np.ndarray, "h w 3"]
    shaded: Float[np.ndarray, "h w"]


def look_at(centre: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 4"]:
    """Pose of an upright camera at `centre` with `target` in the middle of its picture."""
    back = (centre - target) / np.linalg.norm(centre - target)
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back, centre], axis=1)


def rotation(axis: int, angle: float) -> Float[np.ndarray, "3 3"]:
    """Rotation about axis 0, 1 or 2, anticlockwise for a viewer whom the axis points at; radians."""
    matrix, first, second = np.eye(3), (axis + 1) % 3, (axis + 2) % 3
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[second, first] = np.sin(angle)
    matrix[first, second] = -matrix[second, first]
    return matrix


def ray_directions(uv: Float[np.ndarray, "*b 2"], camera: Camera) -> Float[np.ndarray, "*b 3"]:
    """World directions through pixels (right, down); of length 1 along the viewing axis, so that lengths are depths."""
    right = (uv[..., 0] - camera.width / 2) / camera.focal
    up = -(uv[..., 1] - camera.height / 2) / camera.focal
    return np.stack([right, up, -np.ones_like(right)], axis=-1) @ camera.c2w[:, :3].T


def project(
    points: Float[np.ndarray, "*b 3"], camera: Camera
) -> tuple[Float[np.ndarray, "*b 2"], Float[np.ndarray, "*b"]]:
    """Pixel (right, down) and depth of points of the world."""
    x, y, z = np.moveaxis((points - camera.c2w[:, 3]) @ camera.c2w[:, :3], -1, 0)
    uv = np.stack([camera.width / 2 - camera.focal * x / z, camera.height / 2 + camera.focal * y / z], axis=-1)
    return uv, -z


def intersect(
    solid: Solid, time: float, origin: Float[np.ndarray, "*#b 3"], directions: Float[np.ndarray, "*#b 3"]
) -> Float[np.ndarray, "*b"]:
    """Length along each ray to the outside of a solid, in units of its direction; inf where it misses."""
    matrix, centre = solid.motion(time)
    to_own = np.linalg.inv(matrix).T
    start, along = np.broadcast_arrays((origin - centre) @ to_own, directions @ to_own)
    if solid.kind == "ball":
        a, b = np.einsum("...i,...i", along, along), np.einsum("...i,...i", along, start)
        root = b * b - a * (np.einsum("...i,...i", start, start) - solid.half[0] ** 2)
        enter = (-b - np.sqrt(np.maximum(root, 0.0))) / a
        return np.where((root > 0.0) & (enter > 0.0), enter, np.inf)
    if solid.kind == "sheet":
        return _meet_sheet(solid, time, start, along)
    enter, leave = np.full(along.shape[:-1], -np.inf), np.full(along.shape[:-1], np.inf)
    for k in range(3):
        slope = np.where(np.abs(along[..., k]) < 1e-12, 1e-12, along[..., k])  # along a face: no division by zero
        first, second = (-solid.half[k] - start[..., k]) / slope, (solid.half[k] - start[..., k]) / slope
        enter, leave = np.maximum(enter, np.minimum(first, second)), np.minimum(leave, np.maximum(first, second))
    return np.where((enter < leave) & (enter > 0.0), enter, np.inf)


def _meet_sheet(
    solid: Solid, time: float, start: Float[np.ndarray, "*b 3"], along: Float[np.ndarray, "*b 3"]
) -> Float[np.ndarray, "*b"]:
    """Where rays, in the sheet's own coordinates, meet it: from its plane on, again and again to its height there."""
    assert solid.wave is not None
    slope = np.where(np.abs(along[..., 2]) < 1e-12, 1e-12, along[..., 2])
    length = -start[..., 2] / slope
    for _ in range(SHEET_STEPS):
        x, y = start[..., 0] + length * along[..., 0], start[..., 1] + length * along[..., 1]
        length = (solid.wave(x, y, time) - start[..., 2]) / slope
    inside = (np.abs(x) < solid.half[0]) & (np.abs(y) < solid.half[1])
    return np.where(inside & (length > 0.0), length, np.inf)


def in_shadow(casters: tuple[Solid, ...], time: float, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
    """Whether something stands between points and the light."""
    dark = np.zeros(len(points), bool)
    for solid in casters:
        matrix, centre = solid.motion(time)
        reach = np.linalg.norm(matrix, 2) * np.linalg.norm(solid.half)
        off = points - centre
        near = np.flatnonzero(~dark & (np.square(off).sum(1) - (off @ LIGHT) ** 2 < reach**2))  # of the line to it
        away = points[near] + OFF_SURFACE * LIGHT
        dark[near] = np.isfinite(intersect(solid, time, away, LIGHT))
    return dark


def shade(
    solid: Solid, time: float, points: Float[np.ndarray, "n 3"], casters: tuple[Solid, ...]
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """Colour (0..1) of points on a solid: its texture, diffusely lit; and the share that is left without the sun."""
    own = solid.to_own(points, time)
    normals = solid.normals(own, time)
    if solid.kind == "ball":
        height = (own[:, 1] / solid.half[1]).clip(-1, 1)
        uv = solid.half[0] * np.stack([np.arctan2(own[:, 0], own[:, 2]), np.arcsin(height)], 1)
    elif solid.kind == "sheet":
        uv = own[:, :2]
        normals = normals * np.sign(normals @ LIGHT)[:, None]  # thin: lit through
    else:
        face = np.abs(own / solid.half).argmax(1)  # the axis across the face
        uv = np.take_along_axis(own, np.array([[2, 1], [0, 2], [0, 1]])[face], axis=1)
    texels = len(solid.texture)
    right, up = np.floor(uv.T / solid.tile * texels).astype(int) % texels
    sun = (1.0 - AMBIENT) * np.maximum(normals @ LIGHT, 0.0)
    sun[in_shadow(casters, time, points + OFF_SURFACE * normals)] = 0.0
    return solid.texture[up, right] * (AMBIENT + sun)[:, None], AMBIENT / (AMBIENT + sun)


def bands(solid: Solid, time: float, camera: Camera, rays_a_side: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of a grid of rays that cover the rectangle in which a solid may be seen, in bands of rows."""
    matrix, centre = solid.motion(time)
    corners = np.indices((2, 2, 2)).reshape(3, 8).T * 2.0 - 1.0
    uv, depth = project(centre + solid.half * corners @ matrix.T, camera)
    (left, top), (right, bottom) = (0, 0), (camera.width * rays_a_side, camera.height * rays_a_side)
    if depth.min() > 0.0:  # else it reaches behind the camera, and the corners bound nothing
        edges = (np.stack([uv.min(0), uv.max(0)]) + 0.5) * rays_a_side + [[0], [1]]
        (left, top), (right, bottom) = edges.clip(0, [right, bottom]).astype(int)
    n_rows = max(1, RAYS_AT_ONCE // max(1, right - left))
    for first in range(top, bottom, n_rows):
        yield slice(first, min(first + n_rows, bottom)), slice(left, right)


def render(
    solids: tuple[Solid, ...], time: float, camera: Camera, rays_a_side: int, behind: Layer | None = None
) -> Layer:
    """The still solids; or, if their layer is given as `behind`, that layer with the moving ones and their shadows.

    Args:
        solids: the scene.
        time: in frames.
        camera: the viewer.
        rays_a_side: rays a side of a pixel, evenly spread; 1 = one through its centre.
        behind: layer of the same camera and number of rays.
    """
    down, right = ((np.arange(n * rays_a_side) + 0.5) / rays_a_side - 0.5 for n in (camera.height, camera.width))
    shape, centre = (len(down), len(right)), camera.c2w[:, 3]
    if behind is None:
        empty = np.zeros((*shape, 3), np.float32)
        layer = Layer(np.full(shape, np.inf), np.full(shape, -1), empty, np.ones(shape, np.float32))
    else:
        layer = Layer(*(getattr(behind, field.name).copy() for field in dataclasses.fields(Layer)))
        moving = tuple(solid for solid in solids if solid.moving)
        for row in range(0, shape[0], rays_a_side * ROWS_AT_ONCE):
            rows = slice(row, row + rays_a_side * ROWS_AT_ONCE)
            directions = ray_directions(np.stack(np.meshgrid(right, down[rows]), axis=-1), camera)
            points = centre + layer.depth[rows][..., None] * directions
            dark = in_shadow(moving, time, points.reshape(-1, 3)).reshape(points.shape[:2])
            layer.rgb[rows][dark] *= layer.shaded[rows][dark][:, None]
    for number, solid in enumerate(solids):
        if solid.moving == (behind is None):
            continue
        casters = tuple(each for each in solids if each is not solid and (solid.moving or not each.moving))
        for rows, columns in bands(solid, time, camera, rays_a_side):
            directions = ray_directions(np.stack(np.meshgrid(right[columns], down[rows]), axis=-1), camera)
            length = intersect(solid, time, centre, directions)
            seen = length < layer.depth[rows, columns]
            points = centre + length[seen][:, None] * directions[seen]
            layer.depth[rows, columns][seen] = length[seen]
            layer.solid[rows, columns][seen] = number
            layer.rgb[rows, columns][seen], layer.shaded[rows, columns][seen] = shade(solid, time, points, casters)
    return layer


def exact_flow(
    solids: tuple[Solid, ...], layer: Layer, cameras: tuple[Camera, Camera], times: tuple[float, float]
) -> tuple[Float[np.ndarray, "h w 2"], Bool[np.ndarray, "h w"]]:
    """Where the points seen in one frame lie in another.

    Args:
        solids: the scene.
        layer: the frame, one ray a pixel, with something in every pixel.
        cameras: camera of the frame and of the other.
        times: time of the frame and of the other.

    Returns:
        Displacement (right, down) in pixels, float32; True where the other frame sees the point too.
    """
    (camera, other), (height, width) = cameras, layer.depth.shape
    pixels = np.stack(np.meshgrid(np.arange(float(width)), np.arange(float(height))), axis=-1)
    points = camera.c2w[:, 3] + layer.depth[..., None] * ray_directions(pixels, camera)
    for number, solid in enumerate(solids):
        here = layer.solid == number
        points[here] = solid.carry(points[here], *times)
    uv, depth = project(points, other)
    rays = ray_directions(uv, other)
    nearest = np.min([intersect(solid, times[1], other.c2w[:, 3], rays) for solid in solids], axis=0)
    inside = (uv >= 0.0).all(-1) & (uv[..., 0] <= width - 1) & (uv[..., 1] <= height - 1)
    return (uv - pixels).astype(np.float32), inside & (np.abs(nearest - depth) < SAME_DEPTH * depth)
