"""Key points tracked by scene flow on fields of known motion, and broken key point files."""

import dataclasses
import json

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from nsff.data.cameras import Cameras
from nsff.errors import InputError
from nsff.evaluation.keypoint_transfer import PointTracker, percentage_of_correct_keypoints, read_keypoints
from nsff.fields import DynamicField, DynamicSamples, Fields
from nsff.geometry.poses import Intrinsics
from toy_fields import Wall

SIZE = Intrinsics(48, 96, 80.0)
STEP = 6.0  # pixels per frame, to the right


class Board(DynamicField):
    """A dynamic field, opaque from NDC depth 0 on, that moves to the right."""

    def forward(self, points, time, viewdirs):
        flow = torch.zeros_like(points)
        flow[..., 0] = STEP * 2.0 / SIZE.width
        none = torch.zeros_like(points[..., 0])
        sigma_raw = torch.where(points[..., 2] > 0.0, 1e5, -1.0)
        return DynamicSamples(flow * 0, sigma_raw, -flow, flow, none, none)


FIELDS = Fields(Wall(), Board())


@pytest.fixture
def scene(tmp_path, trained):
    """Four frames; the camera moves to the right by 0.1, the board is at distance 2: 4 pixels to the left."""
    (tmp_path / "images").mkdir()
    iio.imwrite(tmp_path / "images/00000.png", np.zeros((96, 192, 3), np.uint8))
    c2w = np.tile(np.eye(4, dtype=np.float32)[:3], (4, 1, 1))
    c2w[:, 0, 3] = 0.1 * np.arange(4)
    cameras = Cameras(SIZE, c2w, np.ones((4, 2), np.float32), 1.0, np.eye(4)[:3])
    config = dataclasses.replace(trained, datadir=str(tmp_path), end_frame=4, N_samples=1001)
    torch.nn.Module.register_parameter(FIELDS, "anchor", torch.nn.Parameter(torch.zeros(1)))
    return config, cameras, tmp_path


@pytest.mark.parametrize(("start", "end"), [(0, 1), (0, 3), (3, 1)])
def test_track_follows_motion_of_board_and_camera(scene, start, end):
    config, cameras, _ = scene
    uv = torch.tensor([[30.0, 10.0], [60.0, 40.0]])
    tracks = dict(PointTracker.of(FIELDS, config, cameras).track(uv, start, end))
    step = 1 if end > start else -1
    assert list(tracks) == list(range(start + step, end + step, step))
    for frame, tracked in tracks.items():
        expected = uv + torch.tensor([(STEP - 4.0) * (frame - start), 0.0])
        torch.testing.assert_close(tracked, expected, atol=0.05, rtol=0.0)


def write_keypoints(folder, frame, points, visible):
    path = folder / f"keypoints/{frame:05d}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(np.concatenate([points, visible[:, None]], axis=1).tolist()))


FIRST = np.array([[40.0, 20.0], [60.0, 60.0], [90.0, 30.0], [80.0, 70.0]])  # pixels of images/, twice as large


def test_pck_t_counts_points_visible_in_both_frames(scene):
    """Four points; in the last frame one is 10 pixels off and one invisible. 5 % of 96 are 4.8 pixels."""
    config, cameras, folder = scene
    last = FIRST + np.array([2.0 * 3 * (STEP - 4.0), 0.0])
    last[0, 1] += 20.0
    write_keypoints(folder, 0, FIRST, np.ones(4))
    write_keypoints(folder, 3, last, np.array([1.0, 1.0, 1.0, 0.0]))
    assert percentage_of_correct_keypoints(FIELDS, config, cameras) == pytest.approx(4.0 / 6.0)


def test_pck_t_tracks_every_start_once_per_direction(scene, monkeypatch):
    """Four annotated frames: 3 steps forward and none back from the first, 2 and 1 from the second, and so on."""
    config, cameras, folder = scene
    for frame in range(4):
        write_keypoints(folder, frame, FIRST + np.array([2.0 * frame * (STEP - 4.0), 0.0]), np.ones(4))
    steps, advance = [], PointTracker.advance

    def counting(self, uv, frame, step):
        steps.append((frame, step))
        return advance(self, uv, frame, step)

    monkeypatch.setattr(PointTracker, "advance", counting)
    assert percentage_of_correct_keypoints(FIELDS, config, cameras) == 1.0
    assert len(steps) == 4 * 3


def test_pck_t_is_none_without_common_visible_points(scene):
    config, cameras, folder = scene
    write_keypoints(folder, 0, FIRST, np.array([1.0, 1.0, 0.0, 0.0]))
    assert percentage_of_correct_keypoints(FIELDS, config, cameras) is None
    write_keypoints(folder, 3, FIRST, np.array([0.0, 0.0, 1.0, 1.0]))
    assert percentage_of_correct_keypoints(FIELDS, config, cameras) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [("[[1, 2]]", "list of"), ("nothing", "cannot be read as JSON"), ("[[1, 2, NaN]]", "list of"), ("[]", "list of")],
)
def test_malformed_keypoint_files_are_refused(scene, text, message):
    config, cameras, folder = scene
    (folder / "keypoints").mkdir()
    (folder / "keypoints/00002.json").write_text(text)
    with pytest.raises(InputError, match=rf"00002\.json.*{message}"):
        read_keypoints(config, cameras)


def test_keypoint_files_of_different_length_are_refused(scene):
    config, cameras, folder = scene
    (folder / "keypoints").mkdir()
    (folder / "keypoints/00000.json").write_text("[[1, 2, 1]]")
    (folder / "keypoints/00001.json").write_text("[[1, 2, 1], [3, 4, 1]]")
    with pytest.raises(InputError, match=r"00001\.json has 2 points, others have 1"):
        read_keypoints(config, cameras)
