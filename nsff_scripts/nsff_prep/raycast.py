"""Ray casting of rigid, textured boxes and balls with numpy: colour, depth, and where the points go.

Lengths are in arbitrary units, times in frames. World and camera axes are (right, up, back); cameras look along -z.
Pixel (0, 0) lies at integer 0 and covers half a pixel to each side; the principal point is (W / 2, H / 2).
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

LIGHT = np.array([-0.40, 0.65, 0.65])  # towards the light, of length 1
AMBIENT = 0.55  # share of the light that comes from everywhere
RAYS_AT_ONCE = 2**15  # so that what is computed for them stays in the cache, whatever the size of the picture
SAME_DEPTH = 1e-4  # relative difference up to which two depths belong to one surface point

Pose = tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]


@dataclasses.dataclass(frozen=True)
class Camera:
    """`c2w`: axes right, up, back, then the centre. Sizes and focal length in pixels."""

    c2w: Float[np.ndarray, "3 4"]
    width: int
    height: int
    focal: float


@dataclasses.dataclass(frozen=True)
class Solid:
    """A rigid box or ball. `motion(time)` gives its axes (columns) and centre in the world.

    `half`: half its sizes along its own axes (a ball: its radius, three times). `texture`: a periodic tile of albedo,
    0..1, of which `tile` is the side in world units.
    """

    half: Float[np.ndarray, "3"]
    motion: Callable[[float], Pose]
    texture: Float[np.ndarray, "T T 3"]
    tile: float
    is_ball: bool = False
    moving: bool = False


@dataclasses.dataclass(frozen=True)
class Layer:
    """What a grid of rays sees: depth along the viewing axis (inf: nothing), number of the solid (-1), colour 0..1."""

    depth: Float[np.ndarray, "h w"]
    solid: Int[np.ndarray, "h w"]
    rgb: Float[np.ndarray, "h w 3"]


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
    solid: Solid, time: float, origin: Float[np.ndarray, "3"], directions: Float[np.ndarray, "*b 3"]
) -> Float[np.ndarray, "*b"]:
    """Length along each ray to the outside of a solid, in units of its direction; inf where it misses."""
    axes, centre = solid.motion(time)
    start, along = (origin - centre) @ axes, directions @ axes
    if solid.is_ball:
        a, b = np.einsum("...i,...i", along, along), along @ start
        root = b * b - a * (start @ start - solid.half[0] ** 2)
        enter = (-b - np.sqrt(np.maximum(root, 0.0))) / a
        return np.where((root > 0.0) & (enter > 0.0), enter, np.inf)
    enter, leave = np.full(along.shape[:-1], -np.inf), np.full(along.shape[:-1], np.inf)
    for k in range(3):
        slope = np.where(np.abs(along[..., k]) < 1e-12, 1e-12, along[..., k])  # along a face: no division by zero
        first, second = (-solid.half[k] - start[k]) / slope, (solid.half[k] - start[k]) / slope
        enter, leave = np.maximum(enter, np.minimum(first, second)), np.minimum(leave, np.maximum(first, second))
    return np.where((enter < leave) & (enter > 0.0), enter, np.inf)


def shade(solid: Solid, time: float, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Colour (0..1) of points on a solid: its texture, diffusely lit."""
    axes, centre = solid.motion(time)
    local = (points - centre) @ axes
    if solid.is_ball:
        normals = local / solid.half
        uv = solid.half[0] * np.stack([np.arctan2(local[:, 0], local[:, 2]), np.arcsin(normals[:, 1].clip(-1, 1))], 1)
    else:
        face = np.abs(local / solid.half).argmax(1)  # the axis across the face
        normals = np.sign(local) * np.eye(3)[face]
        uv = np.take_along_axis(local, np.array([[2, 1], [0, 2], [0, 1]])[face], axis=1)
    texels = len(solid.texture)
    right, up = np.floor(uv.T / solid.tile * texels).astype(int) % texels
    light = AMBIENT + (1.0 - AMBIENT) * np.maximum(normals @ (axes.T @ LIGHT), 0.0)
    return solid.texture[up, right] * light[:, None]


def bands(solid: Solid, time: float, camera: Camera, rays_a_side: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of a grid of rays that cover the rectangle in which a solid may be seen, in bands of rows."""
    axes, centre = solid.motion(time)
    corners = np.indices((2, 2, 2)).reshape(3, 8).T * 2.0 - 1.0
    uv, depth = project(centre + solid.half * corners @ axes.T, camera)
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
    """The still solids; or, where their layer is given as `behind`, that layer with the moving solids in it.

    Args:
        solids: the scene.
        time: in frames.
        camera: the viewer.
        rays_a_side: rays a side of a pixel, evenly spread; 1 = one through its centre.
        behind: layer of the same camera and number of rays.
    """
    down, right = ((np.arange(n * rays_a_side) + 0.5) / rays_a_side - 0.5 for n in (camera.height, camera.width))
    shape = len(down), len(right)
    if behind is None:
        layer = Layer(np.full(shape, np.inf), np.full(shape, -1), np.zeros((*shape, 3), np.float32))
    else:
        layer = Layer(behind.depth.copy(), behind.solid.copy(), behind.rgb.copy())
    for number, solid in enumerate(solids):
        if solid.moving == (behind is None):
            continue
        for rows, columns in bands(solid, time, camera, rays_a_side):
            directions = ray_directions(np.stack(np.meshgrid(right[columns], down[rows]), axis=-1), camera)
            length = intersect(solid, time, camera.c2w[:, 3], directions)
            seen = length < layer.depth[rows, columns]
            points = camera.c2w[:, 3] + length[seen][:, None] * directions[seen]
            layer.depth[rows, columns][seen] = length[seen]
            layer.solid[rows, columns][seen] = number
            layer.rgb[rows, columns][seen] = shade(solid, time, points)
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
        (axes, centre), (axes_then, centre_then) = (solid.motion(time) for time in times)
        here = layer.solid == number
        points[here] = (points[here] - centre) @ axes @ axes_then.T + centre_then
    uv, depth = project(points, other)
    rays = ray_directions(uv, other)
    nearest = np.min([intersect(solid, times[1], other.c2w[:, 3], rays) for solid in solids], axis=0)
    inside = (uv >= 0.0).all(-1) & (uv[..., 0] <= width - 1) & (uv[..., 1] <= height - 1)
    return (uv - pixels).astype(np.float32), inside & (np.abs(nearest - depth) < SAME_DEPTH * depth)
