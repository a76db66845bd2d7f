"""Process groups: gradient averaging, exact resume, `--gpus`, and the choice of devices."""

import dataclasses
import datetime
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from nsff.config_loader import load_config
from nsff.distributed import (
    LostProcess,
    ProcessGroup,
    divide_cores,
    join_process_group,
    pick_device,
)
from nsff.errors import InputError, UsageError
from nsff.launcher import count_processes, launch_processes
from nsff.training.checkpoint import Checkpoint, list_checkpoints, read_checkpoint, read_newest
from nsff.training.loop import Agreement
from nsff.training.trainer import Trainer

CPU = torch.device("cpu")
FOLDER = Path(__file__).resolve().parents[2] / "nsff_exp"


@pytest.fixture(scope="module")
def arguments(golden, tmp_path_factory) -> list[str]:
    basedir = str(tmp_path_factory.mktemp("logs"))
    return [
        "--config", str(golden / "paper/config.txt"), "--datadir", str(golden / "scene"), "--basedir", basedir,
        "--netwidth", "16", "--N_samples", "8", "--N_rand", "33", "--num_extra_sample", "8", "--i_img", "0",
        "--device", "cpu", "--background_rays", "9",
    ]  # fmt: skip


def start_together(count: int, *command: str) -> list[subprocess.Popen]:
    """Start processes with the environment that torchrun gives them."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    environment |= {"OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *command], cwd=FOLDER, env=environment | {"RANK": str(rank)}, stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]  # fmt: skip


def run_together(count: int, *command: str) -> list[str]:
    """Run processes as torchrun does; returns the standard error of each."""
    runs = start_together(count, *command)
    errors = [run.communicate(timeout=200)[1] for run in runs]
    assert [run.returncode for run in runs] == [0] * count, errors
    return errors


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


LOST_PROCESS = """
import os
import sys
from nsff.cli import run_script
from nsff.distributed import join_process_group
from nsff.errors import InputError
def main(argv):
    with join_process_group() as group:
        group.barrier()
        if not group.is_main:
            os._exit(0)
        for collective in (group.barrier, lambda: group.all_gather("x"), lambda: group.broadcast("x")):
            try:
                collective()
            except InputError as error:
                print(error, file=sys.stderr, flush=True)
        os._exit(0)
run_script(main)
"""


def test_collectives_report_a_lost_process():
    errors = run_together(2, "-c", LOST_PROCESS)[0].splitlines()
    assert sum("the connection to another process of the group failed, see its own" in line for line in errors) == 3
    assert all("gloo" in line or "onnection" in line for line in errors)  # with the words of the library


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.distributed.DistBackendError("NCCL error: remote process exited"), LostProcess),
        (torch.distributed.DistNetworkError("The client socket has timed out"), LostProcess),
        (RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:18324."), LostProcess),
        (RuntimeError("Application timeout caused pair closure"), LostProcess),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), torch.OutOfMemoryError),
        (RuntimeError("The size of tensor a (2) must match the size of tensor b (3)"), RuntimeError),
    ],
)
def test_collectives_blame_another_process_for_lost_connections_only(monkeypatch, error, expected):
    def fail(_: torch.Tensor, group: object) -> None:
        raise error

    monkeypatch.setattr("torch.distributed.all_reduce", fail)
    with pytest.raises(expected) as caught:
        ProcessGroup(0, 2).all_reduce_mean([torch.zeros(1)])
    assert ("another process" in str(caught.value)) is (expected is LostProcess)
    assert str(error) in str(caught.value)  # whatever it was, its own words are shown


SHARED_ERRORS = """
import sys
from nsff.cli import run_script
from nsff.distributed import join_process_group
from nsff.errors import InputError
def main(argv):
    with join_process_group() as group:
        for failing in ({1}, {0, 1}, set()):
            try:
                with group.share_errors():
                    if group.rank in failing:
                        raise InputError(f"cause {group.rank}")
                print("no error", file=sys.stderr)
            except InputError as error:
                print(error, file=sys.stderr)
            assert group.all_gather(("after", failing)) == [("after", failing)] * 2
run_script(main)
"""


def test_error_of_one_process_is_raised_on_all():
    first, second = run_together(2, "-c", SHARED_ERRORS)
    assert first.splitlines() == ["process 1: cause 1", "cause 0", "no error"]
    assert second.splitlines() == ["cause 1", "cause 1", "no error"]


FAILING_EVALUATION = """
import torch
from nsff.cli import run_script
from nsff.config_loader import load_config
from nsff.distributed import join_process_group
from nsff.errors import InputError
from nsff.evaluation import evaluator
from nsff.evaluation.results_table import evaluate_all
def main(argv):
    evaluator.load_lpips = lambda *_: None
    names = ("loading", "scoring", "neither")
    configs = [load_config([*argv, "--expname", name]) for name in names]
    with join_process_group() as group:
        def failing(function, name, config_of):
            def run(*given):
                if not group.is_main and config_of(*given).expname == name:
                    raise InputError("only this process fails")
                return function(*given)
            return run
        evaluator.restore_fields = failing(evaluator.restore_fields, "loading", lambda _, config: config)
        scorer = evaluator.Scorer
        scorer.score_to_files = failing(scorer.score_to_files, "scoring", lambda self, *_: self.config)
        try:
            evaluate_all(configs, torch.device("cpu"), group)
        except InputError as error:
            assert "2 of 3 scenes could not be evaluated in full: loading, scoring" in str(error), error
        else:
            raise AssertionError("no error")
