"""A small synthetic dynamic scene with exact depth, flow and masks, as a scene folder (layout: docs/files.md).

Note:
    The conventions (pixel 0 at integer 0, principal point W / 2) hold exactly at training size. A pixel of `images/`
    covers a quarter of a training pixel, so that the conventions are off by half a pixel there.
"""

import dataclasses
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import imageio.v3 as iio
import numpy as np
from jaxtyping import Bool, Float, UInt8

from nsff.demo.camera import Camera, look_at, rotation
from nsff.demo.paint import Picture, to_display, to_texture
from nsff.demo.raycast import Hits, exact_flow, render
from nsff.demo.solids import Placement, Solid
from nsff.demo.textures import (
    beach_ball,
    books,
    bricks,
    crate,
    flag,
    flow_poster,
    jelly,
    letter_blocks,
    parquet,
    planks,
    rug,
    sunset_poster,
    tram,
    window,
)
from nsff.errors import InputError
from nsff.geometry.poses import to_llff
from nsff.io import atomic_write, write_array
from nsff.prep.ffmpeg import count_frames
from nsff.scene_folder import N_CAMERAS

PATHS = ("cameras", "smooth", "orbit")
IMAGES_SCALE = 2  # Size of `images/` over that of the training frames.
RAYS_PER_SIDE = 2 * IMAGES_SCALE  # Per training pixel: 2 x 2 rays per pixel of `images/`.
FOCAL_PER_WIDTH = 0.85
VIDEO_FPS, VIDEO_QUALITY = 12, 9
TEXELS = 512  # Side of a texture tile.
FLOOR = -1.2  # Height of the floor.
JELLY = 0.6  # Radius at rest.
TRAM = 0.66, 0.36, 0.25  # Half its sides.
POLE = 2.0, -6.9  # Foot of the flag's pole: right, back.
FLAG = 0.95, 0.57, 0.18  # Half its width and height, and the amplitude of its waves.
SIDE_WALL = 7.5  # Distance of the walls at the sides from the middle of the room.
ORBIT_CENTRE, ORBIT_RADIUS, ORBIT_ANGLE = (0.0, -0.15, -5.9), 5.7, 120.0  # what moves stands there; degrees
FLAG_YAW = -0.5  # Mean angle to the image plane, radians.

Floats = Float[np.ndarray, "*b"]
Motion = Callable[[float], Placement]
Painter = Callable[[np.random.Generator, int], Picture]
Tile = tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class DemoSettings:
    """Settings of the synthetic scene.

    Attributes:
        width: training width, pixels.
        height: training height, pixels.
        n_frames: frames of the video.
        seed: seed of the textures.
        path: `cameras` = camera t mod 12 of a row at time t, with held-out views; `smooth` = one hand-held camera;
            `orbit` = a camera that goes around what moves and back, in 24 frames, with held-out views from the places
            of the first 12.
    """

    width: int = 128
    height: int = 72
    n_frames: int = 24
    seed: int = 0
    path: str = "cameras"


def wobble(time: float) -> Placement:
    """Motion of the jelly: slides over the floor to the right (back after frame 27), and is squashed and sheared."""
    tall = 1.0 + 0.16 * math.sin(math.pi * time / 4)
    wide = tall**-0.5  # preserves its volume
    lean = 0.2 * math.sin(math.pi * time / 5)
    matrix = np.array([[wide, lean, 0.0], [0.0, tall, 0.0], [0.0, 0.0, wide]])
    return matrix, np.array([-0.3 - 1.15 * math.cos(math.pi * (time + 3.0) / 30), FLOOR + JELLY * tall, -5.2])


def flutter(time: float) -> Placement:
    """Motion of the flag: swings about its pole."""
    axes = rotation(1, FLAG_YAW + 0.42 * math.sin(2.0 * math.pi * time / 11.0))
    return axes, np.array([POLE[0], 0.95, POLE[1]]) - FLAG[0] * axes[:, 0]


def wave(x: Floats, y: Floats, time: float) -> Floats:
    """Height of the flag over its plane: waves run away from its pole, and grow."""
    outward = (FLAG[0] - x) / (2.0 * FLAG[0])  # 0 at the pole, 1 at the free edge
    return FLAG[2] * outward * np.sin(2.0 * math.pi * (0.9 * outward + 0.15 * y - time / 8.0))


def drive(time: float) -> Placement:
    """Motion of the tram: from the right, behind the jelly, to the left (back after frame 30), on soft springs."""
    axes = rotation(2, 0.02 * math.sin(1.3 * time))
    progress = ((1.0 - math.cos(math.pi * time / 30)) / 2.0) ** 1.5
    return axes, np.array([1.6 - 3.35 * progress, FLOOR + TRAM[1] + 0.02, -6.2])


