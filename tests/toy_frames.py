"""Small frames and cameras for tests of the preparation."""

from pathlib import Path

import cv2
import numpy as np
from nsff.io import write_image

K = np.array([[80.0, 0.0, 32.0], [0.0, 80.0, 18.0], [0.0, 0.0, 1.0]])
SIZE = (36, 64)


def look_from(x: float) -> np.ndarray:
    """w2c of a camera at (x, 0, 0) that looks along +z."""
    return np.concatenate([np.eye(3), [[-x], [0.0], [0.0]]], axis=1)


def textured(seed: int, height: int = 120, width: int = 200) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def write_frames(folder: Path) -> None:
    for k in range(12):
        write_image(folder / f"{k:02d}.png", textured(k))


def write_frames_of_two_sizes(folder: Path) -> None:
    for k in range(12):
        write_image(folder / f"{k:02d}.png", textured(k, 60, 80 if k < 7 else 84))
