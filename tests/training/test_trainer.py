"""Training: exact resume, published checkpoints, files of a run, convergence, interrupts."""

import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import run_nerf
import torch
from nsff.cli import run_script
from nsff.cuda import render_memory_advice
from nsff.data.pixel_sampler import draw_pixels, gather_batch
from nsff.errors import InputError
from nsff.geometry.ndc import ndc_to_world
from nsff.geometry.rays import Camera, project, world_to_camera
from nsff.geometry.space import NdcSpace
from nsff.lock import lock_folder
from nsff.rendering.ray_sampling import DepthSampling, choose_depths
from nsff.rendering.train_render import SampledRays, TwoStepWarp, render_train
from nsff.training.checkpoint import BrokenCheckpoint, list_checkpoints, read_checkpoint
from nsff.training.images import _dynamic_only
from nsff.training.loop import Clock, check_loss, train
from nsff.training.trainer import Diverged, Trainer
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


@pytest.mark.parametrize(
    ("save_minutes", "keep", "steps"),
    [(0.0, 0, [6, 3]), (1e-9, 0, [6, 5, 4, 3, 2, 1]), (1e-9, 3, [6, 5, 4]), (1e9, 1, [6])],
)
def test_checkpoints_by_the_clock_and_only_the_newest(config, paper_scene, save_minutes, keep, steps):
    config = dataclasses.replace(config, save_minutes=save_minutes, keep_checkpoints=keep)
    train(Trainer(config, paper_scene, CPU))
    assert [int(path.stem) for path in list_checkpoints(config.experiment_dir)] == steps


def test_checkpoints_of_earlier_runs_are_kept(config, paper_scene):
    train(Trainer(dataclasses.replace(config, N_iters=3), paper_scene, CPU))
    damaged = config.experiment_dir / "000900.tar"
    damaged.write_bytes(b"no checkpoint")
    train(Trainer(dataclasses.replace(config, save_minutes=1e-9, keep_checkpoints=1), paper_scene, CPU))
    kept = sorted(path.name for path in list_checkpoints(config.experiment_dir))
    assert kept == ["000003.tar", "000006.tar", "000900.tar"]


def test_resumed_run_equals_uninterrupted_run(config, paper_scene):
    uninterrupted = Trainer(config, paper_scene, CPU)
    for _ in range(6):
        uninterrupted.train_step()
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
    for ours, theirs in zip(weights(resumed), weights(uninterrupted), strict=True):
        assert torch.equal(ours, theirs)


def test_seeds_give_different_initial_weights(config, paper_scene):
    first, second = (Trainer(dataclasses.replace(config, seed=seed), paper_scene, CPU) for seed in (0, 1))
    assert not torch.equal(weights(first)[0], weights(second)[0])


