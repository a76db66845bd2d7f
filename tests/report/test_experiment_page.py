"""One page of all that was made of a video, and the script that runs all stages."""

import base64
import dataclasses
import json
import re
import signal
import subprocess
import sys
import time

import imageio.v3 as iio
import numpy as np
import prepare_video
import pytest
import run_all
from nsff import pipeline as stages
from nsff.config_loader import load_config
from nsff.errors import InputError, UsageError
from nsff.report.experiment_page import draw_curves, find_videos, input_pictures, read_curves, write_summary
from torch.utils.tensorboard import SummaryWriter


def write_video(path, n_frames, brightness):
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.full((n_frames, 32, 48, 3), brightness, np.uint8)
    iio.imwrite(path, frames, plugin="FFMPEG", fps=10, macro_block_size=2)


def embedded(page: str, kind: str) -> list[bytes]:
    return [base64.b64decode(data) for data in re.findall(rf"data:{kind};base64,([A-Za-z0-9+/=]+)", page)]


@pytest.fixture
def experiment(trained, tmp_path):
    """The golden checkpoint with a clip, curves, an evaluation and a health report."""
    config = dataclasses.replace(trained, basedir=str(tmp_path), ft_path=None)
    folder = config.experiment_dir
    folder.mkdir(parents=True)
    (folder / "002000.tar").symlink_to(trained.experiment_dir / "002000.tar")
    write_video(folder / "render-spiral-frame-010_path_002000" / "video.mp4", 7, 200)
    with SummaryWriter(str(folder)) as board:
        for step in (10, 20, 30):
            board.add_scalar("train/psnr", 20.0 + step, step)
            board.add_scalar("loss/total", 1.0 / step, step)
    report = {
        "protocol": "nsff-fixed",
        "checkpoint": {"step": 2000},
        "mean": {"psnr": 23.456, "ssim": 0.9, "lpips": None},
        "views": [{}] * 3,
    }
    (folder / "metrics_nsff-fixed.json").write_text(json.dumps(report))
    check = {
        "name": "parallax",
        "value": 3.0,
        "unit": "%",
        "verdict": "fair",
        "meaning": "shift <of> it",
        "advice": "x",
    }
    (folder / "health.json").write_text(json.dumps({"checkpoint": {"step": 2000}, "checks": [check]}))
    return config


def test_everything_is_on_the_page_and_plays(experiment, tmp_path):
    path = write_summary(experiment)
    page = path.read_text()
    assert path == experiment.experiment_dir / "summary.html"
    assert "http" not in page
    lengths = []
    for index, content in enumerate(embedded(page, "video/mp4")):
        (tmp_path / f"{index}.mp4").write_bytes(content)
        lengths.append(len(iio.imread(tmp_path / f"{index}.mp4", plugin="FFMPEG")))
    assert lengths == [experiment.n_frames, 7]
    moving = iio.imread(path.with_suffix(".gif"), index=None)
    assert moving.shape[1:3] == (144, 2 * 256 + 4)
    assert len(moving) == experiment.n_frames  # of 30, equal neighbours become one
    assert np.abs(moving[3, :, -200:].astype(int) - 200).mean() < 8.0  # the clip is grey
    assert "Frozen moment, moving camera" in page
    assert "23.46" in page
    assert "shift &lt;of&gt; it" in page
    assert len(embedded(page, "image/png")) == 1
    assert page.count("<a href='metrics_nsff-fixed.html'>") == page.count("<a href='health.html'>") == 1


def test_what_went_in_is_shown_side_by_side(golden_scene):
    pictures = input_pictures(golden_scene)
    frame, marked, near = np.split(pictures[5].astype(float), 3, axis=1)
    mask = golden_scene.motion_masks[5].numpy()
    assert np.abs(frame / 255.0 - golden_scene.images[5].numpy()).max() < 0.003
    np.testing.assert_array_equal(marked[~mask], frame[~mask])
    assert (marked[mask][:, 0] > 0.6 * 255 - 1).all()
    disparity = golden_scene.disparity[5].numpy()
    assert near.sum(-1)[disparity > np.percentile(disparity, 95)].mean() > near.sum(-1).mean()


def test_of_clips_of_one_kind_the_last_is_shown(tmp_path):
    for name in ("render-spiral-frame-003_path_1", "render-spiral-frame-010_path_2", "render-bullet_time_loop-x"):
        write_video(tmp_path / name / "video.mp4", 2, 0)
    found = find_videos(tmp_path)
    assert list(found) == ["Frozen moment, moving camera", "render-bullet_time_loop-x"]
    assert found["Frozen moment, moving camera"].parent.name == "render-spiral-frame-010_path_2"


def test_curves_come_back(experiment):
    curves = read_curves(experiment.experiment_dir)
    np.testing.assert_allclose(curves["train/psnr"], [[10, 30.0], [20, 40.0], [30, 50.0]])
    assert "held-out/psnr" not in curves
    assert iio.imread(draw_curves(curves)).shape[2] == 4


