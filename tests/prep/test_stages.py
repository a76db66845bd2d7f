"""Functions of the preparation: hand values, invariants, error messages."""

import imageio.v3 as iio
import numpy as np
import pytest
from nsff.errors import InputError, UsageError
from nsff.io import atomic_write, read_image, write_array, write_image
from nsff.prep import pipeline, weights
from nsff.prep.colmap import longest_run
from nsff.prep.depth_stage import DepthSettings
from nsff.prep.flow import DisFlow, consistent
from nsff.prep.flow_stage import FlowSettings
from nsff.prep.motion_masks import disk, epipolar_distance, epipolar_mask, fundamental, motion_mask, parse_threshold
from nsff.prep.poses_bounds import ColmapModel, camera_warnings, load_cameras, poses_bounds
from nsff.prep.semantic_masks import MOVABLE, movable_mask
from nsff.prep.user_masks import read_user_masks
from nsff.prep.video import FrameSource, evenly_spaced_indices, extract_frames, probe_video, shrink
from nsff.prep.weights import MASK_RCNN, MIDAS, RAFT
from nsff.scene_folder import SceneFolder
from toy_frames import SIZE, K, look_from, textured


def test_evenly_spaced_indices_hand_values():
    assert evenly_spaced_indices(10, 30.0) == list(range(10))
    assert evenly_spaced_indices(10, 30.0, fps=10.0) == [0, 3, 6, 9]
    assert evenly_spaced_indices(100, 25.0, max_frames=4) == [0, 25, 50, 75]
    assert evenly_spaced_indices(100, 25.0, start=1.0, end=1.2) == [25, 26, 27, 28, 29]
    assert evenly_spaced_indices(10, 30.0, fps=60.0) == list(range(10))  # never more than the video has
    assert evenly_spaced_indices(10, 30.0, start=9.0) == []


def test_shrink_gives_even_sides():
    assert shrink(np.zeros((481, 855, 3), np.uint8), 1024).shape == (480, 854, 3)
    assert shrink(np.zeros((1080, 1920, 3), np.uint8), 960).shape == (540, 960, 3)


def test_extract_frames_of_video_in_order(tmp_path):
    video = [textured(k) for k in range(12)]
    iio.imwrite(tmp_path / "my clip.mp4", np.stack(video), plugin="FFMPEG", fps=12, macro_block_size=2, quality=9)
    assert probe_video(tmp_path / "my clip.mp4") == (12, 12.0)
    paths = extract_frames(tmp_path / "frames", FrameSource(video=tmp_path / "my clip.mp4"))
    assert [path.name for path in paths] == [f"{k:05d}.png" for k in range(12)]
    for k, path in enumerate(paths):
        errors = [np.abs(read_image(path).astype(int) - frame).mean() for frame in video]
        assert np.argmin(errors) == k
        assert errors[k] < 0.3 * np.median(errors)


def ideal_model(**changes) -> ColmapModel:
    points = np.array([[0.0, 0.0, z] for z in range(1, 22)])
    values = {
        "names": ["a.png"], "size": (64, 36), "focal": (80.0, 80.0), "principal_point": (32.0, 18.0),
        "w2c": look_from(2.0)[None], "points": points, "observed": [np.arange(21)],
    }  # fmt: skip
    return ColmapModel(**(values | changes))


def test_poses_bounds_hand_values():
    row = poses_bounds(ideal_model())[0]
    matrix = row[:15].reshape(3, 5)
    # down = +y, right = +x, back = -z, centre = (2, 0, 0), then height, width, focal length
    np.testing.assert_allclose(matrix, [[0, 1, 0, 2, 36], [1, 0, 0, 0, 64], [0, 0, -1, 0, 80]])
    assert row[15:].tolist() == [2.0, 20.0]  # 5th and 95th percentile of 1..21


def test_camera_warnings_of_deviating_cameras():
    assert camera_warnings(ideal_model()) == []
    assert "differ by 2.5%" in camera_warnings(ideal_model(focal=(80.0, 82.0)))[0]
    assert "principal point (35.0, 18.0)" in camera_warnings(ideal_model(principal_point=(35.0, 18.0)))[0]


