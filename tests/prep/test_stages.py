"""The parts of the preparation: hand values, invariants, what is said about bad input."""

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
from nsff.prep.masks import read_user_masks
from nsff.prep.motion_masks import disk, epipolar_distance, epipolar_mask, fundamental, motion_mask, parse_threshold
from nsff.prep.poses_bounds import ColmapModel, camera_warnings, load_cameras, poses_bounds
from nsff.prep.semantic_masks import MOVABLE, movable_mask
from nsff.prep.video import FrameSource, evenly_spaced_indices, extract_frames, probe_video, shrink
from nsff.prep.weights import MASK_RCNN, MIDAS, RAFT
from nsff.scene_folder import SceneFolder
from toy_frames import SIZE, K, look_from, textured

# frames


def test_frames_are_chosen_evenly():
    assert evenly_spaced_indices(10, 30.0) == list(range(10))
    assert evenly_spaced_indices(10, 30.0, fps=10.0) == [0, 3, 6, 9]
    assert evenly_spaced_indices(100, 25.0, max_frames=4) == [0, 25, 50, 75]
    assert evenly_spaced_indices(100, 25.0, start=1.0, end=1.2) == [25, 26, 27, 28, 29]
    assert evenly_spaced_indices(10, 30.0, fps=60.0) == list(range(10))  # there are no more than there are
    assert evenly_spaced_indices(10, 30.0, start=9.0) == []


def test_frames_shrink_to_even_sides():
    assert shrink(np.zeros((481, 855, 3), np.uint8), 1024).shape == (480, 854, 3)
    assert shrink(np.zeros((1080, 1920, 3), np.uint8), 960).shape == (540, 960, 3)


def test_a_video_becomes_frames(tmp_path):
    clip = [textured(k) for k in range(12)]
    iio.imwrite(tmp_path / "my clip.mp4", np.stack(clip), plugin="FFMPEG", fps=12, macro_block_size=2, quality=9)
    assert probe_video(tmp_path / "my clip.mp4") == (12, 12.0)
    paths = extract_frames(tmp_path / "frames", FrameSource(video=tmp_path / "my clip.mp4"))
    assert [path.name for path in paths] == [f"{k:05d}.png" for k in range(12)]
    for k, path in enumerate(paths):
        errors = [np.abs(read_image(path).astype(int) - frame).mean() for frame in clip]
        assert np.argmin(errors) == k
        assert errors[k] < 0.3 * np.median(errors)


# cameras


def ideal_model(**changes) -> ColmapModel:
    points = np.array([[0.0, 0.0, z] for z in range(1, 22)])
    values = {
        "names": ["a.png"], "size": (64, 36), "focal": (80.0, 80.0), "principal_point": (32.0, 18.0),
        "w2c": look_from(2.0)[None], "points": points, "observed": [np.arange(21)],
    }  # fmt: skip
    return ColmapModel(**(values | changes))


def test_poses_bounds_by_hand():
    row = poses_bounds(ideal_model())[0]
    matrix = row[:15].reshape(3, 5)
    # down = +y, right = +x, back = -z, centre = (2, 0, 0), then height, width, focal length
    np.testing.assert_allclose(matrix, [[0, 1, 0, 2, 36], [1, 0, 0, 0, 64], [0, 0, -1, 0, 80]])
    assert row[15:].tolist() == [2.0, 20.0]  # 5 and 95 of 100 of 1..21


def test_odd_cameras_are_named():
    assert camera_warnings(ideal_model()) == []
    assert "differ by 2.5%" in camera_warnings(ideal_model(focal=(80.0, 82.0)))[0]
    assert "principal point (35.0, 18.0)" in camera_warnings(ideal_model(principal_point=(35.0, 18.0)))[0]


def test_cameras_come_back_from_the_file(tmp_path):
    folder = SceneFolder(tmp_path)
    write_image(folder.images / "a.png", textured(0))
    write_array(folder.poses_bounds, poses_bounds(ideal_model()))
    cameras = load_cameras(folder)
    np.testing.assert_allclose(cameras.w2c[0], look_from(2.0), atol=1e-12)
    np.testing.assert_allclose(cameras.intrinsics(32, 18), [[40, 0, 16], [0, 40, 9], [0, 0, 1]])


