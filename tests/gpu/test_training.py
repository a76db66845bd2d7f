"""Training on a GPU against the CPU, without waiting, resumed, in bfloat16, with a mapped scene, and by two GPUs."""

import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nsff.config_loader import format_args, load_config
from nsff.data.scene import load_scene
from nsff.distributed import pick_device
from nsff.rendering.frame_render import render_frame
from nsff.rendering.ray_sampling import DepthSampling
from nsff.rendering.space_time import PlaneSampling, render_space_time
from nsff.training.checkpoint import read_checkpoint
from nsff.training.loop import train
from nsff.training.step_graphs import MAX_GRAPHS, WARM_UP_CALLS, StepGraphs
from nsff.training.trainer import Trainer
from toy_fields import SMALL_GRIDS

CPU = torch.device("cpu")
REPOSITORY = Path(__file__).resolve().parents[2]
N_STEPS = 20


@pytest.fixture(scope="module")
def options(small_scene) -> list[str]:
    return [
        "--datadir", str(small_scene), "--end_frame", "12", "--final_height", "36", "--bd_factor", "0.6",
        "--use_viewdirs", "--use_motion_mask", "--chain_sf", "--decay_iteration", "1", "--perturb", "0",
        "--N_rand", "128", "--num_extra_sample", "32", "--expname", "x", "--N_samples", "16", "--netwidth", "32",
        "--hash_samples", "16", "--hash_coarse_samples", "16", "--prior_samples", "0", "--i_img", "0",
        *(f"--{name}={value}" for name, value in SMALL_GRIDS.items()),
    ]  # fmt: skip


@pytest.fixture
def config(options, variant, field, tmp_path):
    schedule = "published" if field == "mlp" else "scaled"
    more = ["--variant", variant, "--field", field, "--schedule", schedule, "--basedir", str(tmp_path)]
    return load_config([*options, *more])


