"""Rendered videos: golden frames of the published modes, planned views, layers and files."""

import dataclasses
import shutil

import imageio.v3 as iio
import numpy as np
import pytest
import render
import run_nerf
import torch
from nsff.data.cameras import load_cameras
from nsff.data.timeline import Timeline
from nsff.errors import InputError, UsageError
from nsff.fields import build_fields
from nsff.geometry.camera_path_file import Keyframe, read_camera_path, write_camera_path
from nsff.geometry.rays import Camera
from nsff.geometry.space import NdcSpace
from nsff.novel_views.render_plan import plan_videos
from nsff.novel_views.render_videos import ViewRenderer, render_videos
from nsff.rendering.frame_render import render_frame
from nsff.rendering.ray_sampling import DepthSampling
from nsff.rendering.space_time import PlaneSampling, render_space_time
from nsff.training.checkpoint_choice import restore_fields

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cameras(trained):
    return load_cameras(trained)


@pytest.fixture(scope="module")
def fields(trained):
    fields = build_fields(trained)
    restore_fields(fields, trained)
    return fields


def plan_one(config, cameras, **options):
    """Plan the only video that the options ask for."""
    (video,) = plan_videos(dataclasses.replace(config, **options), cameras)
    return video


@pytest.mark.parametrize("options", [{"render_bt": True}, {"path": "spiral"}, {"path": "lemniscate"}])
def test_path_radius_scales_offsets_from_the_target(trained, cameras, options):
    centre = cameras.c2w[trained.target_idx, :, 3]
    wide, narrow = (
        np.array([view.c2w[:, 3] - centre for view in plan_one(trained, cameras, path_radius=radius, **options).views])
        for radius in (48.0, 24.0)
    )
    np.testing.assert_allclose(narrow, 0.5 * wide, atol=1e-6)
    assert np.linalg.norm(wide, axis=1).max() == pytest.approx(48.0 / cameras.intrinsics.focal, rel=0.1)


@pytest.mark.parametrize(
    ("mode", "name", "n_frames", "n_recorded"),
    [
        ("render_bt", "spiral-frame-010", 60, 6),
        ("render_lockcam_slowmo", "lockcam-slowmo-frame-010", 161, 14),
        ("render_slowmo_bt", "slowmo-bt-frame-010", 201, 14),
    ],
)
def test_published_modes_match_golden_frames(trained, cameras, fields, golden, mode, name, n_frames, n_recorded):
    video, renderer = plan_one(trained, cameras, **{mode: True}), ViewRenderer(fields, trained, cameras)
    assert (video.name, len(video.views)) == (name, n_frames)
    with np.load(golden / "render/frames.npz") as published:
        for index in range(n_recorded):
            ours = (255.0 * renderer.frame(video.views[index], video.interpolated).rgb.clamp(0.0, 1.0)).byte().numpy()
            assert np.abs(ours.astype(int) - published[f"{mode}/{index:03d}"]).max() <= 1, index


def test_space_time_at_a_frame_equals_frame_render(trained, cameras, fields):
    """At the time of a frame nothing is splatted: planes and rays render the same, in every output."""
    timeline = Timeline(24)
    camera = Camera(
        torch.from_numpy(cameras.c2w[3].astype(np.float32)), cameras.intrinsics, NdcSpace(cameras.intrinsics)
    )
    sampling, planes = DepthSampling(trained.N_samples, 0, 0.0), PlaneSampling(trained.N_samples, 0)
    expected = render_frame(fields, camera, timeline.time_of(5), sampling, 10_000, "forward")
    for points in (100, 10_000, 10_000_000):  # one plane per chunk, several, all
        rendered = render_space_time(fields, camera, timeline, 5, planes, points, with_flow=True)
        for name, value in vars(rendered).items():  # compositing stops at a transmittance of 1e-4
            atol = 3e-3 if name == "flow" else 3e-4
            torch.testing.assert_close(value, getattr(expected, name), atol=atol, rtol=1e-3, msg=name)
    nearby = render_space_time(fields, camera, timeline, 5 + 1e-5, planes, 10_000)
    torch.testing.assert_close(nearby.rgb, expected.rgb, atol=2e-3, rtol=0.0)