def test_load_cameras_inverts_poses_bounds(tmp_path):
    folder = SceneFolder(tmp_path)
    write_image(folder.images / "a.png", textured(0))
    write_array(folder.poses_bounds, poses_bounds(ideal_model()))
    cameras = load_cameras(folder)
    np.testing.assert_allclose(cameras.w2c[0], look_from(2.0), atol=1e-12)
    np.testing.assert_allclose(cameras.intrinsics(32, 18), [[40, 0, 16], [0, 40, 9], [0, 0, 1]])


def test_longest_run_of_registered_frames():
    names = [f"{k}" for k in range(9)]
    assert longest_run(names, ["0", "1", "3", "4", "5", "8"]) == ["3", "4", "5"]
    assert longest_run(names, []) == []


def test_dis_flow_of_shifted_image():
    picture = textured(3, 144, 256)
    moved = np.roll(picture, (2, 5), axis=(0, 1))
    flow = DisFlow()(picture, moved)[20:-20, 20:-20]
    assert np.abs(flow - [5.0, 2.0]).mean() < 0.1


def test_epipolar_distance_and_mask_of_static_and_moving_points():
    depth = np.random.default_rng(0).uniform(2.0, 9.0, SIZE)
    flow = np.stack([-80.0 * 0.5 / depth, 0.0 * depth], axis=-1).astype(np.float32)  # half a unit to the right
    matrix = fundamental(look_from(0.0), look_from(0.5), K)
    assert epipolar_distance(flow, matrix).max() < 1e-4
    flow[10:20, 10:20, 1] += 3.0
    distance = epipolar_distance(flow, matrix)
    mask = epipolar_mask([distance], [np.ones(SIZE, bool)], 1.0)
    expected = np.zeros(SIZE, bool)
    expected[10:20, 10:20] = True
    expected[[10, 10, 19, 19], [10, 19, 10, 19]] = False  # opening by a disk rounds corners
    np.testing.assert_array_equal(mask, expected)
    assert motion_mask(mask).sum() > mask.sum()
    assert not epipolar_mask([distance], [np.zeros(SIZE, bool)], 1.0).any()  # inconsistent flow is ignored


def test_disk_hand_values():
    assert disk(1).tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    assert disk(2).sum() == 13


def test_motion_mask_unites_and_dilates():
    semantic = np.zeros(SIZE, bool)
    semantic[5:15, 5:15] = True
    joined = motion_mask(np.zeros(SIZE, bool), semantic)
    assert joined[semantic].all()
    assert joined.sum() == 12 * 12 + 4 * 10  # one row all around, and a second one along the sides


def test_movable_mask_ignores_other_classes_and_low_scores():
    import torch

    masks = torch.zeros(3, 1, 4, 4)
    for k in range(3):
        masks[k, 0, k] = 1.0
    detections = {"labels": torch.tensor([1, 3, 18]), "scores": torch.tensor([0.9, 0.9, 0.4]), "masks": masks}
    assert movable_mask(detections)[0].all()  # a person
    assert not movable_mask(detections)[1:].any()  # a car, and a dog of low score
    assert len(MOVABLE) == 9


@pytest.mark.parametrize(("text", "pixels"), [("1.0", 1.0), ("2", 2.0), ("0.002w", 1.0), (".5", 0.5)])
def test_parse_threshold_in_pixels_or_widths(text, pixels):
    assert parse_threshold(text, 500) == pytest.approx(pixels)


@pytest.mark.parametrize("text", ["", "w", "-1", "0", "1px", "nan"])
def test_parse_threshold_rejects_malformed(text):
    with pytest.raises(UsageError, match="--epi_threshold"):
        parse_threshold(text, 500)


def test_consistent_excludes_flow_that_leaves_frame():
    fwd = np.full((*SIZE, 2), [10.0, 0.0], np.float32)
    agree = consistent(fwd, -fwd)
    assert agree[:, :50].all()
    assert not agree[:, 56:].any()  # ends_inside outside


def test_atomic_write_failure_leaves_old_file(tmp_path):
    path = tmp_path / "a.npy"
    write_array(path, np.arange(3))

    def write_half() -> None:
        with atomic_write(path) as partial:
            partial.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert np.load(path).tolist() == [0, 1, 2]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npy"]


