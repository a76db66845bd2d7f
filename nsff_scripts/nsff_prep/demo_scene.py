"""A small synthetic moving scene with exact depth, flow and masks, ray-cast with numpy.

Lengths are in arbitrary units, times in frames. World and camera axes are (right, up, back); cameras look along -z.
Pixel (0, 0) lies at integer 0 and the principal point at (W / 2, H / 2) *at training size*: a training pixel covers
half a pixel to each side of its integer position, and the pixels of `images/` are its four quarters.
"""

import dataclasses
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.spatial.transform import Rotation

N_CAMERAS = 12
PATHS = ("cameras", "smooth")
IMAGES_SCALE = 2  # images/ are so many times larger than the training frames
RAYS_A_SIDE = 2 * IMAGES_SCALE  # of a training pixel, so that a pixel of images/ has 2 x 2 rays
FOCAL_PER_WIDTH = 0.85
TEXELS = 512  # a side of a texture tile
LIGHT = np.array([-0.40, 0.65, 0.65])  # unit vector towards the light
AMBIENT = 0.45
SAME_DEPTH = 1e-4  # relative difference up to which two depths belong to one surface point

Pose = tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to make. `path`: `cameras` = camera t mod 12 of the rig at time t, `smooth` = one hand-held camera."""

    width: int = 128
    height: int = 72
    n_frames: int = 24
    seed: int = 0
    path: str = "cameras"


@dataclasses.dataclass(frozen=True)
class Camera:
    """`c2w`: axes right, up, back, then the centre. Sizes and focal length in training pixels."""

    c2w: Float[np.ndarray, "3 4"]
    width: int
    height: int
    focal: float


@dataclasses.dataclass(frozen=True)
class Solid:
    """A rigid box or ball. `motion(time)` gives its axes (columns) and centre in the world.

    `half` are half its sizes along its own axes (a ball: its radius, three times); `tile` is the side of a texture tile.
    """

    half: Float[np.ndarray, "3"]
    motion: Callable[[float], Pose]
    texture: Float[np.ndarray, "T T 3"]
    tile: float
    is_ball: bool = False
    moving: bool = False


@dataclasses.dataclass(frozen=True)
class Layer:
    """What a grid of rays sees: depth along the viewing axis (inf = nothing), number of the solid (-1), colour 0..1."""

    depth: Float[np.ndarray, "h w"]
    solid: Int[np.ndarray, "h w"]
    rgb: Float[np.ndarray, "h w 3"]


def band_noise(rng: np.random.Generator, low: float, high: float) -> Float[np.ndarray, "T T"]:
    """Periodic noise of unit deviation with `low` to `high` waves a tile, amplitude falling as 1 / frequency."""
    frequency = np.fft.fftfreq(TEXELS, 1.0 / TEXELS)
    radius = np.hypot(frequency[:, None], frequency[None, : TEXELS // 2 + 1])
    gain = np.where((radius >= low) & (radius < high), 1.0 / np.maximum(radius, 1.0), 0.0)
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TEXELS, TEXELS))) * gain, s=(TEXELS, TEXELS))
    return noise / noise.std()


def make_texture(
    rng: np.random.Generator, hues: tuple[float, ...], cells: tuple[int, int], stagger: float = 0.0, dot: float = 0.0
) -> Float[np.ndarray, "T T 3"]:
    """A periodic tile of cells in random colours with joints, blots, stains and grain.

    Args:
        rng: source of everything random.
        hues: the colours the cells are drawn from, 0..1 around the colour circle.
        cells: rows and columns of cells (rows even where they are staggered).
        stagger: shift of every second row, in cells (0.5 = bricks).
        dot: radius of a blot in each cell, in cells; 0 = none.

    Returns:
        Albedo, 0..1.
    """
    rows, columns = cells
    grid = (np.arange(TEXELS) + 0.5) / TEXELS
    down = np.repeat(grid[:, None] * rows, TEXELS, axis=1)
    right = grid[None, :] * columns + stagger * (down.astype(int) % 2)
    cell = down.astype(int) * columns + right.astype(int) % columns
    fraction_down, fraction_right = down % 1.0 - 0.5, right % 1.0 - 0.5

    def colours() -> np.ndarray:
        hue = rng.choice(hues, rows * columns) + rng.normal(0.0, 0.02, rows * columns)
        wave = np.cos(2.0 * np.pi * (hue[:, None] - np.array([0.0, 1 / 3, 2 / 3])))
        return rng.uniform(0.3, 0.75, rows * columns)[:, None] * (1.0 + 0.45 * wave)

    texture = colours()[cell]
    if dot:
        inside = np.hypot(fraction_down, fraction_right) < dot
        texture = np.where(inside[..., None], colours()[cell], texture)
    joint = np.maximum(np.abs(fraction_down) * columns / rows, np.abs(fraction_right)) > 0.45
    joint = (np.abs(fraction_down) > 0.5 - 0.06 * rows / columns) | (np.abs(fraction_right) > 0.44)
    texture = np.where(joint[..., None], 0.12, texture)
    stains = 1.0 + 0.22 * np.tanh(1.5 * band_noise(rng, 2, 10)) + 0.14 * band_noise(rng, 8, 64)
    return (texture * stains[..., None]).clip(0.02, 0.98)


def build_solids(seed: int) -> tuple[Solid, ...]:
    """The things of the scene; the seed changes their looks, not their places or motions.

    Depths seen from the cameras run from about 2 (pillar) to 10 (wall).
    """
    rng = np.random.default_rng(seed)

    def still(centre: tuple[float, float, float], yaw: float = 0.0) -> Callable[[float], Pose]:
        pose = Rotation.from_euler("y", yaw, degrees=True).as_matrix(), np.array(centre)
        return lambda _time: pose

    def bounce(time: float) -> Pose:
        centre = [-1.15 * math.cos(math.pi * time / 24), 0.1 + 0.3 * math.sin(math.pi * time / 5), -4.2]
        return Rotation.from_euler("z", -0.05 * time).as_matrix(), np.array(centre)

    def swing(time: float) -> Pose:
        angle = 0.45 * math.sin(math.pi * time / 8 + 0.6)
        axes = Rotation.from_euler("yz", [-0.35, angle]).as_matrix()
        return axes, np.array([1.25, 2.3, -6.0]) + axes @ np.array([0.0, -1.6, 0.0])

    def box(half: tuple[float, float, float], motion: Callable[[float], Pose], tile: float, **look: Any) -> Solid:
        moving = motion is swing
        return Solid(np.array(half), motion, make_texture(rng, **look), tile, moving=moving)

    def ball(radius: float, motion: Callable[[float], Pose], **look: Any) -> Solid:
        tile = math.pi * radius  # twice around, so that the texture closes
        return Solid(np.full(3, radius), motion, make_texture(rng, **look), tile, True, motion is bounce)

    return (
        box((24, 12, 0.1), still((0, 0, -10.1)), 5.0, hues=(0.02, 0.05, 0.1, 0.6), cells=(10, 5), stagger=0.5),
        box((24, 0.1, 10), still((0, -1.3, -8)), 6.0, hues=(0.12, 0.33, 0.5), cells=(6, 6)),
        box((2.2, 1.9, 0.05), still((-3.5, 0.7, -7.0), 50), 3.0, hues=(0.4, 0.55, 0.15), cells=(6, 6), dot=0.3),
        box((0.45, 0.42, 0.45), still((-1.0, -0.78, -3.9), 28), 0.9, hues=(0.08, 0.12), cells=(4, 2), stagger=0.5),
        box((0.13, 1.2, 0.13), still((0.95, 0.0, -2.6), 20), 0.6, hues=(0.0, 0.6, 0.15), cells=(4, 4), dot=0.25),
        ball(0.5, still((0.5, -0.7, -5.6)), hues=(0.3, 0.4, 0.7), cells=(6, 6), dot=0.35),
        ball(0.42, bounce, hues=(0.0, 0.95, 0.16), cells=(4, 4), dot=0.3),
        box((0.55, 0.7, 0.05), swing, 0.7, hues=(0.65, 0.8, 0.15), cells=(3, 3), dot=0.35),
    )


def look_at(centre: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 4"]:
    """Pose of an upright camera."""
    back = (centre - target) / np.linalg.norm(centre - target)
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back, centre], axis=1)


def build_cameras(settings: Settings) -> list[Camera]:
    """The cameras of the scene; the video takes number t mod len at time t.

    Twelve side by side for the path `cameras`; one for each frame for `smooth`.
    """
    poses = []
    if settings.path == "cameras":
        for k in range(N_CAMERAS):
            centre = np.array([0.075 * (k - 5.5), 0.04 * math.sin(2.4 * k), 0.0])
            poses.append(look_at(centre, np.array([0.0, -0.15, -6.0])))
    else:
        for t in range(settings.n_frames):
            sway = 0.05 * math.sin(t / 2.1)
            centre = np.array([-0.4 * math.cos(math.pi * t / 24), sway, 0.08 * math.sin(t / 3.3)])
            poses.append(look_at(centre, np.array([0.1 * math.sin(t / 2.7), 0.08 * math.cos(t / 1.9) - 0.15, -6.0])))
    focal = FOCAL_PER_WIDTH * settings.width
    return [Camera(pose, settings.width, settings.height, focal) for pose in poses]


def ray_directions(uv: Float[np.ndarray, "*b 2"], camera: Camera) -> Float[np.ndarray, "*b 3"]:
    """World directions through pixels (right, down), of length 1 along the viewing axis, so that lengths are depths."""
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
        a, b = (along * along).sum(-1), along @ start
        root = b * b - a * (start @ start - solid.half[0] ** 2)
        length = (-b - np.sqrt(np.maximum(root, 0.0))) / a
        return np.where((root > 0.0) & (length > 0.0), length, np.inf)
    along = np.where(np.abs(along) < 1e-12, 1e-12, along)  # a ray along a face: no division by zero
    first, second = (-solid.half - start) / along, (solid.half - start) / along
    enter, leave = np.minimum(first, second).max(-1), np.maximum(first, second).min(-1)
    return np.where((enter < leave) & (enter > 0.0), enter, np.inf)


def shade(solid: Solid, time: float, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Colour (0..1) of points on a solid: its texture, diffusely lit."""
    axes, centre = solid.motion(time)
    local = (points - centre) @ axes
    if solid.is_ball:
        normals = local / solid.half
        uv = np.stack([np.arctan2(local[:, 0], local[:, 2]), np.arcsin(normals[:, 1].clip(-1, 1))], -1) * solid.half[0]
    else:
        face = np.abs(local / solid.half).argmax(-1)  # the axis across the face
        rows = np.arange(len(local))
        normals = np.zeros_like(local)
        normals[rows, face] = np.sign(local[rows, face])
        across = np.array([[2, 1], [0, 2], [0, 1]])[face]
        uv = np.take_along_axis(local, across, axis=1)
    texel = uv / solid.tile * TEXELS - 0.5
    corner = np.floor(texel).astype(int)
    (s, t), (right, up) = (texel - corner).T[..., None], corner.T % TEXELS
    right_next, up_next = (right + 1) % TEXELS, (up + 1) % TEXELS
    below = (1 - s) * solid.texture[up, right] + s * solid.texture[up, right_next]
    above = (1 - s) * solid.texture[up_next, right] + s * solid.texture[up_next, right_next]
    light = AMBIENT + (1.0 - AMBIENT) * np.maximum(normals @ axes.T @ LIGHT, 0.0)
    return ((1 - t) * below + t * above) * light[:, None]
