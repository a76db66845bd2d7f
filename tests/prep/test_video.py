"""Frames of a video or folder: which are taken, their sizes and order."""

import imageio.v3 as iio
import numpy as np
import pytest
from nsff.errors import InputError
from nsff.images import read_image
from nsff.io import write_image
from nsff.prep.ffmpeg import count_frames
from nsff.prep.video import FrameSource, extract_frames, shrink
from toy_frames import textured


def test_shrink_gives_even_sides():
    assert shrink(np.zeros((481, 855, 3), np.uint8), 1024).shape == (480, 854, 3)
    assert shrink(np.zeros((1080, 1920, 3), np.uint8), 960).shape == (540, 960, 3)


def test_extract_frames_of_video_in_order(tmp_path):
    video = [textured(k) for k in range(12)]
    iio.imwrite(tmp_path / "my clip.mp4", np.stack(video), plugin="FFMPEG", fps=12, macro_block_size=2, quality=9)
    assert count_frames(tmp_path / "my clip.mp4") == 12
    frames = extract_frames(tmp_path / "frames", FrameSource(video=tmp_path / "my clip.mp4"))
    paths = frames.paths
    np.testing.assert_allclose(frames.times, np.arange(12) / 12)
    assert [path.name for path in paths] == [f"{k:05d}.png" for k in range(12)]
    for k, path in enumerate(paths):
        errors = [np.abs(read_image(path).astype(int) - frame).mean() for frame in video]
        assert np.argmin(errors) == k
        assert errors[k] < 0.3 * np.median(errors)


def test_extract_frames_refuses_foreign_folder(tmp_path):
    for k in range(12):
        write_image(tmp_path / "frames" / f"{k:02d}.png", textured(k))
    with pytest.raises(InputError, match="frames was not made by run_colmap"):
        extract_frames(tmp_path / "frames", FrameSource(images=tmp_path / "frames"))
    assert len(list((tmp_path / "frames").iterdir())) == 12


def test_extract_frames_in_natural_order(tmp_path):
    for k in range(12):
        write_image(tmp_path / "in" / f"frame{k}.png", np.full((60, 80, 3), 0, np.uint8) + textured(k, 60, 80))
    paths = extract_frames(tmp_path / "frames", FrameSource(images=tmp_path / "in")).paths
    np.testing.assert_array_equal(read_image(paths[2]), textured(2, 60, 80))  # not frame10
