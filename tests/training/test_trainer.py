"""Training: exact resume, published checkpoints, what is written, and that it learns."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from nsff.cuda import memory_advice
from nsff.data.pixel_sampler import draw_batch
from nsff.errors import InputError
from nsff.geometry.rays import Camera, project, world_to_camera
from nsff.geometry.space import ndc_to_world
from nsff.lock import holding
from nsff.rendering.ray_sampling import DepthSampling, choose_depths
from nsff.rendering.train_render import render_train
from nsff.training.checkpoint import BrokenCheckpoint, list_checkpoints, read_checkpoint
from nsff.training.images import _dynamic_only
from nsff.training.trainer import Diverged, Trainer, check_loss, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

CPU = torch.device("cpu")


@pytest.fixture
def config(paper_config, tmp_path):
    return dataclasses.replace(
        paper_config, basedir=str(tmp_path), netwidth=16, N_samples=8, N_rand=32, num_extra_sample=8, perturb=1.0,
        raw_noise_std=1.0, N_iters=6, i_weights=3, i_print=2, i_img=4,
    )  # fmt: skip


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.fields.parameters()]


def test_stop_and_go_on_equals_never_stopped(config, paper_scene):
    straight = Trainer(config, paper_scene, CPU)
    for _ in range(6):
        straight.train_step()
    halfway = Trainer(config, paper_scene, CPU)
    for _ in range(3):
        halfway.train_step()
    config.experiment_dir.mkdir()
    halfway.save()
    resumed = Trainer(config, paper_scene, CPU)
    resumed.resume()
    assert resumed.step == 3
    for _ in range(3):
        resumed.train_step()
    for ours, theirs in zip(weights(resumed), weights(straight), strict=True):
        assert torch.equal(ours, theirs)


def test_another_seed_is_another_run(config, paper_scene):
    first, second = (Trainer(dataclasses.replace(config, seed=seed), paper_scene, CPU) for seed in (0, 1))
    assert not torch.equal(weights(first)[0], weights(second)[0])


def test_what_a_run_leaves_behind(config, paper_scene):
    train(Trainer(config, paper_scene, CPU))
    folder = config.experiment_dir
    assert [path.name for path in list_checkpoints(folder)] == ["000006.tar", "000003.tar"]
    assert "N_rand = 32\n" in (folder / "args.txt").read_text()
    assert (folder / "config.txt").read_text() == Path(config.config).read_text()
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("train/psnr")] == [2, 4, 6]
    assert {"loss/total", "loss/colour", "loss/flow", "train/learning_rate"} <= set(events.Tags()["scalars"])
    assert set(events.Tags()["images"]) == {
        "render/rgb", "render/depth", "render/dynamic_weight", "render/static_rgb", "render/dynamic_rgb",
        "render/dynamic_depth", "render/flow", "truth/rgb", "given/disparity", "given/flow",
    }  # fmt: skip
    for tag in events.Tags()["images"]:
        assert [(event.step, event.width, event.height) for event in events.Images(tag)] == [(4, 64, 36)], tag
    content = torch.load(folder / "000006.tar", weights_only=True)
    assert content["variant"] == config.variant
    assert content["architecture"]["netwidth"] == 16
    assert "module.pts_linears.0.weight" in content["network_fn_state_dict"]


@pytest.mark.parametrize("frame", [5, 23])
def test_images_of_training_are_those_of_the_losses(paper_fields, paper_config, paper_scene, frame):
    """The induced flow is the one of the flow loss, and the given one has its colours."""
    scene, sampling = paper_scene, DepthSampling.of(paper_config).without_jitter()
    camera = Camera(scene.c2w[frame], scene.intrinsics, scene.intrinsics)
    rgb, depth, flow = _dynamic_only(paper_fields, scene, camera, frame, sampling, 700)
    rays, timeline = camera.rays(), scene.timeline
    z = choose_depths(paper_fields, rays, timeline.time_of(frame), sampling)
    step = render_train(
        paper_fields, rays, z, timeline, frame, n_static=len(rays), two_step=False, two_step_backward=True
    )
    last = frame == 23
    warp, neighbour = (step.prev, frame - 1) if last else (step.next, frame + 1)
    expected = (step.ref.dynamic_only.weights[..., None] * warp.points_ndc).sum(-2)
    pixels = project(world_to_camera(ndc_to_world(expected, scene.intrinsics), scene.c2w[neighbour]), scene.intrinsics)
    torch.testing.assert_close(flow.reshape(-1, 2), pixels - camera.pixels(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(rgb.reshape(-1, 3), step.ref.dynamic_only.rgb, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(depth.flatten(), step.ref.dynamic_only.depth, rtol=1e-4, atol=1e-5)


def test_finished_run_is_left_alone(config, paper_scene, caplog):
    train(Trainer(config, paper_scene, CPU))
    before = (config.experiment_dir / "000006.tar").read_bytes()
    with caplog.at_level("INFO", logger="nsff"):
        train(Trainer(config, paper_scene, CPU))
    assert "all 6 steps are done; raise --N_iters" in caplog.text
    assert (config.experiment_dir / "000006.tar").read_bytes() == before


def test_starting_afresh_never_mixes_with_an_older_run(config, paper_scene):
    afresh = dataclasses.replace(config, no_reload=True)
    train(Trainer(afresh, paper_scene, CPU))
    with pytest.raises(InputError, match=r"has checkpoints up to 000006\.tar; move them away"):
        train(Trainer(afresh, paper_scene, CPU))


def test_newest_is_the_largest_step_not_the_last_name(tmp_path):
    for name in ("999999.tar", "1000000.tar", "000010.tar", "notes.tar"):
        (tmp_path / name).touch()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["1000000.tar", "999999.tar", "000010.tar"]


def test_published_checkpoint_is_a_start(paper_config, paper_scene, golden, tmp_path):
    published = str(golden / "render/002000.tar")
    config = dataclasses.replace(paper_config, basedir=str(tmp_path), ft_path=published)
    trainer = Trainer(config, paper_scene, CPU)
    trainer.resume()
    assert trainer.step == 2000
    assert read_checkpoint(Path(published)).architecture()["netwidth"] == 32
    assert torch.isfinite(trainer.train_step().loss)
    with pytest.raises(InputError, match="does not exist"):
        Trainer(dataclasses.replace(config, ft_path="nowhere.tar"), paper_scene, CPU).resume()


def test_time_limit(config, paper_scene):
    trainer = Trainer(dataclasses.replace(config, N_iters=10**6, max_minutes=0.05), paper_scene, CPU)
    begun = time.monotonic()
    train(trainer)
    assert time.monotonic() - begun < 20.0
    assert list_checkpoints(config.experiment_dir)[0].stem == f"{trainer.step:06d}"


def test_held_out_views_while_training(config, paper_scene, monkeypatch):
    """Scored every third step, into TensorBoard; that time is no training."""
    scored = []

    def slow(self, view):
        scored.append(view.name)
        time.sleep(0.3)
        return {"name": view.name, "psnr": 20.0 + len(scored), "lpips": None}, None

    monkeypatch.setattr("nsff.evaluation.evaluator.Scorer.score", slow)
    trainer = Trainer(dataclasses.replace(config, i_val=3), paper_scene, CPU)
    train(trainer)
    assert len(scored) == 8
    assert trainer.seconds < 2.4
    events = EventAccumulator(str(config.experiment_dir)).Reload()
    found = {event.step: event.value for event in events.Scalars("held-out/psnr")}
    assert found == {3: pytest.approx(22.5), 6: pytest.approx(26.5)}


def test_it_learns(config, paper_scene):
    config = dataclasses.replace(config, lrate=2e-3, N_rand=128, netwidth=32, raw_noise_std=0.0)
    trainer = Trainer(config, paper_scene, CPU)
    errors = [float(trainer.train_step().colour_error) for _ in range(60)]
    assert sum(errors[-10:]) < 0.5 * sum(errors[:10])


def test_hard_rays_come_from_the_mask_and_behind_the_uniform_ones(paper_scene):
    frame = int(paper_scene.motion_masks.flatten(1).sum(1).argmax())
    batch = draw_batch(paper_scene, frame, 10, 7, torch.Generator().manual_seed(0))
    assert (batch.n_uniform, len(batch.rgb)) == (10, 17)
    right, down = batch.uv[10:].long().unbind(-1)
    assert bool(paper_scene.motion_masks[frame, down, right].all())
    assert torch.equal(batch.rgb[10:], paper_scene.images[frame, down, right])
    everything = draw_batch(paper_scene, frame, 10**6, 10**6, torch.Generator().manual_seed(0))
    assert everything.n_uniform == 36 * 64
    assert len(everything.rgb) == 36 * 64 + int(paper_scene.motion_masks[frame].sum())


def test_loss_that_is_no_number_is_named(config, paper_scene):
    trainer = Trainer(config, paper_scene, CPU)
    with torch.no_grad():
        trainer.fields.dynamic.rgb_linear.weight.fill_(float("nan"))
    report = trainer.train_step()
    with pytest.raises(Diverged, match=f"frame {report.frame}: loss term colour"):
        check_loss(report, 1)


def test_a_loss_beyond_all_bounds_is_named(config, paper_scene):
    report = Trainer(config, paper_scene, CPU).train_step()
    check_loss(report, 1)
    huge = dataclasses.replace(report, terms=dataclasses.replace(report.terms, flow=torch.tensor(1e9)))
    with pytest.raises(Diverged, match=r"step 1, frame .*: loss term flow is 1e\+09"):
        check_loss(huge, 1)


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_taken(config, paper_scene, caplog):
    """A bit that flipped among the weights: the file is as long as ever, and can be read."""
    train(Trainer(config, paper_scene, CPU))
    path = config.experiment_dir / "000006.tar"
    content = bytearray(path.read_bytes())
    weights_at = content.index(read_checkpoint(path).static["pts_linears.1.weight"].numpy().tobytes()[:64])
    content[weights_at + 6] ^= 1
    path.write_bytes(content)
    with pytest.raises(BrokenCheckpoint, match="checksum"):
        read_checkpoint(path)
    trainer = Trainer(config, paper_scene, CPU)
    trainer.resume()
    assert trainer.step == 3
    assert "trying the one before it" in caplog.text


def test_one_run_at_a_time_in_a_folder(config, paper_scene, caplog):
    config.experiment_dir.mkdir()
    note = config.experiment_dir / ".running.json"
    with holding(config.experiment_dir):
        held = json.loads(note.read_text())
        assert held["pid"] == os.getpid()
        with pytest.raises(InputError, match=rf"is in use by process {held['pid']} on {held['host']} .*--expname"):
            train(Trainer(config, paper_scene, CPU))
        assert not (config.experiment_dir / "args.txt").exists()  # the settings of the one that runs are left alone
    assert not note.exists()
    note.write_text(json.dumps(held | {"pid": 99}))  # as a run leaves it that was killed: its lock is free
    with caplog.at_level("INFO", logger="nsff"):
        train(Trainer(config, paper_scene, CPU))
    assert "process 99 on" in caplog.text
    assert not note.exists()


def test_memory_of_a_gpu_that_is_too_small(config, paper_scene, monkeypatch):
    """Which option to lower, and to what."""

    def full(_: Trainer) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "train_step", full)
    with pytest.raises(InputError, match=r"half the rays .*: --N_rand 16 --num_extra_sample 4$"):
        train(Trainer(config, paper_scene, CPU))
    with pytest.raises(InputError, match="render 131072 points at once; --netchunk 32768 "), memory_advice(config):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_broken_weights_are_never_saved(config, paper_scene):
    trainer = Trainer(dataclasses.replace(config, lrate=1e37, i_img=0), paper_scene, CPU)
    with pytest.raises(Diverged, match="lower --lrate"):
        train(trainer)
    assert list_checkpoints(config.experiment_dir) == []


def test_full_disk_is_one_clear_error(config, paper_scene, monkeypatch):
    trainer = Trainer(config, paper_scene, CPU)
    trainer.train_step()
    config.experiment_dir.mkdir()
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left on device"):
        trainer.save()
    assert list(config.experiment_dir.iterdir()) == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_and_says_how_to_go_on(golden, tmp_path, sent):
    command = [
        sys.executable, "run_nerf.py", "--config", str(golden / "paper/config.txt"),
        "--datadir", str(golden / "scene"), "--basedir", str(tmp_path), "--N_iters", "1000000",
    ]  # fmt: skip
    folder = Path(__file__).resolve().parents[2] / "nsff_exp"
    process = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    events = tmp_path / "golden_F00-24"
    for _ in range(600):
        if list(events.glob("events*")):
            break
        time.sleep(0.1)
    time.sleep(1.0)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "to go on, run the same command again" in errors
    newest = list_checkpoints(events)[0]
    assert json.dumps(read_checkpoint(newest).step) == newest.stem.lstrip("0")
