"""Report on a machine: tests of its GPU, cost of steps and frames, and quality against time, as JSON and Markdown."""

import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nsff import cuda
from nsff.config import Config
from nsff.config_loader import load_config
from nsff.data.scene import Scene, load_scene
from nsff.evaluation.cost import peak_memory_bytes, timed
from nsff.evaluation.profiling import TIMED_STEPS, WARM_UP_STEPS, CurvePoint, measure_curve
from nsff.evaluation.tables import number
from nsff.fields import build_fields
from nsff.io import write_text
from nsff.rendering.frame_render import render_frame
from nsff.rendering.ray_sampling import DepthSampling
from nsff.rendering.space_time import PlaneSampling, render_space_time
from nsff.training.schedules import plan_step
from nsff.training.trainer import Trainer
from nsff.training.warm_start import WARM_PIXELS

REPOSITORY = Path(__file__).resolve().parents[3]
GPU_TEST_OPTIONS = ["-n4", "--dist", "worksteal", "-rf"]  # the CPU's part of each takes longest
PROFILED_STEPS = 10  # on CUDA
PUBLISHED_STEPS = 300_000  # of a published training run
PUBLISHED = [
    "--field", "mlp", "--schedule", "published", "--netwidth", "256", "--N_samples", "128", "--decay_iteration", "50",
    "--background_rays", "0", "--w_split", "0", "--N_iters", str(PUBLISHED_STEPS),
]  # fmt: skip
HASH = ["--field", "hash", "--schedule", "scaled", "--N_iters", "1000000", "--max_minutes", "0"]
RAYS = ["--use_motion_mask", "--N_rand", "1024", "--num_extra_sample", "512", "--cuda_factor", "1"]
# Name, options and number of the first step: a training step costs more in later stages.
CASES: tuple[tuple[str, list[str], int], ...] = (
    ("published networks, 1024 + 512 rays, first stage", [*PUBLISHED, *RAYS], 0),
    ("published networks, 1024 rays, later stages", [*PUBLISHED, *RAYS], 200_000),
    ("the same in bfloat16 (`--amp`)", [*PUBLISHED, *RAYS, "--amp"], 200_000),
    ("hash grids, 1024 + 512 rays, last stage", [*HASH, *RAYS, "--warm_steps", "0"], 900_000),
    ("hash grids, default rays, warm start", [*HASH, "--warm_steps", "100000"], 0),
    ("hash grids, default rays, last stage", [*HASH, "--warm_steps", "0"], 900_000),
)
SCENE_OPTIONS = ["--end_frame", "24", "--final_height", "144", "--protocol", "nsff-fixed", "--every"]


@dataclasses.dataclass(frozen=True)
class StepFigures:
    """Cost of one kind of training step.

    Attributes:
        name: kind of step.
        ms: milliseconds per step, mean on CUDA, median on a CPU.
        rays: rays or points per step; those of the background not counted.
        busy: fraction of the time in which kernels run; None on a CPU.
        peak_memory_gb: of the tensors of the step on CUDA, of the whole process so far on a CPU.
    """

    name: str
    ms: float
    rays: int
    busy: float | None
    peak_memory_gb: float


@dataclasses.dataclass(frozen=True)
class DeviceReport:
    """Figures of a machine; its fields are the keys of the JSON file.

    Attributes:
        machine: device, its kernels, and versions.
        tests: counts of pytest on `tests/gpu`, and the names of those that failed.
        steps: cost of training steps.
        frame: size of a frame.
        frame_seconds: seconds to render a frame, by mode.
        curves: PSNR against time by scene; without the given scene unless it has held-out views.
    """

    machine: dict[str, str]
    tests: str
    steps: list[StepFigures]
    frame: str
    frame_seconds: dict[str, float]
    curves: dict[str, list[CurvePoint]]


def write_report(argv: list[str], config: Config, device: torch.device) -> str:
    """Measure everything, and write `config.report` and a Markdown file beside it.

    Args:
        argv: the command line; names the scene to measure on.
        config: its options.
        device: to measure.

    Returns:
        The Markdown.
    """
    scene = load_scene(config, device)
    tests = run_gpu_tests(device)
    steps = [measure_step(name, load_config([*argv, *more]), scene, device, step) for name, more, step in CASES]
    curves = {"built-in scene": _built_in_curve(argv, device)}
    if config.heldout or (Path(config.datadir) / "mv_images").is_dir():
        limited = load_config([*argv, *HASH])
        curves[config.expname] = measure_curve(
            dataclasses.replace(limited, bench_minutes=_minutes(config)), scene, device
        )
    size = scene.intrinsics
    report = DeviceReport(
        describe_machine(device), tests, steps, f"{size.width}x{size.height}",
        measure_modes(load_config([*argv, *HASH]), scene, device), curves,
    )  # fmt: skip
    path = Path(config.report or "")
    write_text(path, json.dumps(dataclasses.asdict(report), indent=1) + "\n")
    text = to_markdown(report)
    write_text(path.with_suffix(".md"), text)
    return text


def _minutes(config: Config) -> float:
    return config.bench_minutes or 1.0


def describe_machine(device: torch.device) -> dict[str, str]:
    """Device, kernels and versions."""
    machine = {"device": cuda.describe_device(device), "processor": platform.processor() or platform.machine()}
    machine |= {"python": platform.python_version(), "torch": torch.__version__}
    return machine | ({"CUDA": str(torch.version.cuda)} if device.type == "cuda" else {})


