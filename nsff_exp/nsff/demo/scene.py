"""A small synthetic moving scene with exact depth, flow and masks, as a scene folder (layout: docs/files.md).

Note:
    The conventions (pixel 0 at integer 0, principal point W / 2) hold exactly at training size. A pixel of `images/`
    is a quarter of a training pixel, so that its centre lies half a pixel of `images/` away from where they put it.
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
from jaxtyping import Float

from nsff.demo.raycast import Camera, Layer, Placement, Solid, exact_flow, look_at, render, rotation
from nsff.errors import InputError
from nsff.io import write_array
from nsff.prep.video import probe_video
from nsff.scene_folder import N_CAMERAS

PATHS = ("cameras", "smooth")
IMAGES_SCALE = 2  # images/ are so many times larger than the training frames
RAYS_A_SIDE = 2 * IMAGES_SCALE  # of a training pixel: 2 x 2 a pixel of images/
FOCAL_PER_WIDTH = 0.85
VIDEO_FPS, VIDEO_QUALITY = 12, 9
TEXELS = 512  # a side of a texture tile
FLOOR = -1.2  # height
JELLY = 0.6  # radius at rest
POLE = 1.75, -6.3  # where it stands on the floor: right, back
FLAG = 0.85, 0.5, 0.18  # half its width and height, most it waves
FLAG_YAW = -0.5  # turned so much from the picture plane

Floats = Float[np.ndarray, "*b"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to make. Sizes in training pixels.

    `path`: `cameras` = camera t mod 12 of a row at time t, with held-out views; `smooth` = one hand-held camera.
    """

    width: int = 128
    height: int = 72
    n_frames: int = 24
    seed: int = 0
    path: str = "cameras"


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
    """A periodic tile of cells in random colours, with joints, dots, stains and grain.

    Args:
        rng: source of everything random.
        hues: the colours the cells are drawn from, 0..1 around the colour circle.
        cells: rows and columns of cells (rows even where they are staggered).
        stagger: shift of every second row, in cells (0.5 = bricks).
        dot: radius of a dot in each cell, in cells; 0 = none.

    Returns:
        Albedo, 0..1.
    """
    rows, columns = cells
    grid = (np.arange(TEXELS) + 0.5) / TEXELS
    down, right = np.meshgrid(grid * rows, grid * columns, indexing="ij")
    right = right + stagger * (down.astype(int) % 2)
    cell = down.astype(int) * columns + right.astype(int) % columns
    off_down, off_right = np.abs(down % 1.0 - 0.5), np.abs(right % 1.0 - 0.5)

    def paint() -> Float[np.ndarray, "T T 3"]:
        hue = rng.choice(hues, rows * columns) + rng.normal(0.0, 0.02, rows * columns)
        wave = np.cos(2.0 * np.pi * (hue[:, None] - np.array([0.0, 1 / 3, 2 / 3])))
        return (rng.uniform(0.35, 0.8, (rows * columns, 1)) * (1.0 + 0.4 * wave))[cell]

    texture = np.where((np.hypot(off_down, off_right) < dot)[..., None], paint(), paint())
    joint = (off_down > 0.5 - 0.05 * rows / columns) | (off_right > 0.45)
    texture = np.where(joint[..., None], 0.2, texture)
    stains = 1.0 + 0.22 * np.tanh(1.5 * band_noise(rng, 2.0, 10.0)) + 0.14 * band_noise(rng, 8.0, 64.0)
    return (texture * stains[..., None]).clip(0.02, 1.0).astype(np.float32)


def wobble(time: float) -> Placement:
    """The jelly: slides over the floor to the right (back again after frame 27), squashed and leaning in turn."""
    tall = 1.0 + 0.16 * math.sin(math.pi * time / 4)
    wide = tall**-0.5  # its volume stays
    lean = 0.2 * math.sin(math.pi * time / 5)
    matrix = np.array([[wide, lean, 0.0], [0.0, tall, 0.0], [0.0, 0.0, wide]])
    return matrix, np.array([-0.3 - 1.15 * math.cos(math.pi * (time + 3.0) / 30), FLOOR + JELLY * tall, -5.2])


def flutter(time: float) -> Placement:
    """The flag: swings about its pole."""
    axes = rotation(1, FLAG_YAW + 0.3 * math.sin(2.0 * math.pi * time / 11.0))
    return axes, np.array([POLE[0], 0.75, POLE[1]]) - FLAG[0] * axes[:, 0]


