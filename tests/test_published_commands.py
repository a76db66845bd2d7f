"""Every command of the published README, as typed, on folders laid out like the authors' archives.

The archives are too large for a test: a small scene stands for each of their scenes, the golden checkpoint for each of
their checkpoints, and networks with random weights for the published ones.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
NIGHTLY = pytest.mark.nightly
KID_RUNNING = "kid-running_ndc_5f_sv_of_sm_unify3_F00-30"
EVALUATED = {  # config, experiment in dynamic_scene_pretrained_models.zip
    "balloon1-2": "balloon1-2_ndc_5f_sv_of_unify3_F00-24", "truck2": "truck-2_ndc_5f_sv_of_unify3_F00-24",
    "skating-2": "Skating2_ndc_5f_sv_of_unify3_F00-24",
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, golden: Path, trunk: dict[str, torch.Tensor]) -> Path:
    """Copy the repository, with stand-ins of the archives unpacked as the published README says."""
    home = tmp_path_factory.mktemp("xxx") / "Neural-Scene-Flow-Fields"
    files = subprocess.run(
        ["git", "ls-files", "nsff_scripts", "nsff_exp", "configs"], cwd=REPOSITORY, capture_output=True
    )
    for name in files.stdout.decode().split():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, home / name)
    for path in (home / "configs").glob("config_*.txt"):
        text = re.sub(r"(?m)^datadir = .*", f"datadir = {golden / 'scene'}", path.read_text())
        text = re.sub(r"(?m)^N_samples = .*", "N_samples = 20", re.sub(r"(?m)^netwidth = .*", "netwidth = 32", text))
        path.write_text(re.sub(r"(?m)^final_height = .*", "final_height = 36", text))
    for experiment in (KID_RUNNING, *EVALUATED.values()):
        (home / "nsff_exp/logs" / experiment).mkdir(parents=True)
        shutil.copy(golden / "render/002000.tar", home / "nsff_exp/logs" / experiment / "360000.tar")
    dense = home / "kid-running/dense"
    shutil.copytree(golden / "scripts/dense/sparse", dense / "sparse")
    shutil.copytree(golden / "scripts/dense/images", dense / "images")
    cache = home / "torch/hub/checkpoints"  # torchvision's download folder
    cache.mkdir(parents=True)
    torch.save(trunk, cache / "alexnet-owt-7be5be79.pth")
    return home


def run_as_typed(home: Path, folder: str, command: str) -> subprocess.CompletedProcess:
    """Run a shell command in a folder of the copy, with the `python` of this environment."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TORCH_HOME": str(home / "torch"),
    }  # fmt: skip
    command = command.replace("/home/xxx/Neural-Scene-Flow-Fields", str(home))
    run = subprocess.run(command, shell=True, cwd=home / folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return run


def frames_of(folder: Path) -> list[np.ndarray]:
    return [iio.imread(path).astype(float) for path in sorted((folder / "images").glob("*.jpg"))]


@pytest.mark.parametrize(
    ("options", "experiment_folder", "kind", "n_frames"),
    [
        ("--render_bt --target_idx 10", "render-spiral-frame-010_path_002000", "render_bt", 60),
        pytest.param(
            "--render_lockcam_slowmo --target_idx 8",
            "render-lockcam-slowmo-frame-008_path_002000",
            None,
            161,
            marks=NIGHTLY,
        ),
        pytest.param(
            "--render_slowmo_bt  --target_idx 10",
            "render-slowmo-bt-frame-010_path_002000",
            "render_slowmo_bt",
            201,
            marks=NIGHTLY,
        ),
    ],
)
def test_render_commands_match_published_frames(home, golden, options, experiment_folder, kind, n_frames):
    """Frames equal those of the published code up to JPEG compression."""
    run_as_typed(home, "nsff_exp", f"python run_nerf.py --config configs/config_kid-running.txt {options}")
    folder = home / "nsff_exp/logs" / KID_RUNNING / experiment_folder
    frames = frames_of(folder)
    assert len(frames) == n_frames
    assert (folder / "video.mp4").stat().st_size > 1000
    if kind is not None:
        published = np.load(golden / "render/frames.npz")
        names = sorted(name for name in published.files if name.startswith(f"{kind}/"))
        assert len(names) >= 6
        for name, frame in zip(names, frames, strict=False):
            assert np.abs(frame - published[name]).mean() < 3.0, name


@pytest.mark.parametrize("scene", ["truck2", *(pytest.param(x, marks=NIGHTLY) for x in ("skating-2", "balloon1-2"))])
def test_evaluation_command_prints_published_means(home, golden, scene):
    every = "" if scene == "balloon1-2" else " --every 60"  # only one in full: its 264 views take a minute
    run = run_as_typed(home, "nsff_exp", f"python evaluation.py --config configs/config_{scene}.txt{every}")
    printed = dict(line.rsplit(" ", 1) for line in run.stdout.splitlines())
    published = json.loads((golden / "render/evaluation.json").read_text())["means"]
    assert set(printed) == set(published)
    report = json.loads((home / "nsff_exp/logs" / EVALUATED[scene] / "metrics_nsff.json").read_text())
    for name, theirs in published.items():
        ours = name.removeprefix("mean_").replace(" dy", "_dynamic")
        assert float(printed[name]) == pytest.approx(report["mean"][ours], abs=1e-3)
        if not every:
            assert float(printed[name]) == pytest.approx(theirs, abs=1e-3), name


def test_training_command_interrupted_leaves_settings_and_checkpoint(home):
    config = home / "configs/config_kid-running.txt"
    before = config.read_text()
    config.write_text(before.replace("kid-running_ndc_5f_sv_of_sm_unify3", "my-own"))
    command = [sys.executable, "run_nerf.py", "--config", "configs/config_kid-running.txt"]
    run = subprocess.Popen(command, cwd=home / "nsff_exp", stderr=subprocess.PIPE, text=True)
    folder = home / "nsff_exp/logs/my-own_F00-30"
    try:
        while run.poll() is None and not list(folder.glob("events*")):
            time.sleep(0.2)
        time.sleep(2.0)
        run.send_signal(signal.SIGINT)
        errors = run.communicate(timeout=120)[1]
    finally:
        run.kill()
        config.write_text(before)
    assert run.returncode == 0, errors
    checkpoints = list(folder.glob("*.tar"))
    assert len(checkpoints) == 1
    assert int(checkpoints[0].stem) >= 1
    assert "w_depth = 0.04\n" in (folder / "args.txt").read_text()
    assert (folder / "config.txt").read_text() == before.replace("kid-running_ndc_5f_sv_of_sm_unify3", "my-own")


@pytest.fixture(scope="module")
def networks(home: Path) -> None:
    """Write networks with random weights to the paths that the published README gives."""
    sys.path.insert(0, str(REPOSITORY / "nsff_scripts"))
    from nsff.prep.depth.midas import MidasNet
    from nsff.prep.downloads import DOWNLOADS
    from torchvision.models.detection import maskrcnn_resnet50_fpn
    from torchvision.models.optical_flow import raft_large

    torch.manual_seed(0)
    files = {item.name: item.file for item in DOWNLOADS}
    models = home / "nsff_scripts/models"
    models.mkdir(exist_ok=True)
    torch.save(MidasNet().state_dict(), home / "nsff_scripts/model.pt")
    torch.save(raft_large(weights=None).state_dict(), models / files["raft"])
    torch.save(maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict(), models / files["maskrcnn"])
    shutil.copy(home / "torch/hub/checkpoints/alexnet-owt-7be5be79.pth", models / files["lpips"])


@NIGHTLY
def test_preprocessing_commands_write_all_scene_files(home, golden, networks):
    dense = home / "kid-running/dense"
    data_path = "/home/xxx/Neural-Scene-Flow-Fields/kid-running/dense/"
    run_as_typed(home, "nsff_scripts", f'python save_poses_nerf.py --data_path "{data_path}"')
    np.testing.assert_allclose(
        np.load(dense / "poses_bounds.npy"), np.load(golden / "scripts/expected/poses_bounds.npy"), rtol=1e-5, atol=1e-6
    )
    sizes = "--input_w 640 --input_h 360 --resize_height 288"
    run_as_typed(home, "nsff_scripts", f'python run_midas.py --data_path "{data_path}" {sizes}')
    run_as_typed(home, "nsff_scripts", "./download_models.sh")
    sizes = "--epi_threhold 1.0 --input_flow_w 768 --input_semantic_w 1024 --input_semantic_h 576"
    run_as_typed(
        home,
        "nsff_scripts",
        f"python run_flows_video.py --model models/raft-things.pth --data_path {data_path} {sizes}",
    )
    names = [f"{index:05d}" for index in range(6)]
    (frames,) = dense.glob("images_*x288")
    width = int(frames.name.removeprefix("images_").removesuffix("x288"))
    for name in names:
        assert iio.imread(frames / f"{name}.png").shape == (288, width, 3)
        assert iio.imread(dense / "motion_masks" / f"{name}.png").shape == (288, width)
        disparity = np.load(dense / "disp" / f"{name}.npy")
        assert (disparity.shape, disparity.dtype) == ((288, width), np.float32)
        assert np.isfinite(disparity).all()
    for name in [f"{name}_fwd" for name in names[:-1]] + [f"{name}_bwd" for name in names[1:]]:
        with np.load(dense / "flow_i1" / f"{name}.npz") as data:
            assert (data["flow"].shape, data["mask"].shape) == ((288, width, 2), (288, width))