def test_train_writes_checkpoints_settings_and_tensorboard_events(config, paper_scene):
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
def test_training_images_match_renders_of_the_losses(paper_fields, paper_config, paper_scene, frame):
    """The induced flow is that of the flow loss."""
    scene, sampling = paper_scene, DepthSampling.of(paper_config).without_jitter()
    camera = Camera(scene.c2w[frame], scene.intrinsics, NdcSpace(scene.intrinsics))
    rgb, depth, flow = _dynamic_only(paper_fields, scene, camera, frame, sampling, 700)
    rays, timeline = camera.rays(), scene.timeline
    sampled = SampledRays.at(rays, choose_depths(paper_fields, rays, timeline.time_of(frame), sampling))
    one_step = TwoStepWarp(backward=True, rendered=False)
    step = render_train(paper_fields, sampled, timeline, frame, n_static=len(rays), two_step=one_step)
    last = frame == 23
    warp, neighbour = (step.prev, frame - 1) if last else (step.next, frame + 1)
    expected = (step.ref.dynamic_only.weights[..., None] * warp.points).sum(-2)
    pixels = project(world_to_camera(ndc_to_world(expected, scene.intrinsics), scene.c2w[neighbour]), scene.intrinsics)
    torch.testing.assert_close(flow.reshape(-1, 2), pixels - camera.pixels(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(rgb.reshape(-1, 3), step.ref.dynamic_only.rgb, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(depth.flatten(), step.ref.dynamic_only.depth, rtol=1e-4, atol=1e-5)


def test_train_finished_run_changes_nothing(config, paper_scene, caplog):
    train(Trainer(config, paper_scene, CPU))
    before = (config.experiment_dir / "000006.tar").read_bytes()
    with caplog.at_level("INFO", logger="nsff"):
        train(Trainer(config, paper_scene, CPU))
    assert "all 6 steps are done; raise --N_iters" in caplog.text
    assert (config.experiment_dir / "000006.tar").read_bytes() == before


def test_no_reload_refuses_folder_with_checkpoints(config, paper_scene):
    fresh_config = dataclasses.replace(config, no_reload=True)
    train(Trainer(fresh_config, paper_scene, CPU))
    with pytest.raises(InputError, match=r"has checkpoints up to 000006\.tar; move them away"):
        train(Trainer(fresh_config, paper_scene, CPU))


def test_list_checkpoints_sorts_by_step_not_by_name(tmp_path):
    for name in ("999999.tar", "1000000.tar", "000010.tar", "notes.tar"):
        (tmp_path / name).touch()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["1000000.tar", "999999.tar", "000010.tar"]


def test_ft_path_starts_from_published_checkpoint(paper_config, paper_scene, golden, tmp_path):
    published = str(golden / "render/002000.tar")
    config = dataclasses.replace(paper_config, basedir=str(tmp_path), ft_path=published)
    trainer = Trainer(config, paper_scene, CPU)
    trainer.resume()
    assert trainer.step == 2000
    assert read_checkpoint(Path(published)).architecture()["netwidth"] == 32
    assert torch.isfinite(trainer.train_step().loss)
    with pytest.raises(InputError, match="does not exist"):
        Trainer(dataclasses.replace(config, ft_path="nowhere.tar"), paper_scene, CPU).resume()


def test_clock_leaves_out_pauses(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = Clock(5.0)
    now[0] += 2.0
    with clock.pause():
        now[0] += 50.0
    now[0] += 1.0
    assert clock.seconds == pytest.approx(5.0 + 2.0 + 1.0)


def test_max_minutes_ends_run_with_checkpoint(config, paper_scene):
    trainer = Trainer(dataclasses.replace(config, N_iters=10**6, max_minutes=0.02), paper_scene, CPU)
    train(trainer)
    assert 1.2 <= trainer.seconds < 20.0
    assert list_checkpoints(config.experiment_dir)[0].stem == f"{trainer.step:06d}"


def test_validation_is_logged_and_not_counted_as_training_time(config, paper_scene):
    trainer = Trainer(dataclasses.replace(config, i_val=3), paper_scene, CPU)

    def validate(fields):
        time.sleep(1.5)
        return {"psnr": 20.0 + trainer.step, "ssim": 0.5}

    train(trainer, validate)
    assert trainer.seconds < 2.4  # of 3.0 in validation alone
    events = EventAccumulator(str(config.experiment_dir)).Reload()
    assert {event.step: event.value for event in events.Scalars("held-out/psnr")} == {3: 23.0, 6: 26.0}
    assert len(events.Scalars("held-out/ssim")) == 2


def test_training_halves_colour_error(config, paper_scene):
    config = dataclasses.replace(config, lrate=2e-3, N_rand=128, netwidth=32, raw_noise_std=0.0)
    trainer = Trainer(config, paper_scene, CPU)
    errors = [float(trainer.train_step().colour_error) for _ in range(60)]
    assert sum(errors[-10:]) < 0.5 * sum(errors[:10])


def test_drawn_hard_rays_follow_uniform_ones_and_lie_in_motion_mask(paper_scene):
    frame = int(paper_scene.motion_masks.flatten(1).sum(1).argmax())
    uniform, hard = draw_pixels(paper_scene, frame, 10, 7, torch.Generator().manual_seed(0))
    batch = gather_batch(paper_scene, frame, torch.cat([uniform, hard]), len(uniform))
    assert (batch.n_uniform, len(batch.rgb)) == (10, 17)
    right, down = batch.uv[10:].long().unbind(-1)
    assert bool(paper_scene.motion_masks[frame, down, right].all())
    assert torch.equal(batch.rgb[10:], paper_scene.images[frame, down, right] / 255.0)
    uniform, hard = draw_pixels(paper_scene, frame, 10**6, 10**6, torch.Generator().manual_seed(0))
    assert sorted(uniform.tolist()) == list(range(36 * 64))
    assert len(hard) == int(paper_scene.motion_masks[frame].sum())


@pytest.mark.parametrize("field", ["mlp", "hash"])
def test_check_loss_names_term_and_frame_of_nan(config, paper_scene, field):
    trainer = Trainer(dataclasses.replace(config, field=field), paper_scene, CPU)
    dynamic = trainer.fields.dynamic
    with torch.no_grad():  # scene flow that is NaN warps points there
        layer = dynamic.motion.layers[-1] if field == "hash" else dynamic.sf_linear
        layer.weight.fill_(float("nan"))
    report = trainer.train_step()
    with pytest.raises(Diverged, match=f"frame {report.frame}: loss term colour"):
        check_loss(report, 1)


def test_check_loss_names_term_above_limit(config, paper_scene):
    report = Trainer(config, paper_scene, CPU).train_step()
    check_loss(report, 1)
    huge = dataclasses.replace(report, terms=dataclasses.replace(report.terms, flow=torch.tensor(1e9)))
    with pytest.raises(Diverged, match=r"step 1, frame .*: loss term flow is 1e\+09"):
        check_loss(huge, 1)


def test_resume_skips_checkpoint_with_flipped_bit(config, paper_scene, caplog):
    """Flip one bit of a weight: torch itself loads such a file without an error."""
    train(Trainer(config, paper_scene, CPU))
    path = config.experiment_dir / "000006.tar"
    content = bytearray(path.read_bytes())
    weights_at = content.index(read_checkpoint(path).static["pts_linears.1.weight"].numpy().tobytes()[:64])
    content[weights_at + 6] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)
    with pytest.raises(BrokenCheckpoint, match=r"record .*data/\d+ does not match its checksum"):
        read_checkpoint(path)
    trainer = Trainer(config, paper_scene, CPU)
    trainer.resume()
    assert trainer.step == 3
    assert "trying the one before it" in caplog.text


def test_checkpoint_of_an_earlier_version_with_checksum_key_still_loads(config, paper_scene):
    config.experiment_dir.mkdir()
    trainer = Trainer(config, paper_scene, CPU)
    path = trainer.save()
    intact = read_checkpoint(path)
    torch.save(torch.load(path, weights_only=True) | {"checksum": "0" * 64}, path)
    assert read_checkpoint(path).fingerprint() == intact.fingerprint()


def test_fingerprint_depends_on_weights_alone(config, paper_scene):
    config.experiment_dir.mkdir()
    trainer = Trainer(config, paper_scene, CPU)
    before = read_checkpoint(trainer.save())
    trainer.step, trainer.seconds = 1, 9.0
    assert read_checkpoint(trainer.save()).fingerprint() == before.fingerprint()
    with torch.no_grad():
        next(trainer.fields.static.parameters()).view(-1)[0] += 1e-3
    trainer.step = 2
    assert read_checkpoint(trainer.save()).fingerprint() != before.fingerprint()


def test_lock_refuses_second_run_and_reports_crashed_one(config, paper_scene, caplog):
    config.experiment_dir.mkdir()
    owner_file = config.experiment_dir / ".running.json"
    with lock_folder(config.experiment_dir):
        owner = json.loads(owner_file.read_text())
        assert owner["pid"] == os.getpid()
        with pytest.raises(InputError, match=rf"is in use by process {owner['pid']} on {owner['host']} .*--expname"):
            train(Trainer(config, paper_scene, CPU))
        assert not (config.experiment_dir / "args.txt").exists()  # those of the owner are not overwritten
    assert not owner_file.exists()
    owner_file.write_text(json.dumps(owner | {"pid": 99}))  # as a killed run leaves it: the lock is free
    with caplog.at_level("INFO", logger="nsff"):
        train(Trainer(config, paper_scene, CPU))
    assert "previous run (process 99 on" in caplog.text
    assert not owner_file.exists()


def test_out_of_memory_error_names_option_to_lower(config, paper_scene, monkeypatch):
    def out_of_memory(_: Trainer) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "train_step", out_of_memory)
    with pytest.raises(InputError, match=r"half the rays .*: --N_rand 16 --num_extra_sample 4$"):
        train(Trainer(config, paper_scene, CPU))
    scaled = dataclasses.replace(config, schedule="scaled", cuda_factor=8)
    with pytest.raises(InputError, match="--cuda_factor 4 needs about half"):
        train(Trainer(scaled, paper_scene, CPU))
    for field, message in (("mlp", "render 131072 points"), ("hash", "render 1048576 points")):
        given, message = dataclasses.replace(config, field=field), f"{message} at once; --netchunk 32768 "
        with pytest.raises(InputError, match=message), render_memory_advice(given):
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_diverged_run_saves_nothing(config, paper_scene):
    trainer = Trainer(dataclasses.replace(config, lrate=1e37, i_img=0), paper_scene, CPU)
    with pytest.raises(Diverged, match="lower --lrate"):
        train(trainer)
    assert list_checkpoints(config.experiment_dir) == []


def test_save_on_full_disk_raises_and_leaves_no_file(config, paper_scene, monkeypatch):
    trainer = Trainer(config, paper_scene, CPU)
    trainer.train_step()
    config.experiment_dir.mkdir()
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left on device"):
        trainer.save()
    assert list(config.experiment_dir.iterdir()) == []


def test_unfinished_checkpoint_of_a_killed_run_is_never_read_and_deleted_by_the_next_run(config, paper_scene):
    config.experiment_dir.mkdir()
    unfinished = config.experiment_dir / ".partial-99-000005.tar"
    unfinished.write_bytes(b"the first part of a checkpoint")
    other = config.experiment_dir / ".partial-99-metrics.json"  # of an evaluation that runs at the same time
    other.write_text("{")
    assert list_checkpoints(config.experiment_dir) == []
    train(Trainer(config, paper_scene, CPU))
    assert not unfinished.exists()
    assert other.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_after_the_step_and_exits_with_zero(golden, tmp_path, monkeypatch, caplog, capsys, number):
    train_step = Trainer.train_step

    def interrupted_step(self):
        report = train_step(self)
        if self.step == 3:
            os.kill(os.getpid(), number)
        return report

    monkeypatch.setattr(Trainer, "train_step", interrupted_step)
    monkeypatch.setattr(sys, "argv", [
        "run_nerf.py", "--config", str(golden / "paper/config.txt"), "--datadir", str(golden / "scene"),
        "--basedir", str(tmp_path), "--N_iters", "1000000", "--netwidth", "16", "--N_samples", "8", "--N_rand", "16",
    ])  # fmt: skip
    handler = signal.getsignal(number)
    with caplog.at_level("INFO", logger="nsff"), pytest.raises(SystemExit) as stopped:
        run_script(run_nerf.main)
    assert stopped.value.code == 0
    assert "to go on, run the same command again" in caplog.text
    assert "stopping after this step" in capsys.readouterr().err
    assert read_checkpoint(list_checkpoints(tmp_path / "golden_F00-24")[0]).step == 3
    assert signal.getsignal(number) is handler


def test_second_interrupt_stops_at_once(config, paper_scene, monkeypatch):
    def interrupted_twice(_: Trainer) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "train_step", interrupted_twice)
    with pytest.raises(KeyboardInterrupt):
        train(Trainer(config, paper_scene, CPU))
    assert list_checkpoints(config.experiment_dir) == []


def test_quiet_training_prints_nothing(golden, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", [
        "run_nerf.py", "--quiet", "--config", str(golden / "paper/config.txt"), "--datadir", str(golden / "scene"),
        "--basedir", str(tmp_path), "--N_iters", "2", "--netwidth", "16", "--N_samples", "8", "--N_rand", "16",
    ])  # fmt: skip
    with pytest.raises(SystemExit):
        run_script(run_nerf.main)
    assert capfd.readouterr() == ("", "")