def wave(x: Floats, y: Floats, time: float) -> Floats:
    """How far the flag lies off its plane: waves run away from its pole, and grow."""
    out = (FLAG[0] - x) / (2.0 * FLAG[0])  # 0 at the pole, 1 at the free edge
    return FLAG[2] * out * np.sin(2.0 * math.pi * (0.9 * out + 0.15 * y - time / 8.0))


def build_solids(seed: int) -> tuple[Solid, ...]:
    """The things of the scene, at depths of about 2 (pillar) to 10 (wall); the seed changes their looks only."""
    rng = np.random.default_rng(seed)

    def still(*centre: float, yaw: float = 0.0) -> Callable[[float], Placement]:
        placed = rotation(1, yaw), np.array(centre)
        return lambda _time: placed

    def box(half: tuple[float, float, float], motion: Callable[[float], Placement], tile: float, **look: Any) -> Solid:
        return Solid(np.array(half), motion, make_texture(rng, **look), tile)

    def ball(radius: float, motion: Callable[[float], Placement], **look: Any) -> Solid:
        tile = math.pi * radius  # twice around, so that the texture closes
        return Solid(np.full(3, radius), motion, make_texture(rng, **look), tile, "ball")

    bricks, dots = {"cells": (10, 5), "stagger": 0.5}, {"cells": (4, 4), "dot": 0.3}
    banner = make_texture(rng, hues=(0.13, 0.17), cells=(2, 2), dot=0.35)
    return (  # from near to far, so that little is shaded in vain
        box((0.08, 1.2, 0.08), still(0.95, 0.0, -2.1, yaw=0.35), 0.5, hues=(0.0, 0.6, 0.15), **dots),
        box((0.4, 0.4, 0.4), still(-2.0, FLOOR + 0.4, -4.4, yaw=0.5), 0.9, hues=(0.08, 0.12), cells=(3, 3)),
        dataclasses.replace(ball(JELLY, wobble, hues=(0.95, 0.05), **dots), moving=True),
        box((0.04, 1.4, 0.04), still(POLE[0], FLOOR + 1.4, POLE[1]), 0.4, hues=(0.15,), cells=(4, 4)),
        Solid(np.array(FLAG), flutter, banner, 1.0, "sheet", moving=True, wave=wave),
        ball(0.5, still(0.6, FLOOR + 0.5, -6.6), hues=(0.3, 0.4, 0.7), **dots),
        box((24.0, 0.1, 10.0), still(0.0, FLOOR - 0.1, -8.0), 6.0, hues=(0.12, 0.33, 0.5), cells=(6, 6)),
        box((2.2, 1.9, 0.05), still(-3.5, 0.7, -7.0, yaw=0.9), 2.4, hues=(0.4, 0.55, 0.15), **dots),
        box((24.0, 12.0, 0.1), still(0.0, 0.0, -10.1), 5.0, hues=(0.02, 0.05, 0.1, 0.6), **bricks),
    )


def build_cameras(settings: Settings) -> list[Camera]:
    """The cameras; the video takes number t mod len at time t: twelve in a row, or one for each frame (`smooth`)."""
    views = []
    if settings.path == "cameras":
        for k in range(N_CAMERAS):
            views.append(([0.075 * (k - 5.5), 0.04 * math.sin(2.4 * k), 0.0], [0.0, -0.15, -6.0]))
    else:
        for t in range(settings.n_frames):
            centre = [-0.4 * math.cos(math.pi * t / 24), 0.05 * math.sin(t / 2.1), 0.08 * math.sin(t / 3.3)]
            views.append((centre, [0.1 * math.sin(t / 2.7), 0.08 * math.cos(t / 1.9) - 0.15, -6.0]))
    poses = [look_at(np.array(centre), np.array(target)) for centre, target in views]
    return [Camera(pose, settings.width, settings.height, FOCAL_PER_WIDTH * settings.width) for pose in poses]


