"""Training in several processes: averaged gradients, exact resume, `--gpus`, and the end of all after a failure."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from nsff.config_loader import load_config
from nsff.distributed import ProcessGroup
from nsff.errors import UsageError
from nsff.training.checkpoint import Checkpoint, list_checkpoints, read_checkpoint, read_newest
from nsff.training.loop import Agreement
from nsff.training.trainer import Trainer
from process_groups import FOLDER, run_together, start_together

CPU = torch.device("cpu")


class RecordingGroup(ProcessGroup):
    """A process of a group that records the gradients it would average."""

    def all_reduce_mean(self, values):
        recorded_gradients.append([value.clone() for value in values])


recorded_gradients: list[list[torch.Tensor]] = []


@pytest.fixture(scope="module")
def step_of_two(arguments) -> Checkpoint:
    """One training step of two processes."""
    options = [*arguments, "--N_iters", "1", "--expname", "torchrun"]
    errors = run_together(2, "run_nerf.py", *options)
    assert "saved" in errors[0]
    assert errors[1] == ""  # only the main process reports progress
    return read_checkpoint(list_checkpoints(load_config(options).experiment_dir)[0])


def test_step_of_two_processes_applies_mean_of_their_gradients(arguments, paper_scene, step_of_two):
    config = load_config([*arguments, "--N_iters", "1"])
    recorded_gradients.clear()
    trainers = [Trainer(config, paper_scene, CPU, RecordingGroup(rank, 2)) for rank in (0, 1)]
    frames = [trainer.train_step().frame for trainer in trainers]
    assert frames[0] != frames[1]  # each process draws its own frame
    expected = Trainer(config, paper_scene, CPU)
    for parameter, first, second in zip(expected.fields.parameters(), *recorded_gradients, strict=True):
        parameter.grad = (first + second) / 2
    expected.optimizer.step()
    for field, state in ((expected.fields.static, step_of_two.static), (expected.fields.dynamic, step_of_two.dynamic)):
        for name, value in field.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-7)


def test_gpus_option_equals_torchrun(arguments, step_of_two):
    command = [sys.executable, "run_nerf.py", *arguments, "--N_iters", "1", "--gpus", "2", "--expname", "gpus"]
    run = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    checkpoint = read_newest(load_config([*arguments, "--expname", "gpus"]).experiment_dir)
    assert len(checkpoint.rng["others"]) == 1
    for name, value in (checkpoint.static | checkpoint.dynamic).items():
        assert torch.equal(value, (step_of_two.static | step_of_two.dynamic)[name]), name


RUNS = """
import sys
import torch
from nsff.cli import run_script
from nsff.config_loader import load_config
from nsff.data.scene import load_scene
from nsff.training.loop import train
from nsff.training.trainer import Trainer
from nsff.distributed import join_process_group
def main(argv):
    with join_process_group() as group:
        for field in ("mlp", "hash"):
            for name, steps in (("straight", "4"), ("resumed", "2"), ("resumed", "4")):
                more = ["--field", field, "--expname", f"{field}_{name}", "--N_iters", steps]
                config, device = load_config([*argv, *more]), torch.device("cpu")
                train(Trainer(config, load_scene(config, device), device, group))
run_script(main)
"""


def test_resumed_run_of_two_processes_equals_uninterrupted_run(arguments):
    run_together(2, "-c", RUNS, *arguments, "--hash_log2_rows", "8", "--hash_levels", "2", "--schedule", "published")
    for field in ("mlp", "hash"):
        straight, resumed = (
            read_newest(load_config([*arguments, "--expname", f"{field}_{name}"]).experiment_dir)
            for name in ("straight", "resumed")
        )
        for name, value in (straight.static | straight.dynamic).items():
            assert torch.equal(value, (resumed.static | resumed.dynamic)[name]), name
        assert len(resumed.rng["others"]) == 1


FAILING_TRAINING = """
import torch
from nsff.cli import run_script
from nsff.config_loader import load_config
from nsff.data.scene import load_scene
from nsff.distributed import open_session
from nsff.training.loop import train
from nsff.training.trainer import Trainer
def main(argv):
    config = load_config([*argv, "--N_iters", "100000"])
    with open_session(config) as (device, group):
        trainer = Trainer(config, load_scene(config, device), device, group)
        step = trainer.train_step
        def failing_step():
            if not group.is_main and trainer.step == 3:
                raise ERROR
            return step()
        trainer.train_step = failing_step
        train(trainer)
run_script(main)
"""


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ('torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")', "the GPU has not enough memory"),
        pytest.param('RuntimeError("a bug")', "RuntimeError: a bug", marks=pytest.mark.nightly),
    ],
)
def test_error_of_one_process_in_a_step_ends_both(arguments, error, cause):
    """Without torchrun, which would end the other one."""
    begun = time.monotonic()
    runs = start_together(2, "-c", FAILING_TRAINING.replace("ERROR", error), *arguments, "--expname", "failing")
    errors = [run.communicate(timeout=60)[1] for run in runs]
    assert time.monotonic() - begun < 60.0
    assert [run.returncode for run in runs] == [1, 1]
    assert cause in errors[1]
    assert "the connection to another process of the group failed" in errors[0]


def test_killed_process_ends_all_with_the_reason(arguments):
    command = [sys.executable, "run_nerf.py", *arguments, "--N_iters", "1000000", "--gpus", "2", "--expname", "killed"]
    command += ["--i_weights", "3"]
    folder = load_config([*arguments, "--expname", "killed"]).experiment_dir
    run = subprocess.Popen(command, cwd=FOLDER, stderr=subprocess.PIPE, text=True)
    while not list_checkpoints(folder):
        assert run.poll() is None
        time.sleep(0.2)
    children = [int(pid) for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
    workers = [pid for pid in children if b"run_nerf.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    begun = time.monotonic()
    os.kill(workers[1], signal.SIGKILL)
    said = run.communicate(timeout=60)[1]
    assert time.monotonic() - begun < 60.0
    assert run.returncode == 1
    assert "was killed by SIGKILL; the system may have run out of memory" in said.splitlines()[-1]
    assert not Path(f"/proc/{workers[0]}").exists()


def test_agreements_come_about_once_a_second_and_alike_in_all_processes(paper_config):
    config = dataclasses.replace(paper_config, i_img=70, i_val=0)
    due, agreement = [], Agreement(config, 2, step=0, seconds=0.0)
    for step in range(1, 201):
        if agreement.is_due(step):
            due.append(step)
            agreement.plan_next(step, seconds=step / 40)  # 40 steps per second
    assert due == [1, 41, 70, 110, 140, 180]  # and after images, which the main process alone draws
    assert Agreement(dataclasses.replace(config, viewer_every=3), 2, step=2, seconds=0.0).is_due(3)
    fast = Agreement(dataclasses.replace(config, viewer_every=30), 2, step=0, seconds=0.0)
    fast.plan_next(1, seconds=0.001)
    assert [step for step in range(2, 71) if fast.is_due(step)] == [30, 60, 70]
    slow = Agreement(config, 2, step=0, seconds=0.0)
    slow.plan_next(1, seconds=30.0)
    assert slow.is_due(2)
    alone = Agreement(config, 1, step=0, seconds=0.0)
    assert all(alone.is_due(step) for step in range(1, 50))


def test_trainer_rejects_fewer_rays_than_processes(paper_config, paper_scene):
    with pytest.raises(UsageError, match="N_rand = 2 is split between 3 processes"):
        Trainer(dataclasses.replace(paper_config, N_rand=2), paper_scene, CPU, ProcessGroup(0, 3))
