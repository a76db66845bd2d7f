"""CUDA graphs of training steps, replayed on the CPU: the first function of a key, on copies of the inputs."""

import dataclasses

import pytest
import torch
from nsff.config_loader import load_config
from nsff.data.scene import load_scene
from nsff.training.trainer import Trainer
from toy_fields import SMALL_GRIDS

CPU = torch.device("cpu")


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
