"""Small frames and cameras for tests of the preparation."""

import cv2
import numpy as np

K = np.array([[80.0, 0.0, 32.0], [0.0, 80.0, 18.0], [0.0, 0.0, 1.0]])
SIZE = (36, 64)


def look_from(x: float) -> np.ndarray:
    """w2c of a camera at (x, 0, 0) that looks along +z."""
    return np.concatenate([np.eye(3), [[-x], [0.0], [0.0]]], axis=1)


def textured(seed: int, height: int = 120, width: int = 200) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