def test_resolve_methods_without_weights(monkeypatch, tmp_path, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "MODELS", tmp_path / "scripts" / "models")
    depth, flow = pipeline.resolve_methods(DepthSettings(), FlowSettings())
    assert (depth.method, flow.method, flow.semantic) == ("multiview", "dis", "multiview")
    assert "no MiDaS weights" in caplog.text
    for semantic, words in (
        ("multiview", "needs --depth multiview"),
        ("masc", "nor a folder"),
        ("maskrcnn", "no weights"),
    ):
        with pytest.raises(InputError, match=words):
            pipeline.resolve_methods(DepthSettings("dpt"), FlowSettings(semantic=semantic))
    named = FlowSettings(model="typo.pth")
    assert pipeline.resolve_methods(DepthSettings(), named)[1].method == "raft"  # a named file is not replaced
    (tmp_path / "models").mkdir()
    for name in (MIDAS, RAFT, MASK_RCNN):
        (tmp_path / name).write_bytes(b"x")
    expected = (DepthSettings(), FlowSettings(semantic="maskrcnn"))
    assert pipeline.resolve_methods(DepthSettings(), FlowSettings()) == expected


@pytest.fixture
def stage(tmp_path):
    """A stage with its output, and the stamp of the run that made it."""
    output, stamp = tmp_path / "output", tmp_path / "stamp.json"
    output.write_text("x")
    stamp.write_text('{"settings": {"a": 1}, "summary": ["summary line"]}')
    return pipeline.Stage("poses", {"a": 1}, lambda: "", lambda: [output]), stamp, output


def test_summary_if_current_requires_settings_stamp_and_newer_output(stage):
    stage, stamp, output = stage
    before = output.stat().st_mtime - 5
    assert pipeline._summary_if_current(stage, stamp, before) == ["summary line"]
    assert pipeline._summary_if_current(stage, stamp, before + 10) is None  # the input is newer
    changed = pipeline.Stage("poses", {"a": 2}, stage.run, stage.outputs)
    assert pipeline._summary_if_current(changed, stamp, before) is None
    stamp.write_text("{")
    assert pipeline._summary_if_current(stage, stamp, before) is None
    stamp.unlink()
    output.unlink()
    assert pipeline._summary_if_current(stage, stamp, before) is None


def test_read_user_masks_of_labels_and_subsets(tmp_path):
    labels = np.zeros((20, 30, 3), np.uint8)
    labels[5:9, 5:9] = 1  # a label, not white
    write_image(tmp_path / "0.png", labels)
    write_image(tmp_path / "1.png", np.zeros_like(labels))
    masks = read_user_masks(tmp_path, 2)
    assert [mask.sum() for mask in masks] == [16, 0]
    with pytest.raises(InputError, match="2 masks for 3 frames"):
        read_user_masks(tmp_path, 3)
    assert [mask.sum() for mask in read_user_masks(tmp_path, 1, [0], 2)] == [16]  # one of two source frames is used
    write_image(tmp_path / "0.png", np.zeros_like(labels))
    with pytest.raises(InputError, match="all masks are black"):
        read_user_masks(tmp_path, 2)


def test_extract_frames_refuses_foreign_folder(tmp_path):
    for k in range(12):
        write_image(tmp_path / "frames" / f"{k:02d}.png", textured(k))
    with pytest.raises(InputError, match="frames was not made by run_colmap"):
        extract_frames(tmp_path / "frames", FrameSource(images=tmp_path / "frames"))
    assert len(list((tmp_path / "frames").iterdir())) == 12


def test_read_user_masks_in_natural_order(tmp_path):
    for k in range(12):
        write_image(tmp_path / f"mask{k}.png", np.full((4, 4 + k, 3), 255, np.uint8))
    assert [mask.shape[1] for mask in read_user_masks(tmp_path, 12)] == list(range(4, 16))


def test_extract_frames_in_natural_order(tmp_path):
    for k in range(12):
        write_image(tmp_path / "in" / f"frame{k}.png", np.full((60, 80, 3), 0, np.uint8) + textured(k, 60, 80))
    paths = extract_frames(tmp_path / "frames", FrameSource(images=tmp_path / "in"))
    np.testing.assert_array_equal(read_image(paths[2]), textured(2, 60, 80))  # not frame10