run_script(main)
"""


def test_evaluate_all_goes_on_after_one_process_failed_in_a_scene(golden, tmp_path):
    """A process that gave a scene up alone would meet the others in the barriers of two different scenes."""
    errors = run_together(
        2, "-c", FAILING_EVALUATION, "--config", str(golden / "paper/config.txt"), "--datadir", str(golden / "scene"),
        "--image_ext", "png", "--basedir", str(tmp_path), "--ft_path", str(golden / "render/002000.tar"),
        "--protocol", "nsff-fixed", "--every", "100", "--device", "cpu", "--allow_missing",
    )  # fmt: skip
    assert "loading: process 1: only this process fails" in errors[0]
    assert "scoring: process 1: only this process fails" in errors[0]
    assert errors[1] == ""  # the main process reports for all
    results = json.loads((tmp_path / "results_nsff-fixed.json").read_text())
    assert list(results["scenes"]) == ["neither"]
    assert results["failed"] == ["loading", "scoring"]
    assert len(json.loads((tmp_path / "neither_F00-24/metrics_nsff-fixed.json").read_text())["views"]) == 3


def test_evaluate_all_with_one_broken_picture_in_the_first_of_two_scenes(golden, tmp_path):
    """As typed, two processes; the process that reads the picture is not the main one."""
    shutil.copytree(golden / "scene", tmp_path / "broken")
    picture = sorted((tmp_path / "broken/mv_images").rglob("*.jpg"))[1]
    picture.write_bytes(picture.read_bytes()[:200])
    configs = []
    for name, datadir in (("first", tmp_path / "broken"), ("second", golden / "scene")):
        configs.append(tmp_path / f"{name}.txt")
        text = (golden / "paper/config.txt").read_text()
        kept = [line for line in text.splitlines() if not line.startswith(("datadir", "expname"))]
        configs[-1].write_text("\n".join([*kept, f"datadir = {datadir}", f"expname = {name}"]) + "\n")
    command = [
        sys.executable, "evaluate_all.py", *map(str, configs), "--gpus", "2", "--device", "cpu", "--basedir",
        str(tmp_path), "--ft_path", str(golden / "render/002000.tar"), "--protocol", "nsff-fixed", "--allow_missing",
        "--every", "11", "--lpips_trunk", "None", "--N_samples", "4",
    ]  # fmt: skip
    environment = os.environ | {"TORCH_HOME": str(tmp_path)}
    run = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False, timeout=200, env=environment)
    assert run.returncode == 1, run.stderr
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: first:")]
    assert f"{picture} cannot be read" in line
    assert "Traceback" not in run.stderr
    results = json.loads((tmp_path / "results_nsff-fixed.json").read_text())
    assert (list(results["scenes"]), results["failed"]) == (["second"], ["first"])


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
        ('RuntimeError("a bug")', "RuntimeError: a bug"),
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
    slow = Agreement(config, 2, step=0, seconds=0.0)
    slow.plan_next(1, seconds=30.0)
    assert slow.is_due(2)
    alone = Agreement(config, 1, step=0, seconds=0.0)
    assert all(alone.is_due(step) for step in range(1, 50))


def test_gradients_are_averaged_in_one_collective(monkeypatch):
    reduced = []

    def double(bucket: torch.Tensor, group: object) -> None:
        reduced.append(bucket.clone())
        bucket *= 3.0

    monkeypatch.setattr("torch.distributed.all_reduce", double)
    values = [torch.ones(2, 3), torch.arange(4.0), torch.tensor(5.0)]
    ProcessGroup(0, 2).all_reduce_mean(values)
    assert [value.tolist() for value in reduced] == [[1.0] * 6 + [0.0, 1.0, 2.0, 3.0, 5.0]]
    torch.testing.assert_close(values, [1.5 * torch.ones(2, 3), 1.5 * torch.arange(4.0), torch.tensor(7.5)])


def test_split_and_shard_cover_everything_once():
    for size in (1, 2, 3, 7):
        groups = [ProcessGroup(rank, size) for rank in range(size)]
        assert sum(group.split(1000) for group in groups) == 1000
        assert max(group.split(1000) for group in groups) - min(group.split(1000) for group in groups) <= 1
        assert sorted(item for group in groups for item in group.shard(list(range(10)))) == list(range(10))


def test_trainer_rejects_fewer_rays_than_processes(paper_config, paper_scene):
    with pytest.raises(UsageError, match="N_rand = 2 is split between 3 processes"):
        Trainer(dataclasses.replace(paper_config, N_rand=2), paper_scene, CPU, ProcessGroup(0, 3))


@pytest.mark.parametrize(("device", "gpu_groups"), [("cuda", [("nccl", 600.0)]), ("cpu", [])])
def test_join_process_group_connects_gpus_with_a_short_timeout(monkeypatch, device, gpu_groups):
    calls, store = [], torch.distributed.HashStore()
    store.set("started 0", "")  # the other process
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # leaves the threads of this process alone
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setattr("torch.distributed.rendezvous", lambda _: iter([(store, 1, 2)]))
    monkeypatch.setattr("torch.distributed.init_process_group", lambda name, **more: calls.append((name, more["rank"])))
    monkeypatch.setattr("torch.distributed.all_reduce", lambda _: calls.append("barrier"))
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: calls.append("destroyed"))

    def connect_gpus(backend, timeout):
        calls.append((backend, timeout.total_seconds()))
        return backend

    monkeypatch.setattr("torch.distributed.new_group", connect_gpus)
    with join_process_group(torch.device(device)) as group:
        assert (group.rank, group.size, group.is_main) == (1, 2, False)
        assert group.gpus == ("nccl" if gpu_groups else None)
    assert calls == [("gloo", 1), *gpu_groups, "barrier", "destroyed"]


def test_group_is_not_closed_after_an_error(monkeypatch):
    """Closing it would wait for collectives of the others; and a process that never starts is not waited for."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    store = torch.distributed.HashStore()
    monkeypatch.setattr("torch.distributed.rendezvous", lambda _: iter([(store, 1, 2)]))
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *_, **__: None)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: pytest.fail("closed"))
    monkeypatch.setattr("nsff.distributed.JOIN_TIMEOUT", datetime.timedelta(seconds=0.2))
    with pytest.raises(InputError, match="not all of 2 processes have started"), join_process_group():
        pass
    store.set("started 0", "")
    with pytest.raises(ValueError, match="cause"), join_process_group():
        raise ValueError("cause")


