"""Scenes around which the camera turns: NDC is refused, `--no_ndc` trains, renders and is evaluated, never mixed."""

import json
import sys
from pathlib import Path

import diagnose
import evaluation
import export_viewer
import numpy as np
import pytest
import render
import run_nerf
from nsff.cli import run_script

SMALL = [
    "--config", "configs/config_demo.txt", "--final_height", "18", "--end_frame", "12", "--target_idx", "5",
    "--N_rand", "16", "--num_extra_sample", "4", "--background_rays", "8", "--N_iters", "4", "--i_img", "4",
    "--image_ext", "png",
]  # fmt: skip
HASH = ["--hash_levels", "4", "--hash_log2_rows", "10", "--hash_finest", "64", "--hash_dynamic_finest", "64"]
HASH += ["--hash_coarse_samples", "8", "--hash_samples", "8", "--warm_steps", "2"]
MLP = ["--field", "mlp", "--netwidth", "16", "--N_samples", "6"]
KINDS = {
    "hash": HASH,
    "mlp": MLP,
    "mlp wild": [*MLP, "--variant", "wild", "--chain_sf"],
    "hash wild": [*HASH, "--variant", "wild"],
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    from nsff.demo.scene import DemoSettings, write_demo_scene

    folder = tmp_path_factory.mktemp("orbit") / "dense"
    write_demo_scene(folder, DemoSettings(32, 18, n_frames=12, path="orbit"))
    return folder


@pytest.fixture
def run(scene, tmp_path, monkeypatch, capsys):
    """Run the main function of a script as typed; returns (exit status, error lines)."""

    def call(script, *options: str) -> tuple[int, list[str]]:
        argv = [*SMALL, "--datadir", str(scene), "--basedir", str(tmp_path / "logs"), *options]
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *argv])
        with pytest.raises(SystemExit) as stopped:
            run_script(script.main)
        errors = [line for line in capsys.readouterr().err.split("\n") if line.startswith("error:")]
        return int(stopped.value.code), errors

    return call


def test_ndc_is_refused_where_cameras_turn_unless_it_is_forced(run):
    status, errors = run(run_nerf, *HASH)
    assert (status, len(errors)) == (1, 1)
    assert "the cameras turn by 120 degrees, and" in errors[0]
    assert "--no_ndc" in errors[0]
    assert "--force_ndc" in errors[0]
    assert run(run_nerf, *HASH, "--force_ndc")[0] == 0


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.nightly] * (kind != "hash")) for kind in KINDS])
def test_all_stages_work_without_ndc(run, kind, tmp_path):
    options = ["--no_ndc", *KINDS[kind]]
    assert run(run_nerf, *options) == (0, [])
    videos = ["--render_bt", "--render_lockcam_slowmo", "--render_slowmo_bt", "--times", "4:6", "--slowmo_factor", "2"]
    assert run(run_nerf, *options, *videos, "--layers", "rgb,flow") == (0, [])
    assert run(render, *options, "--path", "orbit", "--frames", "3", "--layers", "rgb,depth,static,blend") == (0, [])
    assert run(evaluation, *options, "--protocol", "nsff-fixed", "--every", "60") == (0, [])
    assert run(diagnose, *options) == (0, [])
    folder = tmp_path / "logs/demo_F00-12"
    mean = json.loads((folder / "metrics_nsff-fixed.json").read_text())["mean"]
    assert np.isfinite([mean["psnr"], mean["psnr_dynamic"], mean["psnr_static"]]).all()
    assert len(list(folder.glob("render-*/**/*.png"))) > 60


def test_checkpoints_of_the_other_space_are_refused_in_one_line(run):
    assert run(run_nerf, *HASH, "--no_ndc", "--expname", "a") == (0, [])
    status, errors = run(render, *HASH, "--expname", "a", "--render_bt")
    assert (status, len(errors)) == (1, 1)
    assert "was trained in contracted space, its fields mean nothing in NDC: add --no_ndc" in errors[0]
    assert run(run_nerf, *HASH, "--force_ndc", "--expname", "b") == (0, [])
    status, errors = run(run_nerf, *HASH, "--no_ndc", "--expname", "b", "--N_iters", "5")
    assert (status, len(errors)) == (1, 1)
    assert "was trained in NDC, its fields mean nothing in contracted space: leave --no_ndc out" in errors[0]


def test_viewer_refuses_curved_layers(run):
    assert run(run_nerf, *HASH, "--no_ndc") == (0, [])
    status, errors = run(export_viewer, *HASH, "--no_ndc")
    assert (status, len(errors)) == (2, 1)
    assert "the viewer needs layers that are planes for every camera" in errors[0]
