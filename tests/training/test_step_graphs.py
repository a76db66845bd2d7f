"""CUDA graphs of training steps, replayed on the CPU: the first function of a key, on copies of the inputs."""

import dataclasses

import pytest
import torch
from nsff.config_loader import load_config
from nsff.data.pixel_sampler import moving_pixels
from nsff.data.scene import load_scene
from nsff.training.trainer import Trainer
from torch.utils._python_dispatch import TorchDispatchMode
from toy_fields import SMALL_GRIDS

CPU = torch.device("cpu")


class NoWaits(TorchDispatchMode):
    """Refuses every operator whose result the host reads, or whose size depends on values: on CUDA it would wait."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "repeat_interleave")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if name.startswith(self.WAITING):
            raise AssertionError(f"{name} would wait for the device")
        if name.startswith("index") and any(i.dtype == torch.bool for i in args[1] if isinstance(i, torch.Tensor)):
            raise AssertionError("an index by a mask would wait for the device")
        return func(*args, **(kwargs or {}))


class OnTheHost(list):
    """Numbers that were drawn on the CPU in any case."""

    def __int__(self) -> int:
        return self[0]

    def tolist(self) -> list[int]:
        return self


class ReplayOnCpu:
    """Behave as StepGraphs does: what a function depends on beside its inputs stays as it was at the first call."""

    def __init__(self):
        self.kinds, self.calls = {}, 0

    def run(self, key, step, *inputs):
        self.calls += 1
        if key not in self.kinds:
            self.kinds[key] = step, tuple(value.clone() for value in inputs)
        recorded, buffers = self.kinds[key]
        for buffer, value in zip(buffers, inputs, strict=True):
            buffer.copy_(value)
        return recorded(*buffers)


@pytest.fixture
def config(small_scene, variant, field, tmp_path):
    given = [
        "--datadir", str(small_scene), "--end_frame", "12", "--final_height", "36", "--use_viewdirs", "--chain_sf",
        "--use_motion_mask", "--N_rand", "32", "--num_extra_sample", "16", "--N_samples", "8", "--netwidth", "16",
        "--hash_samples", "9", "--hash_coarse_samples", "8", "--background_rays", "16", "--raw_noise_std", "1",
        "--w_split", "0.1", "--decay_iteration", "1", "--expname", "x", "--basedir", str(tmp_path),
        *(f"--{name}={value}" for name, value in SMALL_GRIDS.items()),
    ]  # fmt: skip
    schedule = "published" if field == "mlp" else "scaled"
    config = load_config([*given, "--field", field, "--variant", variant, "--schedule", schedule])
    return dataclasses.replace(config, warm_steps="12", N_iters=40)


@pytest.mark.parametrize("field", ["mlp", "hash"])
def test_steps_depend_on_nothing_but_their_key_and_inputs(config, field):
    """From the warm start through all stages, both ends of the sequence included."""
    scene = load_scene(config, CPU)
    usual, replayed = Trainer(config, scene, CPU), Trainer(config, scene, CPU)
    replayed.graphs = ReplayOnCpu()
    frames = []
    for step in range(40):
        for trainer in (usual, replayed):
            trainer.step = 50_000 * step // 40 if field == "mlp" and step >= 12 else step
        expected, actual = usual.train_step(), replayed.train_step()
        frames.append(actual.frame)
        assert expected.frame == actual.frame
        torch.testing.assert_close(actual.loss, expected.loss, rtol=1e-4, atol=1e-6)
    assert {0, 11} < set(frames)
    assert replayed.graphs.calls == 40
    assert len(replayed.graphs.kinds) < 20


@pytest.mark.parametrize("field", ["mlp", "hash"])
@pytest.mark.parametrize("step", [0, 12, 39])
def test_drawing_forward_losses_and_backward_never_wait(config, field, step, monkeypatch):
    """The warm start, the first stage and the last one, with every extension turned on."""
    config = dataclasses.replace(config, w_distortion=0.1, prior_samples=3, w_line_of_sight=0.1)
    scene = load_scene(config, CPU)
    trainer, draw, frames = Trainer(config, scene, CPU), torch.randint, []
    for frame in range(scene.timeline.n_frames):
        moving_pixels(scene, frame)  # found once per run

    def draw_frames(below, size, generator, **more):
        if generator is not trainer.frame_rng:
            return draw(below, size, generator=generator, **more)
        frames.append(OnTheHost(range(size[0])))
        return frames[-1]

    monkeypatch.setattr(torch, "randint", draw_frames)
    monkeypatch.setattr(trainer.optimizer, "step", lambda: None)  # its counter is read on the CPU
    trainer.step = 50_000 * step // 40 if field == "mlp" and step >= 12 else step
    with NoWaits():
        report = trainer.train_step()
    assert len(frames) == 1
    assert bool(torch.isfinite(report.loss))
    assert all(parameter.grad is not None for parameter in trainer.fields.dynamic.parameters())


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: float(x.sum()),
        lambda x: x[x > 0.5],
        lambda x: bool((x > 0.5).any()),
        lambda x: (x > 0.5).nonzero(),
        lambda x: x.unique(),
    ],
)
def test_waits_are_refused(waiting):
    with NoWaits(), pytest.raises(AssertionError, match="would wait"):
        waiting(torch.rand(5))