def test_longest_run():
    names = [f"{k}" for k in range(9)]
    assert longest_run(names, ["0", "1", "3", "4", "5", "8"]) == ["3", "4", "5"]
    assert longest_run(names, []) == []


# flow and motion


def test_flow_of_a_shifted_picture():
    picture = textured(3, 144, 256)
    moved = np.roll(picture, (2, 5), axis=(0, 1))
    flow = DisFlow()(picture, moved)[20:-20, 20:-20]
    assert np.abs(flow - [5.0, 2.0]).mean() < 0.1


def test_still_points_lie_on_their_epipolar_lines():
    depth = np.random.default_rng(0).uniform(2.0, 9.0, SIZE)
    flow = np.stack([-80.0 * 0.5 / depth, 0.0 * depth], axis=-1).astype(np.float32)  # camera half a unit to the right
    matrix = fundamental(look_from(0.0), look_from(0.5), K)
    assert epipolar_distance(flow, matrix).max() < 1e-4
    flow[10:20, 10:20, 1] += 3.0
    distance = epipolar_distance(flow, matrix)
    mask = epipolar_mask([distance], [np.ones(SIZE, bool)], 1.0)
    expected = np.zeros(SIZE, bool)
    expected[10:20, 10:20] = True
    expected[[10, 10, 19, 19], [10, 19, 10, 19]] = False  # opening by a small disk rounds corners
    np.testing.assert_array_equal(mask, expected)
    assert motion_mask(mask).sum() > mask.sum()
    assert not epipolar_mask([distance], [np.zeros(SIZE, bool)], 1.0).any()  # inconsistent flow says nothing


def test_disk_is_round():
    assert disk(1).tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    assert disk(2).sum() == 13


def test_things_join_the_mask():
    semantic = np.zeros(SIZE, bool)
    semantic[5:15, 5:15] = True
    joined = motion_mask(np.zeros(SIZE, bool), semantic)
    assert joined[semantic].all()
    assert joined.sum() == 12 * 12 + 4 * 10  # a row of pixels all around, and a second one along the sides


def test_movable_things_only():
    import torch

    masks = torch.zeros(3, 1, 4, 4)
    for k in range(3):
        masks[k, 0, k] = 1.0
    found = {"labels": torch.tensor([1, 3, 18]), "scores": torch.tensor([0.9, 0.9, 0.4]), "masks": masks}
    assert movable_mask(found)[0].all()  # a person
    assert not movable_mask(found)[1:].any()  # a car, and a doubtful dog
    assert len(MOVABLE) == 9


@pytest.mark.parametrize(("text", "pixels"), [("1.0", 1.0), ("2", 2.0), ("0.002w", 1.0), (".5", 0.5)])
def test_thresholds(text, pixels):
    assert parse_threshold(text, 500) == pytest.approx(pixels)


@pytest.mark.parametrize("text", ["", "w", "-1", "0", "1px", "nan"])
def test_impossible_thresholds(text):
    with pytest.raises(UsageError, match="--epi_threshold"):
        parse_threshold(text, 500)


def test_consistency_at_the_border():
    there = np.full((*SIZE, 2), [10.0, 0.0], np.float32)
    agree = consistent(there, -there)
    assert agree[:, :50].all()
    assert not agree[:, 56:].any()  # ends_inside outside


# files


def test_nothing_half_written(tmp_path):
    path = tmp_path / "a.npy"
    write_array(path, np.arange(3))

    def write_half() -> None:
        with atomic_write(path) as partial:
            partial.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert np.load(path).tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