def build_solids(seed: int, walls: bool = False) -> tuple[Solid, ...]:
    """Build the solids of the scene, at depths from 2 (blocks) to 10 (wall); the seed changes their textures only.

    `walls` adds those at the sides, which no camera in front of the scene sees.
    """
    rng = np.random.default_rng(seed)

    def still(*centre: float, yaw: float = 0.0) -> Motion:
        placed = rotation(1, yaw), np.array(centre)
        return lambda _time: placed

    def texture(painter: Painter) -> Picture:
        return to_texture(painter(rng, TEXELS))

    def box(
        half: tuple[float, float, float], motion: Motion, painter: Painter, tile: Tile = None, **style: Any
    ) -> Solid:
        lies = half[1] < half[2]  # the picture is on its top
        front = 2.0 * half[0], 2.0 * (half[2] if lies else half[1])
        return Solid(np.array(half), motion, texture(painter), tile or front, **style)

    def ball(radius: float, motion: Motion, painter: Painter, **style: Any) -> Solid:
        tile = math.pi * radius, math.pi * radius  # two tiles per turn, so that the texture closes
        return Solid(np.full(3, radius), motion, texture(painter), tile, "ball", gloss=0.15, **style)

    cloth = Solid(np.array(FLAG), flutter, texture(flag), (2 * FLAG[0], 2 * FLAG[1]), "cloth", moving=True, wave=wave)
    room = (  # from near to far, so that few occluded points are shaded
        box((0.1, 1.2, 0.1), still(1.0, 0.0, -2.1, yaw=0.35), letter_blocks),
        ball(0.33, still(1.5, FLOOR + 0.33, -4.1, yaw=-0.4), beach_ball),
        box((0.42, 0.42, 0.42), still(-2.2, FLOOR + 0.42, -4.4, yaw=0.5), crate),
        ball(JELLY, wobble, jelly, moving=True),
        box(TRAM, drive, tram, moving=True),
        cloth,
        box((0.04, 1.4, 0.04), still(POLE[0], FLOOR + 1.4, POLE[1]), planks, (0.5, 0.5)),
        box((2.2, 1.9, 0.12), still(-3.5, 0.7, -7.0, yaw=0.9), books),
        box((1.75, 0.012, 1.1), still(-0.3, FLOOR + 0.012, -5.4), rug, casts_shadow=False),
        box((24.0, 0.1, 10.0), still(0.0, FLOOR - 0.1, -8.0), parquet, (6.0, 6.0), casts_shadow=False),
        box((1.1, 0.88, 0.05), still(-1.75, 1.75, -9.95), window, glow=0.55, casts_shadow=False),
        box((0.72, 1.0, 0.03), still(0.35, 1.55, -9.97), flow_poster, casts_shadow=False),
        box((0.58, 0.8, 0.03), still(4.3, 1.3, -9.97), sunset_poster, casts_shadow=False),
        box((24.0, 12.0, 0.1), still(0.0, 0.0, -10.1), bricks, (12.0, 6.0), casts_shadow=False),
    )
    sides = (-SIDE_WALL, SIDE_WALL) if walls else ()
    quarter_turn = 0.5 * math.pi
    return room + tuple(
        box((9.0, 12.0, 0.1), still(x, 0.0, -5.0, yaw=quarter_turn), books, (6.0, 5.0), casts_shadow=False)
        for x in sides
    )


def build_cameras(settings: DemoSettings) -> list[Camera]:
    """Build the cameras: twelve in a row, one per frame (`smooth`), or 24 places of an orbit, twelve each way.

    Camera t mod len takes the video at time t.
    """
    views = []
    if settings.path == "cameras":
        for k in range(N_CAMERAS):
            views.append(([0.075 * (k - 5.5), 0.04 * math.sin(2.4 * k), 0.0], [0.0, -0.15, -6.0]))
    elif settings.path == "orbit":
        last = N_CAMERAS - 1
        for k in range(2 * N_CAMERAS):
            # The way back leads between the places of the first twelve, which are held out at its times.
            step = k if k <= last else last - 0.5 - (last - 1) * (k - N_CAMERAS) / last
            angle = math.radians(ORBIT_ANGLE) * (step / last - 0.5)
            x, y, z = ORBIT_CENTRE
            offset = [ORBIT_RADIUS * math.sin(angle), 0.12 * math.sin(2.4 * k), ORBIT_RADIUS * math.cos(angle)]
            views.append(([x + offset[0], y + offset[1], z + offset[2]], [x, y, z]))
    else:
        for t in range(settings.n_frames):
            centre = [-0.4 * math.cos(math.pi * t / 24), 0.05 * math.sin(t / 2.1), 0.08 * math.sin(t / 3.3)]
            views.append((centre, [0.1 * math.sin(t / 2.7), 0.08 * math.cos(t / 1.9) - 0.15, -6.0]))
    poses = [look_at(np.array(centre), np.array(target)) for centre, target in views]
    return [Camera(pose, settings.width, settings.height, FOCAL_PER_WIDTH * settings.width) for pose in poses]