def test_without_a_checkpoint_or_with_a_broken_report(experiment, tmp_path):
    with pytest.raises(InputError, match=r"has no checkpoint; run run_nerf\.py first"):
        write_summary(dataclasses.replace(experiment, expname="other"))
    (experiment.experiment_dir / "metrics_nsff-fixed.json").write_text('{"protocol": ')
    (experiment.experiment_dir / "health.json").write_text("{}")
    with pytest.raises(InputError, match=r"metrics_nsff-fixed\.json is no report, it may be cut off"):
        write_summary(experiment)


@pytest.fixture
def clip(tmp_path):
    """A clip that is said to be prepared already: poses of 24 frames."""
    dense = tmp_path / "out" / "scene" / "dense"
    for name in ("disp", "flow_i1", "motion_masks"):
        (dense / name).mkdir(parents=True)
    np.save(dense / "poses_bounds.npy", np.zeros((24, 17)))
    return ["--video", str(tmp_path / "my clip.mp4"), "--out", str(tmp_path / "out")]


def test_stages_follow_each_other_and_can_be_read(clip, monkeypatch):
    """Every command is one that its script understands."""
    seen = []
    monkeypatch.setattr(stages, "run", lambda command, folder: seen.append(command) or 0)
    run_all.main([*clip, "--views", "truth", "--minutes", "3", "--quiet"])
    with pytest.raises(prepare_video.UsageError, match="not with --fps"):  # all but this was understood
        prepare_video.main([*seen[0][1:], "--fps", "5"])
    assert [command[0] for command in seen] == [
        "prepare_video.py", "run_nerf.py", "render.py", "evaluation.py", "make_page.py"
    ]  # fmt: skip
    configs = [load_config(command[1:]) for command in seen[1:]]
    assert {config.experiment_dir for config in configs} == {configs[0].experiment_dir}
    assert (configs[0].max_minutes, configs[0].end_frame, configs[0].target_idx) == (3.0, 24, 12)
    assert configs[1].render_bt
    assert configs[1].times == "10:14"
    assert configs[2].protocol == "nsff-fixed"
    seen.clear()
    run_all.main([*clip, "--quiet"])
    assert [command[0] for command in seen][3:] == ["diagnose.py", "make_page.py"]


def test_a_stage_that_fails_ends_it(clip, monkeypatch):
    monkeypatch.setattr(stages, "run", lambda command, folder: int(command[0] == "run_nerf.py"))
    with pytest.raises(InputError, match=r"run_nerf\.py ended with status 1"):
        run_all.main(clip)
    monkeypatch.setattr(stages, "run", lambda command, folder: 2)
    with pytest.raises(UsageError, match=r"prepare_video\.py ended with status 2"):
        run_all.main(clip)
    for wrong in (["--max_frames", "2"], ["--minutes", "nan"], ["--render_factor", "0"], ["--config", "nowhere.txt"]):
        with pytest.raises(UsageError):
            run_all.main([*clip, *wrong])


def test_another_scene_is_another_training(clip, monkeypatch, tmp_path):
    """Weights of other cameras, priors or settings are kept aside; the same ones are gone on with."""
    monkeypatch.setattr(stages, "run", lambda command, folder: 0)
    kept = tmp_path / "out" / "logs" / "weights"
    run_all.main(clip)
    kept.touch()
    run_all.main([*clip, "--minutes", "40"])
    assert kept.exists()
    (tmp_path / "out/scene/dense/disp/00000.npy").touch()
    run_all.main(clip)
    assert not kept.exists()
    assert (tmp_path / "out" / "logs-old1" / "weights").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_stage_which_has_time_to_save(tmp_path, number):
    stage = tmp_path / "stage.py"
    stage.write_text(
        "import signal, sys, time, pathlib\n"
        "def save(*_):\n    time.sleep(1)\n    pathlib.Path('saved').touch()\n    sys.exit(0)\n"
        "[signal.signal(n, save) for n in (signal.SIGINT, signal.SIGTERM)]\n"
        "pathlib.Path('started').touch()\ntime.sleep(60)\n"
    )
    caller = "import sys; from pathlib import Path; from nsff.pipeline import run; run(['stage.py'], Path(sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-c", caller, str(tmp_path)], cwd=stages.HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 60.0
    while not (tmp_path / "started").exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (tmp_path / "saved").exists()
    assert b"KeyboardInterrupt" in errors


def test_a_missing_video_as_typed(tmp_path):
    command = [sys.executable, run_all.__file__, "--video", str(tmp_path / "no.mp4"), "--out", str(tmp_path / "out")]
    out = subprocess.run([*command, "--quiet"], capture_output=True, text=True, check=False)
    assert out.returncode == 1
    lines = out.stderr.splitlines()
    assert lines[-2].startswith("error: ")
    assert "no.mp4 is missing" in lines[-2]
    assert lines[-1].startswith("error: prepare_video.py ended with status 1")
    assert not (tmp_path / "out" / "logs").exists()