def run_gpu_tests(device: torch.device) -> str:
    """Run `tests/gpu` in processes of their own; which of them failed and how many passed, or why they did not run."""
    folder = REPOSITORY / "tests" / "gpu"
    if device.type != "cuda" or not folder.is_dir():
        return "not run: " + ("no tests/gpu here" if device.type == "cuda" else "no GPU")
    command = [sys.executable, "-m", "pytest", "-q", *GPU_TEST_OPTIONS, str(folder)]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    lines = run.stdout.splitlines()
    counts = [line.strip("= ") for line in lines if " passed" in line or " failed" in line]
    failed = [line.split(" - ")[0].split("::")[-1] for line in lines if line.startswith("FAILED ")]
    return "; ".join(counts[-1:] + failed) or f"pytest ended with exit status {run.returncode}"


def measure_step(name: str, config: Config, scene: Scene, device: torch.device, first_step: int) -> StepFigures:
    """Time training steps from `first_step` on; on CUDA between two events, and once more under the profiler."""
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    trainer = Trainer(config, scene, device)
    trainer.step = first_step
    n_rays = _rays_of(trainer)
    for _ in range(WARM_UP_STEPS if on_cuda else 1):
        trainer.train_step()
    if on_cuda:
        ms, busy = _time_by_events(trainer.train_step, TIMED_STEPS), _busy(trainer.train_step)
    else:
        seconds = [timed(trainer.train_step, device)[0] for _ in range(max(1, config.bench_steps))]
        ms, busy = 1e3 * statistics.median(seconds), None
    return StepFigures(name, ms, n_rays, busy, peak_memory_bytes(device) / 1e9)


def _rays_of(trainer: Trainer) -> int:
    """Rays or points of the next step."""
    config, factor = trainer.config, trainer.config.step_factor(trainer.device.type)
    plan = plan_step(config, trainer.step, trainer.scene.timeline.n_frames, trainer.progress, trainer.warm_share)
    return factor * (WARM_PIXELS if plan.warm_start else config.N_rand + plan.n_hard)


def _time_by_events(step: Callable[[], object], n_steps: int) -> float:
    """Milliseconds per step on the GPU."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(n_steps):
        step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / n_steps


def _busy(step: Callable[[], object]) -> float:
    """Fraction of the time of some steps in which kernels run."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        wall = _time_by_events(step, PROFILED_STEPS) * PROFILED_STEPS
    return sum(event.self_device_time_total for event in profiler.key_averages()) / 1e3 / wall


def measure_modes(config: Config, scene: Scene, device: torch.device) -> dict[str, float]:
    """Seconds to render a frame of bullet time and of both kinds of slow motion, with untrained fields."""
    fields, timeline, middle = build_fields(config).to(device), scene.timeline, len(scene.images) // 2
    fixed, moved = scene.camera(middle), scene.camera(0)
    sampling, planes, kind = DepthSampling.of(config), PlaneSampling.of(config), device.type

    def at_frame() -> object:
        return render_frame(fields, moved, timeline.time_of(middle), sampling, config.rays_per_chunk(kind))

    def between(camera: Any) -> object:
        return render_space_time(fields, camera, timeline, middle - 0.5, planes, config.points_per_chunk(kind))

    modes = {
        "bullet time": at_frame,
        "slow motion, fixed camera": lambda: between(fixed),
        "slow motion, moving camera": lambda: between(moved),
    }
    seconds = {}
    for name, render in modes.items():
        if device.type == "cuda":
            render()  # warm-up
        seconds[name] = timed(render, device)[0]
    return seconds


def _built_in_curve(argv: list[str], device: torch.device) -> list[CurvePoint]:
    """Train on the built-in scene and score its held-out views along the way."""
    with tempfile.TemporaryDirectory() as folder:
        script = REPOSITORY / "nsff_scripts" / "make_demo_scene.py"
        subprocess.run(
            [sys.executable, str(script), "--size", "256x144", "--data_path", folder, "--overwrite"], check=True
        )
        demo = ["--config", str(REPOSITORY / "configs" / "config_demo.txt"), "--datadir", folder, *SCENE_OPTIONS]
        demo.append("8" if device.type == "cuda" else "80")  # views take seconds each on a CPU
        config = load_config([*demo, *HASH, "--basedir", folder])
        minutes = _minutes(load_config(argv))
        return measure_curve(dataclasses.replace(config, bench_minutes=minutes), load_scene(config, device), device)


def to_markdown(report: DeviceReport) -> str:
    """Tables to paste into an issue or a page."""
    lines = [f"{name}: {value}  " for name, value in report.machine.items()] + [f"tests/gpu: {report.tests}", ""]
    lines += [
        "| training step | ms | rays of both fields, or points | rays/s | GPU busy | peak memory |",
        "| --- " * 6 + "|",
    ]
    for row in report.steps:
        busy = "" if row.busy is None else f"{100.0 * row.busy:.0f} %"
        rate = row.rays / row.ms * 1e3
        lines.append(f"| {row.name} | {row.ms:.2f} | {row.rays} | {rate:.0f} | {busy} | {row.peak_memory_gb:.2f} GB |")
    hours = (report.steps[0].ms + 5.0 * report.steps[1].ms) / 6.0 * PUBLISHED_STEPS / 3.6e6
    lines += ["", f"{PUBLISHED_STEPS} published steps (a sixth of them in the first stage): {hours:.2f} h", ""]
    lines += [f"| frame of {report.frame}, hash grids | seconds |", "| --- | --- |"]
    lines += [f"| {name} | {seconds:.3f} |" for name, seconds in report.frame_seconds.items()]
    for name, curve in report.curves.items():
        lines += ["", f"| {name}: seconds | steps | PSNR | moving | still |", "| --- " * 5 + "|"]
        for point in curve:
            psnrs = " | ".join(number(value, 2) for value in (point.psnr, point.psnr_dynamic, point.psnr_static))
            lines.append(f"| {60.0 * point.minutes:.0f} | {point.step} | {psnrs} |")
    return "\n".join(lines) + "\n"