def write_demo_scene(data_path: Path, settings: DemoSettings, overwrite: bool = False) -> None:
    """Write the scene as the folder `data_path`; it appears under that name only when it is complete.

    Raises:
        InputError: the folder is not empty and `overwrite` is not set, or it cannot be written.
    """
    target = data_path.resolve()
    if target.exists() and not target.is_dir():
        raise InputError(f"{data_path} is a file; give the folder to write")
    occupied = target.is_dir() and any(target.iterdir())
    if occupied and not overwrite:
        raise InputError(f"{data_path} exists and is not empty; add --overwrite to replace it")
    if occupied and target in (Path.cwd(), *Path.cwd().parents):
        raise InputError(f"{data_path} contains the current folder and cannot be replaced; change to another folder")
    partial, old = (target.with_name(f"{target.name}.{state}-{os.getpid()}") for state in ("partial", "old"))
    try:
        partial.mkdir(parents=True)
        _write_files(partial, build_solids(settings.seed, walls=settings.path == "orbit"), settings)
        if target.exists():
            target.rename(old)
        partial.rename(target)
    except OSError as error:
        raise InputError(f"cannot write {data_path} ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _write_files(folder: Path, solids: tuple[Solid, ...], settings: DemoSettings) -> None:
    cameras = build_cameras(settings)
    frames = _write_images(folder, solids, settings, cameras)
    for t, hits in enumerate(frames):
        camera = cameras[t % len(cameras)]
        for name, other in ((f"{t:05d}_fwd", t + 1), (f"{t:05d}_bwd", t - 1)):
            if 0 <= other < len(frames):
                pair = camera, cameras[other % len(cameras)]
                flow, mask = exact_flow(solids, hits, pair, (float(t), float(other)))
                np.savez_compressed(_create_parent(folder / f"flow_i1/{name}.npz"), flow=flow, mask=mask)
    used = [cameras[t % len(cameras)] for t in range(len(frames))]
    sizes_and_focals = IMAGES_SCALE * np.array([[camera.height, camera.width, camera.focal] for camera in used])
    bounds = np.array([[hits.depth.min(), hits.depth.max()] for hits in frames])
    poses_bounds = to_llff(np.stack([camera.c2w for camera in used]), sizes_and_focals, bounds)
    write_array(folder / "poses_bounds.npy", poses_bounds)


def _write_images(folder: Path, solids: tuple[Solid, ...], settings: DemoSettings, cameras: list[Camera]) -> list[Hits]:
    """Write images, masks and disparities; return the hits of the rays through the pixel centres, per frame."""
    n_heldout = 0 if settings.path == "smooth" else N_CAMERAS
    size = settings.width, settings.height
    large_size = settings.width * IMAGES_SCALE, settings.height * IMAGES_SCALE
    moving = np.array([solid.moving for solid in solids])
    frames = {}
    for k, camera in enumerate(cameras):
        static, static_centres = (render(solids, 0.0, camera, rays) for rays in (RAYS_PER_SIDE, 1))
        times = range(settings.n_frames) if k < n_heldout else range(k, settings.n_frames, len(cameras))
        for t in times:
            hits = render(solids, float(t), camera, RAYS_PER_SIDE, static)
            large = to_display(cv2.resize(hits.rgb, large_size, interpolation=cv2.INTER_AREA))
            if k < n_heldout:
                coverage = cv2.resize(moving[hits.solid].astype(np.float32), large_size, interpolation=cv2.INTER_AREA)
                name = f"{t:05d}/cam{k + 1:02d}"
                # Without chroma subsampling: metrics are measured against these images.
                iio.imwrite(_create_parent(folder / f"mv_images/{name}.jpg"), large, quality=95, subsampling=0)
                iio.imwrite(_create_parent(folder / f"mv_masks/{name}.png"), _to_mask(coverage > 0.5))
            if t % len(cameras) == k:
                small = cv2.resize(large, size, interpolation=cv2.INTER_AREA)
                centres = render(solids, float(t), camera, 1, static_centres)
                frames[t] = centres
                iio.imwrite(_create_parent(folder / f"images/{t:05d}.png"), large)
                iio.imwrite(_create_parent(folder / f"images_{size[0]}x{size[1]}/{t:05d}.png"), small)
                iio.imwrite(_create_parent(folder / f"motion_masks/{t:05d}.png"), _to_mask(moving[centres.solid]))
                write_array(_create_parent(folder / f"disp/{t:05d}.npy"), (1.0 / centres.depth).astype(np.float32))
    return [frames[t] for t in range(settings.n_frames)]


def write_video(path: Path, frames: list[Path]) -> None:
    """Write frames as an mp4 video (h264), with the artefacts of compression that a real video has.

    Raises:
        InputError: the file cannot be written.
    """
    images = np.stack([iio.imread(frame) for frame in frames])
    try:
        with atomic_write(path) as partial:
            iio.imwrite(partial, images, plugin="FFMPEG", fps=VIDEO_FPS, quality=VIDEO_QUALITY, macro_block_size=2)
            if count_frames(partial) != len(frames):  # ffmpeg reports no error on a full disk
                raise OSError("not all frames were written; is the disk full?")
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror or error})") from error


def _to_mask(moving: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    return np.where(moving, 255, 0).astype(np.uint8)


def _create_parent(path: Path) -> Path:
    """Create the folder of a file, and return the path of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