@pytest.fixture
def full_precision():
    """Matrix products in float32: TF32, the default on a GPU, differs by its rounding."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def train_on(device: torch.device, config, start_step: int) -> tuple[list[float], list[torch.Tensor]]:
    """Losses of some steps, and the weights after them, with all random draws replaced by those of the CPU."""
    trainer = Trainer(dataclasses.replace(config, cuda_factor=1), load_scene(config, device), device)
    trainer.step, trainer.graphs = start_step, None  # a graph would replay the draws that it has recorded
    losses = [float(trainer.train_step().loss) for _ in range(N_STEPS)]
    return losses, [parameter.detach().cpu() for parameter in trainer.fields.parameters()]


@pytest.fixture
def draws_of_the_cpu(monkeypatch):
    """Random numbers come from the CPU, the same on every device."""

    def on_cpu(draw):
        def call(*sizes, generator=None, device=None, **more):
            return draw(*sizes, generator=call.generator, device=CPU, **more).to(device)

        call.generator = None
        return call

    for name in ("rand", "randn", "randint", "randperm"):
        monkeypatch.setattr(torch, name, on_cpu(getattr(torch, name)))


@pytest.mark.parametrize("field", ["mlp", "hash"])
@pytest.mark.parametrize("start_step", [0, 40_000])
def test_steps_equal_those_on_the_cpu(gpu, config, start_step, draws_of_the_cpu, full_precision):
    losses, weights = zip(*(train_on(device, config, start_step) for device in (CPU, gpu)), strict=True)
    assert losses[1][:5] == pytest.approx(losses[0][:5], rel=1e-3)
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)  # rounding errors grow
    # Adam divides by the size of gradients, so rows of a hash grid with tiny ones follow their rounding errors.
    for actual, expected in zip(weights[1], weights[0], strict=True) if config.field == "mlp" else ():
        difference = (actual - expected).norm() / expected.norm().clamp(min=1e-3)
        assert float(difference) < 0.02


@pytest.mark.parametrize("field", ["mlp", "hash"])
@pytest.mark.parametrize("start_step", [0, 40_000])
def test_gradients_equal_those_on_the_cpu(gpu, config, start_step, draws_of_the_cpu, full_precision):
    """Of the first step, before rounding errors grow; also those of the tables of hash grids."""
    gradients = []
    for device in (CPU, gpu):
        trainer = Trainer(dataclasses.replace(config, cuda_factor=1), load_scene(config, device), device)
        trainer.step, trainer.graphs = start_step, None
        trainer.train_step()
        gradients.append({name: value.grad for name, value in trainer.fields.named_parameters()})
    on_cpu, on_gpu = gradients
    for name, expected in on_cpu.items():
        assert (expected is None) is (on_gpu[name] is None), name
        if expected is not None:
            largest = float(expected.abs().max())
            assert float((on_gpu[name].cpu() - expected).abs().max()) <= 1e-2 * largest, name


@pytest.mark.parametrize("field", ["mlp", "hash"])
def test_default_precision_trains_alike(gpu, config, draws_of_the_cpu):
    pick_device(config)  # sets TF32
    on_gpu, _ = train_on(gpu, config, 40_000)
    on_cpu, _ = train_on(CPU, config, 40_000)
    assert on_gpu[0] == pytest.approx(on_cpu[0], rel=0.01)
    assert sum(on_gpu) == pytest.approx(sum(on_cpu), rel=0.1)


@pytest.mark.parametrize("field", ["mlp", "hash"])
def test_bfloat16_trains_alike(gpu, config, draws_of_the_cpu, full_precision):
    losses = [train_on(gpu, dataclasses.replace(config, amp=amp), 40_000)[0] for amp in (False, True)]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=0.02)
    assert sum(losses[1]) == pytest.approx(sum(losses[0]), rel=0.1)


@pytest.mark.parametrize("field", ["mlp", "hash"])
@pytest.mark.parametrize(("step", "warm_steps"), [(0, "0"), (0, "100"), (40_000, "0")])
def test_steps_do_not_wait_for_the_gpu(gpu, config, step, warm_steps):
    more = {"background_rays": 64, "w_split": 0.1, "raw_noise_std": 1.0, "perturb": 1.0}
    config = dataclasses.replace(config, warm_steps=warm_steps, prior_samples=4, w_line_of_sight=0.1, **more)
    trainer = Trainer(config, load_scene(config, gpu), gpu)
    trainer.step = step
    for _ in range(40):  # finds the moving pixels of all frames, compiles
        trainer.train_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [trainer.train_step().loss for _ in range(4)]  # raises where it would wait
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(bool(torch.isfinite(loss)) for loss in losses)


@pytest.mark.parametrize("field", ["mlp", "hash"])
@pytest.mark.parametrize(("step", "warm_steps"), [(0, "0"), (0, "1000"), (40_000, "0")])
def test_graphs_train_as_single_launches_do(gpu, config, step, warm_steps):
    """Random draws are the same: the generator goes on within a replay as it does outside of it.

    Each kind of step is captured at its fourth call, so values are compared over many replays, and weights at the end;
    not those of hash grids: rows with tiny gradients follow the rounding errors of atomic additions.
    """
    more = {"background_rays": 64, "w_split": 0.1, "raw_noise_std": 1.0, "perturb": 1.0, "warm_steps": warm_steps}
    config, scene = dataclasses.replace(config, prior_samples=4, N_iters=100_000, **more), load_scene(config, gpu)
    losses, weights = [], []
    for no_graphs in (True, False):
        trainer = Trainer(dataclasses.replace(config, no_cuda_graphs=no_graphs), scene, gpu)
        trainer.step = step
        losses.append([float(trainer.train_step().loss) for _ in range(2 * N_STEPS)])
        weights.append(torch.cat([value.detach().flatten() for value in trainer.fields.parameters()]))
        assert (trainer.graphs is None) is no_graphs
    replays = [kind.calls - WARM_UP_CALLS for kind in trainer.graphs.kinds.values() if kind.graph is not None]
    assert sum(replays) >= N_STEPS // 2
    assert losses[1][:8] == pytest.approx(losses[0][:8], rel=1e-3)  # 1 of them replayed, 5 in the warm start
    assert losses[1][:N_STEPS] == pytest.approx(losses[0][:N_STEPS], rel=0.05)  # rounding errors grow
    assert sum(losses[1]) == pytest.approx(sum(losses[0]), rel=0.05)
    if config.field == "mlp":
        assert float((weights[1] - weights[0]).norm() / weights[0].norm()) < 0.02


def test_graphs_of_more_kinds_than_are_kept_stay_right(gpu):
    """Kinds that are used again after they were dropped, with captures in between that share their memory."""
    generator = torch.Generator(gpu).manual_seed(0)
    graphs, total = StepGraphs(gpu, generator), torch.zeros(1000, device=gpu)
    expected = torch.zeros(1000, dtype=torch.float64)
    n_kinds, value = 3 * MAX_GRAPHS // 2, torch.empty((), device=gpu)

    def step(number: torch.Tensor, kind: int) -> torch.Tensor:
        large = torch.full((kind + 1, 1000), float(kind + 1), device=gpu) * number  # sizes that differ between kinds
        total.add_(large.sum(0))
        return large.sum()

    for turn in range(4):
        for kind in range(n_kinds):
            for call in range(WARM_UP_CALLS + 3):
                number = float(1 + turn + call)
                value.fill_(number)
                out = graphs.run(kind, functools.partial(step, kind=kind), value)
                assert float(out) == pytest.approx(1000.0 * (kind + 1) ** 2 * number)
                expected += (kind + 1) ** 2 * number
    assert len(graphs.kinds) == MAX_GRAPHS
    torch.testing.assert_close(total.cpu().double(), expected, rtol=1e-5, atol=0.0)


# Kinds of steps of a run: the warm start, then two a stage; `paper` has two stages where rays keep to moving pixels.
KINDS = {"paper": 5, "wild": 7}


@pytest.mark.parametrize("field", ["hash"])
def test_whole_run_through_all_stages_learns(gpu, config):
    """Captures the warm start and every stage, and ends well below where the rays began."""
    more = {"prior_samples": 4, "w_line_of_sight": 0.1, "raw_noise_std": 1.0, "perturb": 1.0}
    config = dataclasses.replace(config, N_iters=300, warm_steps="60", **more)
    trainer = Trainer(config, load_scene(config, gpu), gpu)
    errors = [float(trainer.train_step().colour_error) for _ in range(300)]
    assert sum(errors[-20:]) < 0.5 * sum(errors[60:80])
    assert sum(kind.graph is not None for kind in trainer.graphs.kinds.values()) == KINDS[config.variant]


@pytest.mark.parametrize("field", ["mlp", "hash"])
def test_resumed_run_goes_on_as_uninterrupted_one(gpu, config):
    """Not to the bit: atomic additions have no fixed order."""
    config = dataclasses.replace(config, perturb=1.0, N_iters=12, i_weights=100)
    scene = load_scene(config, gpu)
    whole = Trainer(config, scene, gpu)
    expected = [float(whole.train_step().loss) for _ in range(12)]
    first = Trainer(config, scene, gpu)
    for _ in range(6):
        first.train_step()
    config.experiment_dir.mkdir(parents=True)
    first.save()
    resumed = Trainer(config, scene, gpu)
    resumed.resume()
    assert resumed.step == 6
    assert [float(resumed.train_step().loss) for _ in range(6)] == pytest.approx(expected[6:], rel=1e-2)


@pytest.mark.parametrize("field", ["mlp", "hash"])
def test_frames_equal_those_on_the_cpu(gpu, config, full_precision):
    trainer = Trainer(config, load_scene(config, CPU), CPU)
    for _ in range(10):
        trainer.train_step()
    frames = []
    for device in (CPU, gpu):
        fields, scene = trainer.fields.to(device), load_scene(config, device)
        camera, sampling = scene.camera(4), DepthSampling.of(config).without_jitter()
        with torch.no_grad():
            still = render_frame(fields, camera, scene.timeline.time_of(4), sampling, 1000)
            planes = PlaneSampling.of(config)
            between = render_space_time(fields, camera, scene.timeline, 4.5, planes, 20_000)
        frames.append((still.rgb.cpu(), still.depth.cpu(), between.rgb.cpu(), between.depth.cpu()))
    for expected, actual in zip(*frames, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0.0, atol=2e-3)


@pytest.mark.parametrize("field", ["mlp", "hash"])
def test_mapped_scene_trains_as_one_in_memory(gpu, config, draws_of_the_cpu, full_precision):
    losses = [train_on(gpu, dataclasses.replace(config, cache_gb=size), 0)[0] for size in ("auto", "0")]
    assert losses[1][:5] == pytest.approx(losses[0][:5], rel=1e-3)
    # Atomic additions to hash grids have no fixed order, and rounding errors grow.
    assert losses[1] == pytest.approx(losses[0], rel=2e-3 if config.field == "mlp" else 2e-2)


@pytest.mark.parametrize("field", ["hash"])
def test_evaluation_equals_that_on_the_cpu(gpu, config, small_scene):
    train(Trainer(dataclasses.replace(config, N_iters=N_STEPS), load_scene(config, gpu), gpu))
    given = ["--datadir", str(small_scene), "--basedir", config.basedir, "--config"]
    means = []
    for device in ("cpu", "cuda"):
        command = [sys.executable, "evaluation.py", *given, str(config.experiment_dir / "args.txt")]
        command += ["--protocol", "nsff-fixed", "--every", "20", "--device", device]
        subprocess.run(command, cwd=REPOSITORY / "nsff_exp", check=True)
        means.append(json.loads((config.experiment_dir / "metrics_nsff-fixed.json").read_text())["mean"])
    for name in ("psnr", "psnr_dynamic", "psnr_static"):
        assert means[1][name] == pytest.approx(means[0][name], abs=0.02)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("field", ["hash"])
def test_two_gpus_train_together(gpu, config):
    file = Path(config.basedir) / "two.txt"
    file.write_text(format_args(dataclasses.replace(config, N_iters=4)))
    command = [sys.executable, "run_nerf.py", "--config", str(file), "--gpus", "2"]
    subprocess.run(command, cwd=REPOSITORY / "nsff_exp", check=True)
    checkpoint = read_checkpoint(config.experiment_dir / "000004.tar")
    assert len(checkpoint.rng["others"]) == 1  # the random states of the second process
    weights = [*checkpoint.static.values(), *checkpoint.dynamic.values()]
    assert all(bool(torch.isfinite(value).all()) for value in weights)
