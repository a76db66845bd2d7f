"""Several processes train together: against the same done by hand in one, and stopped and gone on."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nsff.checkpoint import list_checkpoints, read_checkpoint
from nsff.config import UsageError, load_config
from nsff.trainer import Trainer
from nsff.workers import Workers, backend, share_cores

CPU = torch.device("cpu")
FOLDER = Path(__file__).resolve().parents[2] / "nsff_exp"


@pytest.fixture
def arguments(golden, tmp_path) -> list[str]:
    return [
        "--config", str(golden / "paper/config.txt"), "--datadir", str(golden / "scene"), "--basedir", str(tmp_path),
        "--netwidth", "16", "--N_samples", "8", "--N_rand", "33", "--num_extra_sample", "8", "--i_img", "0",
        "--device", "cpu", "--background_rays", "9",
    ]  # fmt: skip


def run_together(count: int, *command: str) -> list[str]:
    """Processes as torchrun starts them; what each said."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    environment |= {"OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(
            [sys.executable, *command], cwd=FOLDER, env=environment | {"RANK": str(rank)}, stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    said = [run.communicate(timeout=200)[1] for run in runs]
    assert [run.returncode for run in runs] == [0] * count, said
    return said


class ByHand(Workers):
    """Stands for one process of several, and keeps what it would have averaged."""

    def average(self, values):
        grads.append([value.clone() for value in values])


grads: list[list[torch.Tensor]] = []


def test_a_step_of_two_is_the_mean_of_their_gradients(arguments, paper_scene):
    said = run_together(2, "run_nerf.py", *arguments, "--N_iters", "1")
    assert "saved" in said[0]
    assert said[1] == ""  # one tells how it goes
    config = load_config([*arguments, "--N_iters", "1"])
    found = read_checkpoint(list_checkpoints(config.experiment_dir)[0])
    grads.clear()
    trainers = [Trainer(config, paper_scene, CPU, ByHand(rank, 2)) for rank in (0, 1)]
    frames = [trainer.train_step().frame for trainer in trainers]
    assert frames[0] != frames[1]  # each from its own
    by_hand = Trainer(config, paper_scene, CPU)
    for parameter, first, second in zip(by_hand.fields.parameters(), *grads, strict=True):
        parameter.grad = (first + second) / 2
    by_hand.optimizer.step()
    for field, state in ((by_hand.fields.static, found.static), (by_hand.fields.dynamic, found.dynamic)):
        for name, value in field.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-7)


RUNS = """
import sys
import torch
from nsff.config import load_config
from nsff.scene import load_scene
from nsff.trainer import Trainer, train
from nsff.workers import join_workers
with join_workers() as workers:
    for field in ("mlp", "hash"):
        for name, steps in (("straight", "4"), ("halved", "2"), ("halved", "4")):
            more = ["--field", field, "--expname", f"{field}_{name}", "--N_iters", steps]
            config, device = load_config([*sys.argv[1:], *more]), torch.device("cpu")
            train(Trainer(config, load_scene(config, device), device, workers))
"""


def test_two_stop_and_go_on_as_if_they_never_stopped(arguments, tmp_path):
    run_together(2, "-c", RUNS, *arguments, "--hash_log2_rows", "8", "--hash_levels", "2", "--schedule", "published")
    for field in ("mlp", "hash"):
        straight, halved = (
            read_checkpoint(tmp_path / f"{field}_{name}_F00-24" / "000004.tar") for name in ("straight", "halved")
        )
        for name, value in (straight.static | straight.dynamic).items():
            assert torch.equal(value, (halved.static | halved.dynamic)[name]), name
        assert len(halved.rng["others"]) == 1


def test_portions_are_the_whole():
    for count in (1, 2, 3, 7):
        assert sum(Workers(rank, count).portion(1000) for rank in range(count)) == 1000


def test_fewer_rays_than_processes(paper_config, paper_scene):
    with pytest.raises(UsageError, match="N_rand = 2 is shared by 3 processes"):
        Trainer(dataclasses.replace(paper_config, N_rand=2), paper_scene, CPU, Workers(0, 3))


def test_a_gpu_goes_through_nccl():
    assert backend(True) == "cpu:gloo,cuda:nccl"
    assert backend(False) == "gloo"


@pytest.mark.parametrize(("given", "processes", "threads"), [("1", 2, 4), ("1", 16, 1), ("3", 2, 1)])
def test_processes_share_the_cores_of_a_machine(monkeypatch, given, processes, threads):
    """torchrun says 1 thread; who says another number gets it (here: torch's own, left alone)."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    torch.set_num_threads(1)
    share_cores()
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