def test_slow_motion_window_is_clamped_to_the_sequence(trained, cameras, caplog):
    caplog.set_level("INFO")
    video = plan_one(trained, cameras, render_lockcam_slowmo=True)
    assert [view.timestamp for view in video.views] == [k / 10 for k in range(20, 181)]
    assert not caplog.text
    video = plan_one(trained, cameras, render_lockcam_slowmo=True, target_idx=20)
    assert [view.timestamp for view in video.views] == [k / 10 for k in range(120, 231)]
    assert "the sequence has frames 0 to 23: rendering frames 12 to 23 instead of 12 to 28" in caplog.text
    video = plan_one(trained, cameras, render_slowmo_bt=True, times="3:5", slowmo_factor=4)
    assert [view.timestamp for view in video.views] == [k / 4 for k in range(12, 21)]


def test_slow_motion_window_of_a_short_sequence_is_clamped_at_both_ends(trained, caplog):
    caplog.set_level("INFO")
    config = dataclasses.replace(trained, end_frame=8, target_idx=3)
    video = plan_one(config, load_cameras(config), render_lockcam_slowmo=True)
    assert (video.views[0].timestamp, video.views[-1].timestamp) == (0.0, 7.0)
    assert "rendering frames 0 to 7 instead of -5 to 11" in caplog.text


@pytest.mark.parametrize(
    ("turn", "move", "message"),
    [
        (np.pi, 0.0, "camera 0 looks sideways or backwards"),
        (np.pi / 2.5, 0.0, "camera 0 looks sideways or backwards"),
        (0.0, -1.1, "camera 0 is beyond the near plane"),
    ],
)
def test_camera_file_outside_ndc_is_rejected(trained, cameras, tmp_path, turn, move, message):
    turned = np.array([[np.cos(turn), 0, np.sin(turn), 0], [0, 1, 0, 0], [-np.sin(turn), 0, np.cos(turn), move]])
    path = tmp_path / "path.json"
    write_camera_path(path, [Keyframe(cameras.to_world(turned), cameras.intrinsics, None)], 30.0)
    with pytest.raises(InputError, match=message):
        plan_one(trained, cameras, camera_path=str(path))


def test_path_timestamps_follow_the_time_mode(trained, cameras):
    def timestamps(**options):
        return [view.timestamp for view in plan_one(trained, cameras, **options).views]

    assert timestamps(path="bullet_time_loop") == [10.0] * 60
    assert timestamps(path="fixed", time="fixed") == [10.0]
    assert timestamps(path="fixed") == [float(k) for k in range(24)]
    assert timestamps(path="dolly", time="run", frames=47)[:7] == [0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    assert timestamps(path="spiral", time="slowmo", times="2:4", slowmo_factor=2) == [2.0, 2.5, 3.0, 3.5, 4.0]
    assert timestamps(path="spiral", time="slowmo", times="2:4", frames=3) == [2.0, 3.0, 4.0]
    assert plan_one(trained, cameras, path="train", time="slowmo").interpolated
    assert not plan_one(trained, cameras, path="train", time="run").interpolated


def test_named_paths_are_closed_and_centred_on_the_target(trained, cameras):
    target = cameras.c2w[10].astype(float)
    width = 48.0 / cameras.intrinsics.focal
    for path in ("bullet_time_loop", "spiral", "lemniscate", "dolly"):
        poses = np.stack([view.c2w for view in plan_one(trained, cameras, path=path, frames=120).views])
        offsets = (poses[:, :, 3] - target[:, 3]) @ target[:, :3]  # right, up, back
        rotations = poses[:, :, :3]
        np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (120, 1, 1)), atol=1e-6)
        np.testing.assert_allclose(np.linalg.det(rotations), 1.0, atol=1e-6)
        np.testing.assert_allclose(offsets.mean(0), 0.0, atol=1e-6)
        extent = [width, width / 2.0, 0.0] if path == "lemniscate" else [width, width / 3.0, width / 3.0]
        if path == "dolly":
            extent = [0.0, 0.0, 0.15]
        np.testing.assert_allclose(np.abs(offsets).max(0), extent, atol=1e-3)
        steps = np.linalg.norm(np.diff(offsets, axis=0, append=offsets[:1]), axis=1)
        assert steps.max() < 0.15  # continuous, also from the last camera to the first
        if path in ("spiral", "lemniscate"):  # the cameras look at one point, where their axes meet
            back, centre = poses[:, :, 2], poses[:, :, 3]
            across = np.eye(3) - back[:, :, None] * back[:, None, :]
            point = np.linalg.solve(across.sum(0), (across @ centre[:, :, None]).sum(0)[:, 0])
            np.testing.assert_allclose((across @ (point - centre)[:, :, None])[..., 0], 0.0, atol=1e-6)
            assert (target[:, 3] - point) @ target[:, 2] > 1.0  # in front of the target


