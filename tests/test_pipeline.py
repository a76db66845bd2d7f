"""The script that runs all stages from a video to a page: commands, failures, moved results, signals."""

import signal
import subprocess
import sys
import time

import numpy as np
import prepare_video
import pytest
import run_all
from nsff import pipeline
from nsff.config_loader import load_config
from nsff.errors import InputError, UsageError


@pytest.fixture
def options(tmp_path):
    """Options for a video whose scene exists already, with poses of 24 frames."""
    dense = tmp_path / "out" / "scene" / "dense"
    for name in ("disp", "flow_i1", "motion_masks"):
        (dense / name).mkdir(parents=True)
    np.save(dense / "poses_bounds.npy", np.zeros((24, 17)))
    return ["--video", str(tmp_path / "my clip.mp4"), "--out", str(tmp_path / "out")]


def test_stages_are_valid_commands_in_order(options, monkeypatch):
    commands = []
    monkeypatch.setattr(pipeline, "run", lambda command, folder: commands.append(command) or 0)
    run_all.main([*options, "--views", "truth", "--minutes", "3", "--quiet"])
    with pytest.raises(prepare_video.UsageError, match="not with --fps"):  # every other option is accepted
        prepare_video.main([*commands[0][1:], "--fps", "5"])
    assert [command[0] for command in commands] == [
        "prepare_video.py", "run_nerf.py", "render.py", "evaluation.py", "export_viewer.py", "make_page.py"
    ]  # fmt: skip
    configs = [load_config(command[1:]) for command in commands[1:]]
    assert {config.experiment_dir for config in configs} == {configs[0].experiment_dir}
    assert (configs[0].max_minutes, configs[0].end_frame, configs[0].target_idx) == (3.0, 24, 12)
    assert configs[1].render_bt
    assert configs[1].times == "10:14"
    assert configs[2].protocol == "nsff-fixed"
    commands.clear()
    run_all.main([*options, "--quiet"])
    assert [command[0] for command in commands][3:] == ["diagnose.py", "export_viewer.py", "make_page.py"]


def test_space_that_the_preparation_found_is_taken(options, monkeypatch, tmp_path):
    commands = []
    monkeypatch.setattr(pipeline, "run", lambda command, folder: commands.append(command) or 0)
    scene_json = tmp_path / "out/scene/dense/scene.json"
    scene_json.write_text('{"scale": 1.0, "cameras": {"turn_degrees": 120.0, "beyond_ndc": 9, "space": "contracted"}}')
    run_all.main([*options, "--quiet"])
    assert [command[0] for command in commands][1:] == ["run_nerf.py", "render.py", "diagnose.py", "make_page.py"]
    configs = [load_config(command[1:]) for command in commands[1:]]
    assert all(config.no_ndc for config in configs)
    assert configs[1].path == "orbit"
    scene_json.write_text('{"scale": 1.0, "cameras": {"turn_degrees": 8.0, "beyond_ndc": 0, "space": "ndc"}}')
    commands.clear()
    run_all.main([*options, "--quiet"])
    assert not any("--no_ndc" in command for command in commands)
    scene_json.write_text("{")
    with pytest.raises(InputError, match=r"scene\.json.*save_poses_nerf\.py"):
        run_all.main([*options, "--quiet"])


def test_failing_stage_ends_run_with_its_status(options, monkeypatch):
    monkeypatch.setattr(pipeline, "run", lambda command, folder: int(command[0] == "run_nerf.py"))
    with pytest.raises(InputError, match=r"run_nerf\.py ended with status 1"):
        run_all.main(options)
    monkeypatch.setattr(pipeline, "run", lambda command, folder: 2)
    with pytest.raises(UsageError, match=r"prepare_video\.py ended with status 2"):
        run_all.main(options)


@pytest.mark.parametrize(
    "wrong",
    [["--max_frames", "2"], ["--minutes", "nan"], ["--render_factor", "0"], ["--config", "nowhere.txt"]],
)
def test_invalid_option_is_refused(options, wrong):
    with pytest.raises(UsageError):
        run_all.main([*options, *wrong])


def test_changed_priors_move_old_training_aside(options, monkeypatch, tmp_path):
    """Longer training resumes; with changed files of the scene the old logs are renamed."""
    monkeypatch.setattr(pipeline, "run", lambda command, folder: 0)
    weights = tmp_path / "out" / "logs" / "weights"
    run_all.main(options)
    weights.touch()
    run_all.main([*options, "--minutes", "40"])
    assert weights.exists()
    (tmp_path / "out/scene/dense/disp/00000.npy").touch()
    run_all.main(options)
    assert not weights.exists()
    assert (tmp_path / "out" / "logs-old1" / "weights").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_is_forwarded_and_stage_may_save(tmp_path, number):
    stage = tmp_path / "stage.py"
    stage.write_text(
        "import signal, sys, time, pathlib\n"
        "def save(*_):\n    time.sleep(1)\n    pathlib.Path('saved').touch()\n    sys.exit(0)\n"
        "[signal.signal(n, save) for n in (signal.SIGINT, signal.SIGTERM)]\n"
        "pathlib.Path('started').touch()\ntime.sleep(60)\n"
    )
    caller = "import sys; from pathlib import Path; from nsff.pipeline import run; run(['stage.py'], Path(sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-c", caller, str(tmp_path)], cwd=pipeline.HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 60.0
    while not (tmp_path / "started").exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (tmp_path / "saved").exists()
    assert b"KeyboardInterrupt" in errors


def test_missing_video_fails_as_typed(tmp_path):
    command = [sys.executable, run_all.__file__, "--video", str(tmp_path / "no.mp4"), "--out", str(tmp_path / "out")]
    out = subprocess.run([*command, "--quiet"], capture_output=True, text=True, check=False)
    assert out.returncode == 1
    lines = out.stderr.splitlines()
    assert lines[-2].startswith("error: ")
    assert "no.mp4 is missing" in lines[-2]
    assert lines[-1].startswith("error: prepare_video.py ended with status 1")
    assert not (tmp_path / "out" / "logs").exists()