def write_demo_scene(data_path: Path, settings: Settings, overwrite: bool = False) -> None:
    """Write the scene as the folder `data_path`; it appears under that name only when it is complete.

    Raises:
        InputError: something is there already and `overwrite` is not set, or the folder cannot be written.
    """
    target = data_path.resolve()
    if target.exists() and not target.is_dir():
        raise InputError(f"{data_path} is a file; give the folder to write")
    occupied = target.is_dir() and any(target.iterdir())
    if occupied and not overwrite:
        raise InputError(f"{data_path} is there and not empty; add --overwrite to replace it")
    if occupied and target in (Path.cwd(), *Path.cwd().parents):
        raise InputError(f"{data_path} holds the current folder; it is not replaced")
    partial, old = (target.with_name(f"{target.name}.{word}-{os.getpid()}") for word in ("partial", "old"))
    try:
        partial.mkdir(parents=True)
        _write_files(partial, build_solids(settings.seed), settings)
        if target.exists():
            target.rename(old)
        partial.rename(target)
    except OSError as error:
        raise InputError(f"cannot write {data_path} ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _write_files(folder: Path, solids: tuple[Solid, ...], settings: Settings) -> None:
    cameras = build_cameras(settings)
    layers = _write_pictures(folder, solids, settings, cameras)
    rows = []
    for t, layer in enumerate(layers):
        camera = cameras[t % len(cameras)]
        right, up, back, centre = camera.c2w.T
        size = IMAGES_SCALE * np.array([camera.height, camera.width, camera.focal])
        matrix = np.stack([-up, right, back, centre, size], axis=1)
        rows.append([*matrix.ravel(), layer.depth.min(), layer.depth.max()])
        for name, other in ((f"{t:05d}_fwd", t + 1), (f"{t:05d}_bwd", t - 1)):
            if 0 <= other < len(layers):
                pair = camera, cameras[other % len(cameras)]
                flow, mask = exact_flow(solids, layer, pair, (float(t), float(other)))
                np.savez_compressed(_place(folder, f"flow_i1/{name}.npz"), flow=flow, mask=mask)
    write_array(folder / "poses_bounds.npy", np.array(rows))


def _write_pictures(folder: Path, solids: tuple[Solid, ...], settings: Settings, cameras: list[Camera]) -> list[Layer]:
    """Pictures, masks and disparities. Returns what the centres of the pixels see, for each frame of the video."""
    has_views = settings.path == "cameras"
    size = settings.width, settings.height
    large_size = settings.width * IMAGES_SCALE, settings.height * IMAGES_SCALE
    moving = np.array([solid.moving for solid in solids])
    layers = {}
    for k, camera in enumerate(cameras):
        still, still_centres = (render(solids, 0.0, camera, rays) for rays in (RAYS_A_SIDE, 1))
        for t in range(settings.n_frames) if has_views else [k]:
            rays = render(solids, float(t), camera, RAYS_A_SIDE, still)
            large = cv2.resize(rays.rgb * 255.0, large_size, interpolation=cv2.INTER_AREA).round().astype(np.uint8)
            small = cv2.resize(large, size, interpolation=cv2.INTER_AREA)
            centres = render(solids, float(t), camera, 1, still_centres)
            mask = np.where(moving[centres.solid], 255, 0).astype(np.uint8)
            if has_views:
                name = f"{t:05d}/cam{k + 1:02d}"
                # colours at full resolution: what the metrics are measured against should be like the video
                iio.imwrite(_place(folder, f"mv_images/{name}.jpg"), large, quality=95, subsampling=0)
                shares = cv2.resize(moving[rays.solid].astype(np.float32), large_size, interpolation=cv2.INTER_AREA)
                large_mask = np.where(shares > 0.5, 255, 0).astype(np.uint8)
                iio.imwrite(_place(folder, f"mv_masks/{name}.png"), large_mask)
            if t % len(cameras) == k:
                layers[t] = centres
                iio.imwrite(_place(folder, f"images/{t:05d}.png"), large)
                iio.imwrite(_place(folder, f"images_{size[0]}x{size[1]}/{t:05d}.png"), small)
                iio.imwrite(_place(folder, f"motion_masks/{t:05d}.png"), mask)
                write_array(_place(folder, f"disp/{t:05d}.npy"), (1.0 / centres.depth).astype(np.float32))
    return [layers[t] for t in range(settings.n_frames)]


def write_video(path: Path, frames: list[Path]) -> None:
    """The frames as an mp4 (h264), as a camera would write it.

    Raises:
        InputError: it cannot be written.
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures = np.stack([iio.imread(frame) for frame in frames])
        iio.imwrite(partial, pictures, plugin="FFMPEG", fps=VIDEO_FPS, quality=VIDEO_QUALITY, macro_block_size=2)
        if probe_video(partial)[0] != len(frames):  # ffmpeg says nothing where the disk is full
            raise OSError("not all frames were written; is the disk full?")
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)


def _place(folder: Path, name: str) -> Path:
    """The path of a file, in a folder that exists."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
