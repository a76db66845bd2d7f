"""Several processes train together: against the same done by hand in one, and stopped and gone on."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nsff.config_loader import load_config
from nsff.distributed import ProcessGroup, backend, count_processes, divide_cores, launch_processes, pick_device
from nsff.errors import InputError, UsageError
from nsff.training.checkpoint import list_checkpoints, read_checkpoint
from nsff.training.trainer import Trainer

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


class ByHand(ProcessGroup):
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
from nsff.config_loader import load_config
from nsff.data.scene import load_scene
from nsff.training.trainer import Trainer, train
from nsff.distributed import join_process_group
with join_process_group() as group:
    for field in ("mlp", "hash"):
        for name, steps in (("straight", "4"), ("halved", "2"), ("halved", "4")):
            more = ["--field", field, "--expname", f"{field}_{name}", "--N_iters", steps]
            config, device = load_config([*sys.argv[1:], *more]), torch.device("cpu")
            train(Trainer(config, load_scene(config, device), device, group))
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
        assert sum(ProcessGroup(rank, count).portion(1000) for rank in range(count)) == 1000


def test_fewer_rays_than_processes(paper_config, paper_scene):
    with pytest.raises(UsageError, match="N_rand = 2 is shared by 3 processes"):
        Trainer(dataclasses.replace(paper_config, N_rand=2), paper_scene, CPU, ProcessGroup(0, 3))


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
    divide_cores()
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)


def test_gpus_starts_the_processes_itself(arguments, tmp_path):
    """The same weights as of processes that torchrun's environment names; and the first that fails gives the status."""
    command = [sys.executable, "run_nerf.py", *arguments, "--N_iters", "1", "--gpus", "2"]
    run = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    run_together(2, "run_nerf.py", *arguments, "--N_iters", "1", "--expname", "by_hand")
    first, second = (read_checkpoint(tmp_path / f"{name}_F00-24" / "000001.tar") for name in ("golden", "by_hand"))
    assert len(first.rng["others"]) == 1
    for name, value in (first.static | first.dynamic).items():
        assert torch.equal(value, (second.static | second.dynamic)[name]), name
    run = subprocess.run([*command, "--N_rand", "1"], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "N_rand = 1 is shared by 2 processes" in run.stderr
    assert "of 2 failed with status 2" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("gpus", "n_devices", "on_cpu", "expected"),
    [
        ("all", 4, False, 4), ("2", 4, False, 2), ("3", 0, True, 3), ("all", 1, False, 1), ("1", 0, False, 1),
        ("8", 4, False, "torch sees 4 GPUs here"), ("all", 0, False, "torch sees 0 GPUs"),
        ("2", 0, False, "torch sees 0 GPUs"),
        ("none", 4, False, "not a number from 1 on, nor all"), ("0", 4, False, "not a number"),
        ("all", 0, True, "--gpus all is not"),
    ],
)  # fmt: skip
def test_how_many_processes_gpus_means(gpus, n_devices, on_cpu, expected):
    if isinstance(expected, int):
        assert count_processes(gpus, n_devices, on_cpu) == expected
        return
    with pytest.raises(InputError, match=expected):
        count_processes(gpus, n_devices, on_cpu)


def test_several_gpus_without_gpus_are_said(paper_config, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with caplog.at_level("INFO", logger="nsff"):
        assert launch_processes(paper_config, "run_nerf.py", []) is False
    assert "4 GPUs are here, one is used: --gpus all" in caplog.text


def test_more_processes_than_gpus_are_refused(paper_config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="process 2 of this machine has no GPU: there are 2"):
        pick_device(paper_config)
