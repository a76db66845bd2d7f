"""Co-visibility masks of shifted images."""

import logging
import os
import shutil

import cv2
import numpy as np
import pytest
from nsff.errors import InputError
from nsff.images import read_image
from nsff.prep.covisibility import covisible, ends_inside, make_covisibility
from nsff.prep.flow import DisFlow
from nsff.scene_folder import SceneFolder


def shift_flow(shift: int):
    """Exact flow between a view and frames shifted by `shift` pixels."""

    def method(first, second):
        sign = 1.0 if first.max() == 1 else -1.0  # the view is 1 everywhere
        return np.stack(
            [np.full(first.shape[:2], sign * shift, np.float32), np.zeros(first.shape[:2], np.float32)], axis=-1
        )

    return method


def test_covisible_excludes_pixels_outside_of_frames():
    view, frame = np.full((20, 40, 3), 1, np.uint8), np.zeros((20, 40, 3), np.uint8)
    mask = covisible(view, [frame] * 6, shift_flow(10))
    assert mask[:, :28].all()
    assert not mask[:, 31:].any()
    assert not covisible(view, [frame] * 4, shift_flow(10)).any()  # at least five frames are needed
    assert not ends_inside(np.full((5, 5, 2), -9.0, np.float32)).any()


def test_make_covisibility_masks_strip_outside_of_video_and_follows_its_view(tmp_path, caplog):
    """A texture shifted by 12 pixels: the strip outside of the video is black; masks of others are not replaced."""
    rng = np.random.default_rng(0)
    noise = rng.random((72, 240, 3), dtype=np.float32)
    scales = [
        cv2.normalize(cv2.GaussianBlur(noise, (0, 0), sigma), None, 0, 1, cv2.NORM_MINMAX) for sigma in (2, 6, 12)
    ]
    texture = (255 * sum(scales) / 3).astype(np.uint8)
    for name, pixels in [("mv_images/00000/cam02.jpg", texture[:, 12:140])] + [
        (f"images_128x72/{k:05d}.png", texture[:, :128]) for k in range(6)
    ]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), pixels)
    line = make_covisibility(SceneFolder(tmp_path), DisFlow())
    mask = read_image(tmp_path / "covisible/00000/cam02.png")[..., 0] > 0
    assert mask[8:-8, 8:108].mean() > 0.97
    assert mask[:, 120:].mean() < 0.1
    assert f"{100 * mask.mean():.1f}% of their pixels" in line
    view, path = tmp_path / "mv_images/00000/cam02.jpg", tmp_path / "covisible/00000/cam02.png"
    made, before = path.stat().st_mtime_ns, view.stat()
    make_covisibility(SceneFolder(tmp_path), DisFlow())
    assert path.stat().st_mtime_ns == made
    cv2.imwrite(str(view), texture[:, 60:188])  # another view of the same name, older than the mask
    os.utime(view, ns=(before.st_atime_ns, before.st_mtime_ns - 10**9))
    make_covisibility(SceneFolder(tmp_path), DisFlow())
    assert (read_image(path)[..., 0] > 0)[:, 90:].mean() < 0.2  # of which two thirds were visible before
    (tmp_path / "covisible/made_from.json").unlink()  # as if it were downloaded
    given = (tmp_path / "images_128x72/00000.png").read_bytes()
    path.write_bytes(given)
    caplog.set_level(logging.INFO)
    make_covisibility(SceneFolder(tmp_path), DisFlow())
    assert path.read_bytes() == given
    assert "covisible: 1 masks that were not made by this script are kept as they are" in caplog.text


def test_make_covisibility_without_held_out_cameras_is_refused(golden, tmp_path):
    shutil.copytree(golden / "scene/images_64x36", tmp_path / "images_64x36")
    with pytest.raises(InputError, match=r"mv_images holds no 00000/cam01\.jpg"):
        make_covisibility(SceneFolder(tmp_path), DisFlow())