@pytest.mark.parametrize(("omp_threads", "processes", "threads"), [("1", 2, 4), ("1", 16, 1), ("3", 2, 1)])
def test_divide_cores_sets_threads_per_process(monkeypatch, omp_threads, processes, threads):
    """torchrun sets 1 thread; any other number is the user's own choice and is kept."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", omp_threads)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    torch.set_num_threads(1)
    divide_cores()
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)


def test_gpus_option_equals_torchrun(arguments, step_of_two):
    command = [sys.executable, "run_nerf.py", *arguments, "--N_iters", "1", "--gpus", "2", "--expname", "gpus"]
    run = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    checkpoint = read_newest(load_config([*arguments, "--expname", "gpus"]).experiment_dir)
    assert len(checkpoint.rng["others"]) == 1
    for name, value in (checkpoint.static | checkpoint.dynamic).items():
        assert torch.equal(value, (step_of_two.static | step_of_two.dynamic)[name]), name


def test_gpus_option_returns_status_of_failed_process(arguments):
    command = [sys.executable, "run_nerf.py", *arguments, "--gpus", "2", "--N_rand", "1"]
    run = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "N_rand = 1 is split between 2 processes" in run.stderr
    assert "of 2 failed with exit status 2" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("gpus", "n_devices", "on_cpu", "expected"),
    [
        ("all", 4, False, 4), ("2", 4, False, 2), ("3", 0, True, 3), ("all", 1, False, 1), ("1", 0, False, 1),
        ("8", 4, False, "torch sees 4 GPUs on this machine"), ("all", 0, False, "torch sees 0 GPUs"),
        ("2", 0, False, "torch sees 0 GPUs"),
        ("none", 4, False, "choose a number from 1, or all"), ("0", 4, False, "choose a number"),
        ("all", 0, True, "--gpus all: choose a number from 1$"),
    ],
)  # fmt: skip
def test_count_processes_of_gpus_option(gpus, n_devices, on_cpu, expected):
    if isinstance(expected, int):
        assert count_processes(gpus, n_devices, on_cpu) == expected
        return
    with pytest.raises(InputError, match=expected):
        count_processes(gpus, n_devices, on_cpu)


def test_several_gpus_without_gpus_option_are_logged(paper_config, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with caplog.at_level("INFO", logger="nsff"):
        assert launch_processes(paper_config, "run_nerf.py", []) is False
    assert "using one of 4 GPUs; --gpus all uses all" in caplog.text


def test_pick_device_rejects_more_processes_than_gpus(paper_config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="process 2 of this machine has no GPU: torch sees 2"):
        pick_device(paper_config)
