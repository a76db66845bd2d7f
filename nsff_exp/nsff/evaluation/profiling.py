"""What a training step and a frame cost on this machine, and how quality grows with time."""

import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nsff.cli import progress_bar
from nsff.config import Config
from nsff.data.pixel_sampler import draw_batch
from nsff.data.scene import Scene
from nsff.errors import InputError
from nsff.fields import Fields
from nsff.geometry.poses import Intrinsics
from nsff.rendering.frame_render import render_frame
from nsff.rendering.ray_sampling import DepthSampling
from nsff.rendering.space_time import PlaneSampling, render_space_time
from nsff.rendering.splatting import splat
from nsff.training.checkpoint import configured_architecture, load_weights, read_newest
from nsff.training.schedules import plan_step
from nsff.training.trainer import Trainer

STRIP_RAYS = 4096  # rays of a frame that are rendered to time it
CURVE_POINTS = 6
Figures = dict[str, Any]


def timed(action: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """(wall, CPU) seconds of an action, the device's queue emptied before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_bytes(device: torch.device) -> int:
    """Most memory in use so far, in bytes: of the whole process, on CUDA of its tensors."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_cost(config: Config, scene: Scene, device: torch.device) -> Figures:
    """Median of `bench_steps` steps of the first stage after one that is not timed, then a strip of a frame."""
    before = peak_bytes(device)
    trainer = Trainer(config, scene, device)
    trainer.train_step()
    steps = [timed(trainer.train_step, device) for _ in range(max(1, config.bench_steps))]
    wall, cpu = (sorted(values)[len(values) // 2] for values in zip(*steps, strict=True))
    peak = peak_bytes(device)
    plan = plan_step(config, 0, config.n_frames)
    rays = len(draw_batch(scene, 0, config.N_rand, plan.n_hard, trainer.sample_rng).rgb)
    return {
        "field": config.field,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "rays_a_step": rays,
        "samples_a_ray": DepthSampling.of(config).n_samples,
        "netwidth": config.netwidth if config.field == "mlp" else config.hash_width,
        "step_wall_s": wall,
        "step_cpu_s": cpu,
        "rays_per_s": rays / wall,
        "peak_memory_gb": peak / 1e9,
        "peak_above_idle_gb": (peak - before) / 1e9,
        **measure_frames(config, scene, trainer.fields, device),
        "splats_wall_s": measure_splats(device),
    }


def measure_frames(config: Config, scene: Scene, fields: Fields, device: torch.device) -> Figures:
    """Seconds of a frame and of one of slow motion, half way between two, from strips of them.

    What slow motion costs depends on where the fields are dense: those of the experiment are taken, if it has such.
    """
    trained = read_newest(config.experiment_dir)
    if trained and trained.architecture() == configured_architecture(config):
        load_weights(fields, trained, config)
    full, middle = scene.intrinsics, len(scene.images) // 2
    strip = Intrinsics(min(full.height, -(-STRIP_RAYS // full.width)), full.width, full.focal)
    camera, share, timeline = scene.camera(middle, strip), strip.height / full.height, scene.timeline

    def of_a_frame() -> object:
        return render_frame(fields, camera, timeline.time_of(middle), DepthSampling.of(config), config.rays_per_chunk)

    def between_two() -> object:
        return render_space_time(fields, camera, timeline, middle - 0.5, PlaneSampling.of(config), config.netchunk)

    figures: Figures = {"frame": f"{full.width}x{full.height}"}
    for name, render in (("frame", of_a_frame), ("slow_frame", between_two)):
        render()
        wall, cpu = timed(render, device)
        figures |= {f"{name}_wall_s": wall / share, f"{name}_cpu_s": cpu / share}
    figures["slow_to_frame"] = figures["slow_frame_wall_s"] / figures["frame_wall_s"]
    return figures


def measure_splats(device: torch.device) -> float:
    """Seconds of the splats of a 512x288 frame: 128 planes with colour and opacity, in one call."""
    generator = torch.Generator(device).manual_seed(0)
    planes = torch.rand(128, 4, 288, 512, generator=generator, device=device)
    flow = 16.0 * torch.rand(128, 2, 288, 512, generator=generator, device=device) - 8.0
    splat(planes, flow, "average")
    return timed(lambda: splat(planes, flow, "average"), device)[0]


def measure_curve(config: Config, scene: Scene, device: torch.device) -> list[Figures]:
    """Train for `bench_minutes` and score the protocol's views along the way; scoring does not count as time."""
    from nsff.evaluation.evaluator import Scorer, mean_of  # here: its libraries would count as memory of a step
    from nsff.evaluation.protocols import PROTOCOLS, find_views

    config = dataclasses.replace(config, max_minutes=config.bench_minutes)
    cameras = scene.cameras
    views = find_views(config, cameras).there
    trainer, points = Trainer(config, scene, device), []
    scorer = Scorer(trainer.fields, config, PROTOCOLS[config.protocol], cameras)
    with progress_bar(total=CURVE_POINTS, desc=f"{config.field}, PSNR against time", unit="point") as bar:
        for point in range(1, CURVE_POINTS + 1):
            until = 60.0 * config.bench_minutes * point / CURVE_POINTS
            while trainer.seconds < until and trainer.step < config.N_iters:
                trainer.seconds += timed(trainer.train_step, device)[0]
            mean = mean_of([scorer.score(view)[0] for view in views])
            names = ("psnr", "psnr_dynamic", "psnr_static")
            points.append({"minutes": trainer.seconds / 60.0, "step": trainer.step} | {n: mean[n] for n in names})
            bar.update()
    return points


def compare_fields(argv: list[str], kinds: list[str]) -> list[Figures]:
    """The figures of each kind of field, each measured in a process of its own: memory peaks would add up.

    Raises:
        InputError: one of the processes failed; it has said why.
    """
    results = []
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "figures.json"
            more = ["--compare", "", "--bench_plot", "", "--field", kind, "--bench_json", str(path)]
            run = subprocess.run([sys.executable, sys.argv[0], *argv, *more], stdout=subprocess.DEVNULL, check=False)
            if run.returncode:
                raise InputError(f"measuring --field {kind} failed (exit status {run.returncode})")
            results.append(json.loads(path.read_text()))
    return results


def format_table(results: list[Figures]) -> str:
    """A row a figure, a column a field; with several fields also the ratio of the first to each."""
    lines = []
    for name in results[0]:
        values = [figures[name] for figures in results]
        if name == "curve":
            lines += [f"{row['field']:20} {_curve_line(row['curve'])}" for row in results]
            continue
        cells = [f"{value:14.3f}" if isinstance(value, float) else f"{value!s:>14}" for value in values]
        if len(values) > 1 and all(isinstance(value, float) and value for value in values):
            cells += [f"{values[0] / value:10.2f}x" for value in values[1:]]
        lines.append(f"{name:20}" + "".join(cells))
    return "\n".join(lines)


def _curve_line(curve: list[Figures]) -> str:
    return "  ".join(f"{point['minutes']:.1f} min {point['psnr']:.2f} dB" for point in curve)


def plot_curves(results: list[Figures], path: Path) -> None:
    """PSNR against minutes of training, a line a field: whole image, and its moving part dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="minutes of training", ylabel="PSNR on held-out views [dB]")
    for colour, figures in enumerate(results):
        minutes = [point["minutes"] for point in figures["curve"]]
        for name, line, label in (("psnr", "o-", ""), ("psnr_dynamic", "o--", ", moving part")):
            values = [point[name] for point in figures["curve"]]
            axes.plot(minutes, values, line, color=f"C{colour}", label=figures["field"] + label)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