def test_train_path_interpolates_the_input_cameras(trained, cameras):
    views = plan_one(trained, cameras, path="train", time="slowmo", slowmo_factor=2).views
    np.testing.assert_allclose([view.c2w for view in views[::2]], cameras.c2w, atol=1e-6)
    centres = np.stack([view.c2w[:, 3] for view in views])
    np.testing.assert_allclose(centres[1:-1:2], (centres[:-2:2] + centres[2::2]) / 2.0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target_idx": 24, "render_bt": True}, InputError, "target_idx = 24 is outside the sequence: choose 0 to 23"),
        ({"path": "fixed", "times": "3"}, UsageError, "--times 3: give the first and the last frame, for example 3:8"),
        ({"path": "fixed", "times": "a:b"}, UsageError, "--times a:b: give the first and the last frame"),
        ({"path": "fixed", "times": "5:5"}, InputError, "the earlier first"),
        ({"path": "fixed", "times": "3:24"}, InputError, "0 to 23"),
        ({"path": "bullet_time_loop", "times": "3:5"}, UsageError, "--times needs --time run or slowmo"),
        ({"render_bt": True, "times": "3:5"}, UsageError, "--times needs --time run or slowmo"),
        (
            {"render_bt": True, "frames": 9},
            UsageError,
            "--frames needs --path: the other videos",
        ),
        ({"render_bt": True, "time": "run"}, UsageError, "--time needs --path or --camera_path"),
        (
            {"render_bt": True, "render_factor": 99},
            InputError,
            "frames of 1x1 pixels are too small for a video",
        ),
        (
            {"render_bt": True, "layers": "rgb,normals"},
            UsageError,
            "--layers: unknown layer 'normals'; choose from rgb, depth",
        ),
        ({"render_bt": True, "layers": ","}, UsageError, "--layers is empty; choose from rgb"),
        (
            {"render_bt": True, "format": "avi"},
            UsageError,
            "unknown format 'avi'; choose from mp4, gif, png, jpg",
        ),
        ({"render_bt": True, "ft_path": "gone.tar"}, InputError, "gone.tar"),
        ({"render_bt": True, "expname": "other"}, InputError, r"no checkpoint in .*other_F00-24; .*train first"),
    ],
)
def test_render_rejects_invalid_options(trained, options, error, message):
    with pytest.raises(error, match=message):
        render_videos(dataclasses.replace(trained, **options), CPU)


def test_render_writes_every_layer_in_every_format(trained, tmp_path, golden):
    """Frames of odd size; the joined layer holds the pictures of the others, side by side."""
    layers = ("rgb", "depth", "static", "dynamic", "blend", "flow", "side_by_side")
    config = dataclasses.replace(trained, basedir=str(tmp_path), ft_path=str(golden / "render/002000.tar"))
    config = dataclasses.replace(
        config, path="train", time="slowmo", times="4:6", slowmo_factor=2, render_factor=5, layers=",".join(layers),
        format="mp4,gif,png,jpg", raw_depth=True,
    )  # fmt: skip
    (folder,) = render_videos(config, CPU)
    assert folder.name == "render-train-slowmo-frame-010_path_002000"
    for layer in layers:
        joined = "+".join(layers[:-1])
        frame_folder, video = {"rgb": ("images", "video"), "side_by_side": (joined, joined)}.get(layer, (layer, layer))
        width = 12 * 6 if layer == "side_by_side" else 12
        for extension in ("png", "jpg"):
            frames = sorted((folder / frame_folder).glob(f"*.{extension}"))
            assert [frame.stem for frame in frames] == ["000", "001", "002", "003", "004"]
            assert iio.imread(frames[0]).shape == (7, width, 3)
        assert iio.imread(folder / f"{video}.mp4", plugin="FFMPEG").shape == (5, 6, width, 3)
        assert iio.imread(folder / f"{video}.gif", index=None).shape == (5, 7, width, 3)
    panels = np.concatenate([iio.imread(folder / f"{name}/002.png") for name in ("images", *layers[1:-1])], axis=1)
    np.testing.assert_array_equal(iio.imread(folder / joined / "002.png"), panels)
    with np.load(folder / "depth_raw/002.npz") as data:
        assert data["depth"].shape == (7, 12)
        assert np.isfinite(data["depth"]).all()
    keyframes = read_camera_path(folder / "camera_path.json")
    assert [keyframe.time for keyframe in keyframes] == pytest.approx([k / 2 / 23 for k in range(8, 13)])
    assert (config.experiment_dir / "sheet.jpg").is_file()