def test_methods_without_weights(monkeypatch, tmp_path, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "MODELS", tmp_path / "scripts" / "models")
    depths, flow = pipeline.resolve_methods(DepthSettings(), FlowSettings())
    assert (depths.method, flow.method, flow.semantic) == ("multiview", "dis", "multiview")
    assert "no MiDaS weights" in caplog.text
    for semantic, words in (
        ("multiview", "needs --depth multiview"),
        ("masc", "nor a folder"),
        ("maskrcnn", "no weights"),
    ):
        with pytest.raises(InputError, match=words):
            pipeline.resolve_methods(DepthSettings("dpt"), FlowSettings(semantic=semantic))
    typed = FlowSettings(model="typo.pth")
    assert pipeline.resolve_methods(DepthSettings(), typed)[1].method == "raft"  # a name that was typed is not replaced
    (tmp_path / "models").mkdir()
    for name in (MIDAS, RAFT, MASK_RCNN):
        (tmp_path / name).write_bytes(b"x")
    expected = (DepthSettings(), FlowSettings(semantic="maskrcnn"))
    assert pipeline.resolve_methods(DepthSettings(), FlowSettings()) == expected


@pytest.fixture
def stage(tmp_path):
    """A stage that made its file after its input, and the stamp of that run."""
    made, stamp = tmp_path / "made", tmp_path / "stamp.json"
    made.write_text("x")
    stamp.write_text('{"settings": {"a": 1}, "summary": ["done well"]}')
    return pipeline.Stage("poses", {"a": 1}, lambda: "", lambda: [made]), stamp, made


def test_what_is_done_stays_done(stage):
    stage, stamp, made = stage
    before = made.stat().st_mtime - 5
    assert pipeline._summary_if_current(stage, stamp, before) == ["done well"]
    assert pipeline._summary_if_current(stage, stamp, before + 10) is None  # the input is newer
    changed = pipeline.Stage("poses", {"a": 2}, stage.run, stage.outputs)
    assert pipeline._summary_if_current(changed, stamp, before) is None
    stamp.write_text("{")
    assert pipeline._summary_if_current(stage, stamp, before) is None
    stamp.unlink()
    made.unlink()
    assert pipeline._summary_if_current(stage, stamp, before) is None


def test_own_masks(tmp_path):
    labels = np.zeros((20, 30, 3), np.uint8)
    labels[5:9, 5:9] = 1  # a label, not white
    write_image(tmp_path / "0.png", labels)
    write_image(tmp_path / "1.png", np.zeros_like(labels))
    masks = read_user_masks(tmp_path, 2)
    assert [mask.sum() for mask in masks] == [16, 0]
    with pytest.raises(InputError, match="2 masks for 3 frames"):
        read_user_masks(tmp_path, 3)
    assert [mask.sum() for mask in read_user_masks(tmp_path, 1, [0], 2)] == [16]  # one frame of two was taken
    write_image(tmp_path / "0.png", np.zeros_like(labels))
    with pytest.raises(InputError, match="all masks are black"):
        read_user_masks(tmp_path, 2)


def test_frames_of_others_are_not_replaced(tmp_path):
    for k in range(12):
        write_image(tmp_path / "frames" / f"{k:02d}.png", textured(k))
    with pytest.raises(InputError, match="frames was not made by run_colmap"):
        extract_frames(tmp_path / "frames", FrameSource(images=tmp_path / "frames"))
    assert len(list((tmp_path / "frames").iterdir())) == 12


def test_numbers_in_names_of_masks_count(tmp_path):
    for k in range(12):
        write_image(tmp_path / f"mask{k}.png", np.full((4, 4 + k, 3), 255, np.uint8))
    assert [mask.shape[1] for mask in read_user_masks(tmp_path, 12)] == list(range(4, 16))


def test_numbers_in_names_count(tmp_path):
    for k in range(12):
        write_image(tmp_path / "in" / f"frame{k}.png", np.full((60, 80, 3), 0, np.uint8) + textured(k, 60, 80))
    paths = extract_frames(tmp_path / "frames", FrameSource(images=tmp_path / "in"))
    np.testing.assert_array_equal(read_image(paths[2]), textured(2, 60, 80))  # not frame10
