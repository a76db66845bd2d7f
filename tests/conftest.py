"""Shapes in signatures are checked while the tests run; figures of the published method are found here."""

import json
import logging
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

jaxtyping.install_import_hook(["nsff"], "shape_check.checked")

GOLDEN = Path(os.environ.get("NSFF_GOLDEN", Path(__file__).parent / "golden")).resolve()
REPOSITORY = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
ALEXNET = {"0": (64, 3, 11), "3": (192, 64, 5), "6": (384, 192, 3), "8": (256, 384, 3), "10": (256, 256, 3)}
torch.set_num_threads(1)  # the tensors are small: threads that wait for each other cost more than they bring


@pytest.fixture(autouse=True)
def log_level() -> None:
    """Log from INFO on, whatever a script that ran in this process has set: `caplog` sees the same in any order."""
    logging.getLogger("nsff").setLevel(logging.INFO)


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(params=["paper", "wild"], scope="session")
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def figures(golden: Path, variant: str) -> dict[str, np.ndarray]:
    with np.load(golden / variant / "figures.npz") as data:
        return dict(data)


@pytest.fixture(scope="session")
def stages(golden: Path, variant: str) -> dict[str, Any]:
    return json.loads((golden / variant / "figures.json").read_text())["stages"]


@pytest.fixture(scope="session")
def golden_config(golden: Path, variant: str):
    from nsff.config_loader import load_config

    folder = str(golden / "scene")
    return load_config(["--config", str(golden / variant / "config.txt"), "--datadir", folder, "--variant", variant])


@pytest.fixture(scope="session")
def golden_scene(golden_config):
    from nsff.data.scene import load_scene

    return load_scene(golden_config, CPU)


def published_fields(golden: Path, config):
    """Fields with the weights of the golden checkpoint."""
    from nsff.fields import build_fields
    from nsff.training.checkpoint import load_weights, read_checkpoint

    fields = build_fields(config)
    load_weights(fields, read_checkpoint(golden / "render" / "002000.tar"), config)
    return fields


@pytest.fixture
def golden_fields(golden: Path, golden_config):
    return published_fields(golden, golden_config)


@pytest.fixture(scope="session")
def trained(golden: Path, tmp_path_factory):
    """The golden checkpoint in an experiment folder."""
    from nsff.config_loader import load_config

    argv = ["--config", str(golden / "paper/config.txt"), "--datadir", str(golden / "scene"), "--image_ext", "png"]
    config = load_config([*argv, "--basedir", str(tmp_path_factory.mktemp("logs"))])
    config.experiment_dir.mkdir()
    shutil.copy(golden / "render/002000.tar", config.experiment_dir)
    return config


@pytest.fixture(scope="session")
def typed(trained) -> Callable[..., subprocess.CompletedProcess]:
    """Runs a script on the golden scene as a user types it, inside its folder."""

    def run(script: str, *more: str) -> subprocess.CompletedProcess:
        given = ["--config", trained.config, "--datadir", trained.datadir, "--basedir", trained.basedir]
        command = [sys.executable, f"{script}.py", *given, *more]
        return subprocess.run(command, cwd=REPOSITORY / "nsff_exp", capture_output=True, text=True, check=False)

    return run


def rule(key: str, shape: tuple[int, ...], seed: int = 7) -> torch.Tensor:
    """Weights from a rule, so that none need to be stored (golden/README)."""
    x = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32).randn(*shape)
    x = x * np.sqrt(2.0 / np.prod(shape[1:])) if len(shape) > 1 else 0.1 * x
    return torch.from_numpy(x.astype(np.float32))


@pytest.fixture(scope="session")
def trunk() -> dict[str, torch.Tensor]:
    """Weights of AlexNet's convolutions for LPIPS, from the rule."""
    state = {}
    for layer, (n_out, n_in, size) in ALEXNET.items():
        state[f"features.{layer}.weight"] = rule(f"features.{layer}.weight", (n_out, n_in, size, size))
        state[f"features.{layer}.bias"] = rule(f"features.{layer}.bias", (n_out,))
    return state


@pytest.fixture(scope="session")
def trunk_file(trunk, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(trunk, path)
    return path


@pytest.fixture(scope="session")
def small_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in scene, 12 frames at 64x36 with all files; to be copied, not changed."""
    from nsff.demo.scene import DemoSettings, write_demo_scene

    folder = tmp_path_factory.mktemp("small") / "scene"
    write_demo_scene(folder, DemoSettings(64, 36, n_frames=12))
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 12 frames of the built-in room, from a hand-held camera; its truth is beside it, in `truth`."""
    from nsff.demo.scene import DemoSettings, write_demo_scene, write_video
    from nsff.scene_folder import SceneFolder

    folder = tmp_path_factory.mktemp("video")
    write_demo_scene(folder / "truth", DemoSettings(160, 90, n_frames=12, path="smooth"))
    write_video(folder / "a clip.mp4", SceneFolder(folder / "truth").list_images())
    return folder / "a clip.mp4"


@pytest.fixture(scope="session")
def prepare() -> Callable[..., subprocess.CompletedProcess]:
    """Prepares a small video as a user types it, without any weights."""

    def run(clip: Path, scene: Path, *more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "prepare_video.py", "--video", str(clip), "--data_path", str(scene)]
        return subprocess.run(
            [*command, "--resize_height", "72", "--input_flow_w", "256", *more],
            cwd=REPOSITORY / "nsff_scripts", capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def prepared(clip: Path, prepare, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """(clip, scene that was prepared from it, what was printed)."""
    scene = tmp_path_factory.mktemp("prepared") / "my scene"
    out = prepare(clip, scene)
    assert out.returncode == 0, out.stderr[-2000:]
    return clip, scene, out.stderr


@pytest.fixture(scope="session")
def paper_config(golden: Path):
    """The golden config of one variant, where nothing depends on it."""
    from nsff.config_loader import load_config

    folder = str(golden / "scene")
    return load_config(["--config", str(golden / "paper" / "config.txt"), "--datadir", folder])


@pytest.fixture(scope="session")
def paper_scene(paper_config):
    from nsff.data.scene import load_scene

    return load_scene(paper_config, CPU)


@pytest.fixture
def paper_fields(golden: Path, paper_config):
    return published_fields(golden, paper_config)