@pytest.mark.parametrize(("typed", "fps"), [(None, 12.0), (25.0, 25.0)])
def test_frame_rate_of_a_camera_path_is_that_of_the_video(trained, tmp_path, typed, fps):
    cameras = load_cameras(trained)
    keyframes = [Keyframe(cameras.to_world(cameras.c2w[3]), cameras.intrinsics, 0.2)] * 4
    write_camera_path(tmp_path / "mine.json", keyframes, 12.0)
    config = dataclasses.replace(trained, camera_path=str(tmp_path / "mine.json"), render_bt=True, fps=typed)
    published, mine = plan_videos(config, cameras)
    assert (published.fps, mine.fps) == (typed or 30.0, fps)


def test_written_camera_path_renders_the_same_frames(trained, golden, tmp_path):
    """`camera_path.json` keeps poses, as world poses, and the focal length, as a field of view."""
    config = dataclasses.replace(trained, basedir=str(tmp_path), ft_path=str(golden / "render/002000.tar"))
    config = dataclasses.replace(config, render_factor=2)
    (first,) = render_videos(dataclasses.replace(config, path="spiral", time="run", times="3:6"), CPU)
    shutil.copy(first / "camera_path.json", tmp_path / "mine.json")
    (second,) = render_videos(
        dataclasses.replace(config, camera_path=str(tmp_path / "mine.json"), render_factor=0), CPU
    )
    assert second.name == "render-file-mine-frame-010_path_002000"
    for index in range(4):
        pair = [iio.imread(folder / f"images/{index:03d}.png").astype(int) for folder in (first, second)]
        assert np.abs(pair[0] - pair[1]).max() <= 1


def test_raw_depth_is_world_distance_along_the_axis(trained, cameras, fields):
    """A pixel, lifted by its raw depth in the world of poses_bounds.npy, has the rendered NDC depth."""
    config = dataclasses.replace(trained, render_factor=4)
    video = plan_one(config, cameras, path="bullet_time_loop", frames=3)
    renderer = ViewRenderer(fields, config, cameras)
    depth = renderer.frame_renderer(video, ("rgb",), True)(1).depth
    view, z_ndc = video.views[1], renderer.frame(video.views[1], interpolated=False).depth.numpy()
    row, column = 4, 11
    c2w = cameras.to_world(view.c2w)
    right, up = (
        (column - view.intrinsics.width / 2) / view.intrinsics.focal,
        -(row - view.intrinsics.height / 2) / view.intrinsics.focal,
    )
    point = c2w[:, 3] + depth[row, column] * (c2w[:, :3] @ np.array([right, up, -1.0]))
    scaled = cameras.from_world(np.concatenate([np.eye(3), point[:, None]], axis=1))[:, 3]
    assert 1.0 + 1.0 / scaled[2] == pytest.approx(z_ndc[row, column], abs=1e-4)  # NDC


def arguments(config) -> list[str]:
    return ["--config", config.config, "--datadir", config.datadir, "--basedir", config.basedir]


@pytest.fixture
def small_video(trained):
    """Path of the bullet-time video that the scripts render at a ninth of the size; removed before."""
    path = trained.experiment_dir / "render-spiral-frame-010_path_002000/video.mp4"
    shutil.rmtree(path.parent, ignore_errors=True)
    return path


def test_render_script_as_typed(typed, small_video):
    out = typed("render", "--render_bt", "--render_factor", "9")
    assert out.returncode == 0, out.stderr
    assert iio.imread(small_video, plugin="FFMPEG").shape == (60, 4, 6, 3)


def test_run_nerf_with_a_render_option_renders(trained, small_video):
    run_nerf.main([*arguments(trained), "--render_bt", "--render_factor", "9"])
    assert iio.imread(small_video, plugin="FFMPEG").shape == (60, 4, 6, 3)


def test_render_without_a_mode_is_rejected(trained):
    with pytest.raises(UsageError, match=r"^nothing to render: give --render_bt, --render_lockcam_slowmo"):
        render.main(arguments(trained))
