"""kill -9 at random moments: nothing but the work since the last checkpoint is lost, and everything goes on."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from nsff.config_loader import load_config
from nsff.training.checkpoint import list_checkpoints, read_checkpoint

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
EVERY = 5  # steps between checkpoints
TINY = [
    "--netwidth", "16", "--N_samples", "8", "--N_rand", "32", "--num_extra_sample", "8", "--i_img", "0",
    "--i_weights", str(EVERY), "--i_print", "5", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def arguments(golden, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("killed")
    given = ["--config", str(golden / "paper/config.txt"), "--datadir", str(golden / "scene"), "--basedir", str(folder)]
    return [*given, *TINY]


def start(folder: str, *command: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HTTPS_PROXY": "http://localhost:1"}
    return subprocess.Popen(
        [sys.executable, *command], cwd=REPOSITORY / folder, env=environment, stderr=subprocess.PIPE, text=True
    )


def wait_until(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 120.0) -> None:
    """Wait while the process runs; it must not end before the condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def kill(process: subprocess.Popen) -> None:
    """Kill the process; it must be running still."""
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()


def kill_after(process: subprocess.Popen, seconds: float) -> bool:
    """Whether it was still running."""
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill(process)
        return True
    assert process.returncode == 0
    return False


def newest_step(folder: Path) -> int:
    return max((int(path.stem) for path in list_checkpoints(folder)), default=0)


def finished_renders(folder: Path) -> dict[Path, int]:
    """Images in the render folders of an experiment and when they were written (ns)."""
    paths = [path for path in folder.glob("render*/**/*.[pj]*g") if not path.name.startswith(".")]
    return {path: path.stat().st_mtime_ns for path in paths}


def count_kills(kills: int) -> None:
    killed.append(kills)
    print(f"{kills} kills")


killed: list[int] = []


def test_training(arguments):
    """30 times: every checkpoint stays whole, and each run goes beyond the one before it, in steps of `EVERY`."""
    chance, folder, reached = random.Random(1), load_config(arguments).experiment_dir, 0
    for _ in range(30):
        process = start("nsff_exp", "run_nerf.py", *arguments, "--N_iters", "1000000")
        wait_until(lambda: newest_step(folder) > reached, process)  # noqa: B023
        time.sleep(chance.uniform(0.0, 0.4))
        kill(process)
        for path in list_checkpoints(folder):
            read_checkpoint(path)  # raises if broken
        assert newest_step(folder) > reached
        assert newest_step(folder) % EVERY == 0
        reached = newest_step(folder)
    count_kills(30)
    end = start("nsff_exp", "run_nerf.py", *arguments, "--N_iters", str(reached + 3))
    _, said = end.communicate(timeout=120)
    assert end.returncode == 0, said
    assert f"(step {reached})" in said
    assert "did not shut down cleanly" in said
    assert list_checkpoints(folder)[0].stem == f"{reached + 3:06d}"
    assert not list(folder.glob(".partial-*"))


def test_one_of_two_that_train_together(arguments):
    """torchrun starts both again, and they go on from the last checkpoint."""
    options = [*arguments, "--expname", "together", "--N_iters", "60"]
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--max-restarts=2"]
    process, folder = start("nsff_exp", *torchrun, "run_nerf.py", *options), load_config(options).experiment_dir
    wait_until(lambda: list_checkpoints(folder), process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    count_kills(1)
    assert process.returncode == 0, said
    assert "the connection to another process of the group failed" in said
    assert "resumed from" in said
    assert list_checkpoints(folder)[0].stem == "000060"


@pytest.mark.parametrize(
    ("script", "options", "result"),
    [
        ("render.py", ["--render_lockcam_slowmo", "--times", "10:12", "--slowmo_factor", "6"], "render-*/video.mp4"),
        ("evaluation.py", ["--protocol", "nsff-fixed", "--every", "9", "--save_renders"], "metrics_nsff-fixed.json"),
    ],
)
def test_rendering_and_evaluation(trained, script, options, result):
    """8 kills each, just after one more image is done: no image is made twice, and the end is as without a kill."""
    given = ["--config", trained.config, "--datadir", trained.datadir, "--basedir", trained.basedir, "--device", "cpu"]
    chance, folder = random.Random(2), trained.experiment_dir
    before: dict[Path, int] = {}
    for _ in range(8):
        process = start("nsff_exp", script, *given, *options)
        wait_until(lambda: finished_renders(folder).keys() - before.keys(), process)  # noqa: B023
        time.sleep(chance.uniform(0.0, 0.2))
        kill(process)
        whole = finished_renders(folder)
        assert before.items() <= whole.items()
        before = whole
    count_kills(8)
    end = start("nsff_exp", script, *given, *options)
    _, said = end.communicate(timeout=300)
    assert end.returncode == 0, said
    assert len(list(trained.experiment_dir.glob(result))) == 1
    assert not list(trained.experiment_dir.rglob(".partial-*"))


def test_preparation(clip, tmp_path):
    """9 kills: no broken file, the next run goes on and comes to its end."""
    scene = tmp_path / "scene"
    command = ["prepare_video.py", "--video", str(clip), "--data_path", str(scene), "--resize_height", "72"]
    chance, kills = random.Random(3), 0
    while kills < 9 and kill_after(start("nsff_scripts", *command), chance.uniform(2.0, 12.0)):
        kills += 1
    count_kills(kills)
    end = start("nsff_scripts", *command)
    _, said = end.communicate(timeout=300)
    assert end.returncode == 0, said
    assert not list(scene.rglob("*partial*"))
    assert len(list((scene / "dense/flow_i1").glob("*.npz"))) == 22


def test_there_were_fifty():
    """Runs last."""
    assert sum(killed) >= 50
