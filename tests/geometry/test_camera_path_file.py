"""Camera paths in nerfstudio's format: reading, writing, and the messages for invalid files."""

import json
import math

import numpy as np
import pytest
from nsff.errors import InputError
from nsff.geometry.camera_path_file import Keyframe, read_camera_path, read_path_fps, write_camera_path
from nsff.geometry.poses import Intrinsics

TURNED = [0.0, -1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 2.0, 0.0, 0.0, 1.0, 3.0, 0.0, 0.0, 0.0, 1.0]


def content(**changes):
    """A path of two cameras as nerfstudio's viewer exports it, with `changes` to the second."""
    cameras = [{"camera_to_world": TURNED, "fov": 90.0, "aspect": 2.0}, {"camera_to_world": TURNED, "fov": 50.0}]
    cameras[1] |= changes
    return {
        "camera_type": "perspective", "render_height": 100, "render_width": 200, "fps": 24, "seconds": 2,
        "smoothness_value": 0.5, "is_cycle": False, "crop": None, "camera_path": cameras,
    }  # fmt: skip


def test_read_nerfstudio_export_gives_focal_pose_and_time(tmp_path):
    (tmp_path / "path.json").write_text(json.dumps(content(render_time=0.25)))
    first, second = read_camera_path(tmp_path / "path.json")
    assert (first.intrinsics.height, first.intrinsics.width) == (100, 200)
    assert first.intrinsics.focal == pytest.approx(50.0)  # 90 degrees: half the height
    assert second.intrinsics.focal == pytest.approx(50.0 / math.tan(math.radians(25.0)))
    np.testing.assert_allclose(first.c2w_world, np.reshape(TURNED, (4, 4))[:3])
    assert (first.time, second.time) == (None, 0.25)


@pytest.mark.parametrize(
    ("changes", "fps"),
    [
        ({}, 24),
        ({"fps": 12.5}, 12.5),
        ({"fps": None, "seconds": 0.5}, 4.0),  # two cameras in half a second
        ({"fps": None, "seconds": None}, None),
        ({"fps": None, "seconds": 0}, None),
    ],
)
def test_frame_rate_of_a_path_file(tmp_path, changes, fps):
    (tmp_path / "path.json").write_text("\ufeff" + json.dumps(content() | changes), encoding="utf-8")
    assert read_path_fps(tmp_path / "path.json") == fps


@pytest.mark.parametrize("fps", [0, -1, 1001, "fast", True])
def test_frame_rate_outside_of_its_range_is_refused(tmp_path, fps):
    (tmp_path / "path.json").write_text(json.dumps(content() | {"fps": fps}))
    with pytest.raises(InputError, match=r"path\.json: fps = .* must be above 0 and at most 1000"):
        read_path_fps(tmp_path / "path.json")


def test_write_then_read_returns_the_same_cameras(tmp_path):
    poses = np.reshape(TURNED, (4, 4))[:3] + np.array([[0, 0, 0, 0.123456789]] * 3)
    keyframes = [Keyframe(poses, Intrinsics(33, 47, 51.3), 0.1), Keyframe(poses, Intrinsics(33, 47, 20.0), 0.2)]
    write_camera_path(tmp_path / "path.json", keyframes, 30.0)
    for before, after in zip(keyframes, read_camera_path(tmp_path / "path.json"), strict=True):
        np.testing.assert_allclose(after.c2w_world, before.c2w_world, atol=1e-12)
        assert after.intrinsics.focal == pytest.approx(before.intrinsics.focal)
        assert after.time == before.time


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera_to_world": [0.0] * 16}, "last row"),
        ({"camera_to_world": [0.0] * 12 + [0.0, 0.0, 0.0, 1.0]}, "camera_to_world is singular"),
        ({"camera_to_world": [*TURNED[:8], 1.0, 0.0, 0.0, 3.0, *TURNED[12:]]}, "singular"),
        ({"camera_to_world": [2 * x for x in TURNED[:12]] + TURNED[12:]}, "must be a rotation"),
        ({"camera_to_world": [-x for x in TURNED[:4]] + TURNED[4:]}, "must be a rotation"),  # a mirror
        ({"camera_to_world": [math.nan, *TURNED[1:]]}, "16 finite numbers"),
        ({"camera_to_world": TURNED[:9]}, "16 finite numbers"),
        ({"camera_to_world": "abc"}, "16 finite numbers"),
        ({"camera_to_world": None}, "16 finite numbers"),
        ({"fov": 10**400}, "between 0 and 180"),
        ({"camera_to_world": [10**400, *TURNED[1:]]}, "16 finite numbers"),
        ({"fov": 0}, "between 0 and 180"),
        ({"fov": 180}, "between 0 and 180"),
        ({"fov": "wide"}, "between 0 and 180"),
        ({"render_time": 1.5}, "render_time = 1.5"),
    ],
)
def test_read_invalid_camera_names_it_and_the_reason(tmp_path, changes, message):
    (tmp_path / "path.json").write_text(json.dumps(content(**changes)))
    with pytest.raises(InputError, match=rf"path\.json: camera 1: .*{message}"):
        read_camera_path(tmp_path / "path.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as JSON"),
        ("[1, 2]", "has no list 'camera_path'"),
        ('{"camera_path": []}', "has no list 'camera_path'"),
        (json.dumps(content() | {"camera_path": [3]}), "camera 0 is not an object"),
        (json.dumps(content() | {"camera_type": "equirectangular"}), "'equirectangular' are not supported"),
        (json.dumps(content() | {"render_height": 0}), "render_height = 0 must be 1 to 16384"),
        (json.dumps(content() | {"render_width": None}), "render_width = None"),
        (json.dumps(content() | {"render_width": 10**9}), "render_width = 1000000000"),
    ],
)
def test_read_invalid_or_missing_file_names_the_reason(tmp_path, text, message):
    (tmp_path / "path.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_camera_path(tmp_path / "path.json")
    with pytest.raises(InputError, match=r"gone\.json does not exist"):
        read_camera_path(tmp_path / "gone.json")
