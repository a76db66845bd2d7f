"""Black bars are cut exactly, dark scenes are not."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from made_clips import H264, frames_of, write_raw
from nsff.images import list_images, read_image
from nsff.io import write_image
from nsff.prep.black_bars import PictureBox, find_picture
from nsff.prep.capture import _without_bars
from nsff.prep.video import FrameSource, extract_frames
from toy_frames import textured

HEIGHT, WIDTH = 120, 200


def panned(n_frames: int = 12, step: int = 6) -> np.ndarray:
    """A textured picture in front of which the camera pans."""
    coarse = textured(1, HEIGHT // 2, (WIDTH + step * n_frames) // 2)
    wide = cv2.resize(coarse, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    return np.stack([wide[:, step * k : step * k + WIDTH] for k in range(n_frames)])


def padded(frames: np.ndarray, rows: tuple[int, int], columns: tuple[int, int], level: int, noise: float) -> np.ndarray:
    """Frames inside bars of a grey level, with noise all over."""
    bars = np.pad(frames, ((0, 0), rows, columns, (0, 0)), constant_values=level).astype(float)
    noisy = bars + np.random.default_rng(0).normal(0.0, noise, bars.shape) if noise else bars
    return noisy.round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("rows", "columns", "level", "noise"),
    [
        ((20, 20), (0, 0), 0, 0.0),
        ((13, 21), (0, 0), 0, 0.0),
        ((0, 0), (37, 37), 0, 0.0),
        ((16, 16), (40, 40), 0, 0.0),
        ((0, 8), (0, 0), 0, 0.0),  # 1088 rows of 1080
        ((20, 20), (0, 0), 12, 4.0),  # not quite black, with noise
        ((0, 0), (30, 30), 20, 3.0),
    ],
)
def test_bars_are_found_to_the_pixel(rows, columns, level, noise):
    box = find_picture(iter(padded(panned(), rows, columns, level, noise)))
    assert box == PictureBox(rows[0], rows[0] + HEIGHT, columns[0], columns[0] + WIDTH)


def dark_border(frames: np.ndarray) -> np.ndarray:
    """Rows at the top and the bottom are so dark that levels of up to 30 are left."""
    light = np.full(HEIGHT, 0.9)
    light[:25] = light[-25:] = 0.12
    return (frames * light[:, None, None]).astype(np.uint8)


def vignetted(frames: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    return (frames * np.clip(1.05 - x**2 - y**2, 0.0, 1.0)[..., None] * 0.6).astype(np.uint8)


def night_sky(frames: np.ndarray) -> np.ndarray:
    """Black above a skyline of houses of many heights, which moves with the camera."""
    heights = np.repeat(np.random.default_rng(4).integers(30, 70, 60), 10)
    scene = frames.copy()
    for k, frame in enumerate(scene):
        frame[np.arange(HEIGHT)[:, None] < heights[6 * k : 6 * k + WIDTH]] = 0
    return scene


def night(frames: np.ndarray) -> np.ndarray:
    return (frames * 0.12).astype(np.uint8)


@pytest.mark.parametrize("darken", [dark_border, vignetted, night_sky, night])
def test_dark_scenes_are_not_cut(darken):
    assert find_picture(iter(darken(panned()))) is None


def test_bars_of_a_night_scene_are_found():
    box = find_picture(iter(padded(night(panned()), (20, 20), (0, 0), 0, 0.0)))
    assert box == PictureBox(20, 20 + HEIGHT, 0, WIDTH)


def test_bars_of_a_video_are_cut_and_said(tmp_path, caplog):
    clip = write_raw(tmp_path / "bars.mp4", padded(panned(), (20, 20), (0, 0), 0, 0.0), *H264)
    frames = frames_of(clip, tmp_path)
    assert (frames.full_size, frames.picture) == ((200, 160), PictureBox(20, 140, 0, 200))
    assert read_image(frames.paths[3]).shape[:2] == (HEIGHT, WIDTH)
    expected = "black bars are cut: 200x160 to 200x120 (20 rows above, 20 below, 0 columns left, 0 right)"
    assert expected in caplog.messages


def test_bars_of_images_are_cut(tmp_path):
    for k, frame in enumerate(padded(panned(), (0, 0), (30, 30), 0, 0.0)):
        write_image(tmp_path / "in" / f"{k}.png", frame)
    frames = extract_frames(tmp_path / "frames", FrameSource(images=tmp_path / "in"))
    for path, picture in zip(frames.paths, panned(), strict=True):
        np.testing.assert_array_equal(read_image(path), picture)


def test_bars_that_end_are_no_bars(tmp_path):
    """One frame in which something is lit above the picture: it belongs to the picture in all frames."""
    frames = padded(panned(40), (20, 20), (0, 0), 0, 0.0)
    frames[21, :140] = textured(9, 140, 200)
    for k, frame in enumerate(frames):
        write_image(tmp_path / "in" / f"{k}.png", frame)
    found = extract_frames(tmp_path / "frames", FrameSource(images=tmp_path / "in"))
    assert found.picture == PictureBox(0, 140, 0, 200)


def test_masks_of_the_whole_frame_are_cut_likewise(tmp_path: Path):
    clip = write_raw(tmp_path / "bars.mp4", padded(panned(), (20, 20), (0, 0), 0, 0.0), *H264)
    frames = frames_of(clip, tmp_path)
    mask = np.zeros((160, 200), bool)
    mask[30:50, 60:80] = True
    np.testing.assert_array_equal(_without_bars(mask, frames), mask[20:140])
    half = cv2.resize(mask.astype(np.uint8), (100, 80), interpolation=cv2.INTER_NEAREST).astype(bool)
    np.testing.assert_array_equal(_without_bars(half, frames), mask[20:140])
    np.testing.assert_array_equal(_without_bars(mask[20:140], frames), mask[20:140])  # already of the picture
    assert len(list_images(frames.paths[0].parent)) == 12
