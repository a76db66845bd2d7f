"""Cost of training steps and rendered frames on this machine, and quality against training time."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsff.cli import progress_bar
from nsff.config import Config
from nsff.data.scene import Scene
from nsff.errors import InputError
from nsff.evaluation.cost import peak_memory_bytes, timed
from nsff.evaluation.evaluator import Scorer
from nsff.evaluation.launches import count_launches
from nsff.evaluation.protocols import PROTOCOLS, find_heldout_views
from nsff.evaluation.scores import mean_of_views
from nsff.evaluation.tables import number
from nsff.fields import Fields
from nsff.geometry.poses import Intrinsics
from nsff.io import read_text
from nsff.rendering.frame_render import render_frame
from nsff.rendering.ray_sampling import DepthSampling
from nsff.rendering.space_time import PlaneSampling, render_space_time
from nsff.rendering.splatting import splat
from nsff.training.checkpoint import configured_architecture, load_weights, read_newest
from nsff.training.schedules import plan_step
from nsff.training.trainer import Trainer

STRIP_RAYS = 4096  # size of the strip that is rendered to time a frame
N_CURVE_POINTS = 6
WARM_UP_STEPS, TIMED_STEPS = 20, 100  # on CUDA; a CPU warms up once and times `bench_steps`
STEPS_BETWEEN_WAITS = 20  # on CUDA, timing waits for the device; waiting at every step would leave it idle


@dataclasses.dataclass(frozen=True)
class FrameCost:
    """Cost of a frame and of a slow-motion frame; a part of `CostReport`, where its fields are described."""

    frame: str
    frame_wall_s: float
    frame_cpu_s: float
    slow_frame_wall_s: float
    slow_frame_cpu_s: float
    slow_to_frame: float


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """Mean PSNR on held-out views, in dB, after some minutes of training."""

    minutes: float
    step: int
    psnr: float | None
    psnr_dynamic: float | None
    psnr_static: float | None


@dataclasses.dataclass(frozen=True)
class CostReport:
    """Figures of a benchmark; its fields are the keys of `--bench_json`.

    Attributes:
        field: kind of fields, mlp or hash.
        device: compute device.
        threads: of PyTorch on the CPU.
        rays_a_step: rays of both fields per training step; `background_rays` are not counted.
        samples_a_ray: samples per ray.
        netwidth: width of the networks.
        step_wall_s: median wall time of a training step, in seconds.
        step_cpu_s: median CPU time of a training step over all cores, in seconds.
        rays_per_s: rays trained per second.
        peak_memory_gb: peak memory in training, in GB; see `peak_memory_bytes`.
        peak_above_idle_gb: the same above that of the process with the scene loaded.
        frame: size of a frame.
        frame_wall_s: wall time to render a frame, in seconds.
        frame_cpu_s: CPU time to render a frame, in seconds.
        slow_frame_wall_s: wall time of a frame half way between two, in seconds.
        slow_frame_cpu_s: CPU time of a frame half way between two, in seconds.
        slow_to_frame: ratio of the two wall times.
        splats_wall_s: wall time of the splats of a 512x288 frame, in seconds.
        launches_a_step: operators of a step that each launch a kernel on CUDA, unless a graph replays them; the
            published networks have more of them on a CPU, where they run in blocks.
        curve: PSNR against time, with `--bench_minutes` only.
    """

    field: str
    device: str
    threads: int
    rays_a_step: int
    samples_a_ray: int
    netwidth: int
    step_wall_s: float
    step_cpu_s: float
    rays_per_s: float
    peak_memory_gb: float
    peak_above_idle_gb: float
    frame: str
    frame_wall_s: float
    frame_cpu_s: float
    slow_frame_wall_s: float
    slow_frame_cpu_s: float
    slow_to_frame: float
    splats_wall_s: float
    launches_a_step: int
    curve: list[CurvePoint] | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    @staticmethod
    def from_json(values: dict[str, Any]) -> "CostReport":
        curve = values.get("curve")
        return CostReport(**values | {"curve": curve and [CurvePoint(**point) for point in curve]})


def measure(config: Config, scene: Scene, device: torch.device) -> CostReport:
    """Measure the cost of steps and frames and, with `bench_minutes`, PSNR against training time."""
    report = measure_cost(config, scene, device)
    return dataclasses.replace(report, curve=measure_curve(config, scene, device)) if config.bench_minutes else report


def measure_cost(config: Config, scene: Scene, device: torch.device) -> CostReport:
    """Time `bench_steps` steps of the first stage (median, after a warm-up step), then strips of a frame.

    On CUDA at least `TIMED_STEPS` after `WARM_UP_STEPS`, which compile kernels and record graphs. The warm start is
    left out: its steps render no rays.
    """
    before, config = peak_memory_bytes(device), dataclasses.replace(config, warm_steps="0")
    trainer = Trainer(config, scene, device)
    on_cuda = device.type == "cuda"
    for _ in range(WARM_UP_STEPS if on_cuda else 1):
        trainer.train_step()
    n_steps = max(config.bench_steps, TIMED_STEPS if on_cuda else 1)
    steps = [timed(trainer.train_step, device) for _ in range(n_steps)]
    wall, cpu = (sorted(values)[len(values) // 2] for values in zip(*steps, strict=True))
    peak = peak_memory_bytes(device)
    plan = plan_step(config, 0, config.n_frames)
    n_rays = config.step_factor(device.type) * (config.N_rand + plan.n_hard)
    return CostReport(
        field=config.field,
        device=str(device),
        threads=torch.get_num_threads(),
        rays_a_step=n_rays,
        samples_a_ray=DepthSampling.of(config).n_samples,
        netwidth=config.netwidth if config.field == "mlp" else config.hash_width,
        step_wall_s=wall,
        step_cpu_s=cpu,
        rays_per_s=n_rays / wall,
        peak_memory_gb=peak / 1e9,
        peak_above_idle_gb=(peak - before) / 1e9,
        **dataclasses.asdict(measure_frames(config, scene, trainer.fields, device)),
        splats_wall_s=measure_splats(device),
        launches_a_step=measure_launches(trainer),
    )


def measure_frames(config: Config, scene: Scene, fields: Fields, device: torch.device) -> FrameCost:
    """Time a strip of a frame and of a slow-motion frame half way between two, scaled to whole frames.

    Slow motion costs more where the fields are dense; the trained fields of the experiment are used if they exist and
    have the configured architecture.
    """
    trained = read_newest(config.experiment_dir)
    if trained and trained.architecture() == configured_architecture(config):
        load_weights(fields, trained, config)
    full, middle = scene.intrinsics, len(scene.images) // 2
    strip = Intrinsics(min(full.height, -(-STRIP_RAYS // full.width)), full.width, full.focal)
    camera, fraction, timeline = scene.camera(middle, strip), strip.height / full.height, scene.timeline

    rays, points = config.rays_per_chunk(device.type), config.points_per_chunk(device.type)

    def render_at_frame() -> object:
        return render_frame(fields, camera, timeline.time_of(middle), DepthSampling.of(config), rays)

    def render_between_frames() -> object:
        return render_space_time(fields, camera, timeline, middle - 0.5, PlaneSampling.of(config), points)

    seconds = []
    for render in (render_at_frame, render_between_frames):
        render()  # warm-up
        seconds.append([value / fraction for value in timed(render, device)])
    (frame_wall, frame_cpu), (slow_wall, slow_cpu) = seconds
    return FrameCost(f"{full.width}x{full.height}", frame_wall, frame_cpu, slow_wall, slow_cpu, slow_wall / frame_wall)


def measure_launches(trainer: Trainer) -> int:
    """Count the operators of a training step; works without a GPU, too."""
    trainer.graphs = None  # a replay shows none of them
    return count_launches(trainer.train_step).total()


def measure_splats(device: torch.device) -> float:
    """Wall seconds of the splats of a 512x288 frame: 128 planes with colour and opacity, in one call."""
    generator = torch.Generator(device).manual_seed(0)
    planes = torch.rand(128, 4, 288, 512, generator=generator, device=device)
    flow = 16.0 * torch.rand(128, 2, 288, 512, generator=generator, device=device) - 8.0
    splat(planes, flow, "average")
    return timed(lambda: splat(planes, flow, "average"), device)[0]


def measure_curve(config: Config, scene: Scene, device: torch.device) -> list[CurvePoint]:
    """Train for `bench_minutes` and score the protocol's views along the way; scoring does not count as time."""
    config = dataclasses.replace(config, max_minutes=config.bench_minutes)
    views = find_heldout_views(config, scene.cameras).complete
    trainer, points = Trainer(config, scene, device), []
    n_steps = STEPS_BETWEEN_WAITS if device.type == "cuda" else 1
    scorer = Scorer(trainer.fields, config, PROTOCOLS[config.protocol], scene.cameras)
    with progress_bar(total=N_CURVE_POINTS, desc=f"{config.field}, PSNR against time", unit="point") as bar:
        for point in range(1, N_CURVE_POINTS + 1):
            until = 60.0 * config.bench_minutes * point / N_CURVE_POINTS
            while trainer.seconds < until and trainer.step < config.N_iters:
                trainer.seconds += timed(lambda: [trainer.train_step() for _ in range(n_steps)], device)[0]
            mean = mean_of_views([scorer.score(view)[0] for view in views]).image
            psnrs = (region.psnr for region in (mean.whole, mean.moving, mean.static))
            points.append(CurvePoint(trainer.seconds / 60.0, trainer.step, *psnrs))
            bar.update()
    return points


def compare_fields(argv: list[str], kinds: dict[str, list[str]]) -> list[CostReport]:
    """Measure each kind of field in a process of its own, as the peak memory of one would hide that of the next.

    Args:
        argv: the command line.
        kinds: options of each kind, by its name.

    Raises:
        InputError: one of the processes failed; its own message says why.
    """
    reports = []
    for kind, more in kinds.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cost.json"
            options = ["--compare", "", "--bench_plot", "", *more, "--bench_json", str(path)]
            run = subprocess.run([sys.executable, sys.argv[0], *argv, *options], stdout=subprocess.DEVNULL, check=False)
            if run.returncode:
                raise InputError(f"measuring {kind} failed with exit status {run.returncode}, see above")
            report = CostReport.from_json(json.loads(read_text(path)))
            reports.append(dataclasses.replace(report, field=kind))
    return reports


def format_table(reports: list[CostReport]) -> str:
    """One row per figure and one column per field; with several fields also the ratio of the first to each."""
    rows = [report.to_json() for report in reports]
    lines = []
    for name in (name for name in rows[0] if name != "curve"):
        values = [row[name] for row in rows]
        cells = [f"{value:14.3f}" if isinstance(value, float) else f"{value!s:>14}" for value in values]
        if len(values) > 1 and all(isinstance(value, float) and value for value in values):
            cells += [f"{values[0] / value:10.2f}x" for value in values[1:]]
        lines.append(f"{name:20}" + "".join(cells))
    lines += [f"{report.field:20} {_curve_line(report.curve)}" for report in reports if report.curve]
    return "\n".join(lines)


def _curve_line(curve: list[CurvePoint]) -> str:
    return "  ".join(f"{point.minutes:.1f} min {number(point.psnr, 2)} dB" for point in curve)


def plot_curves(reports: list[CostReport], path: Path) -> None:
    """Plot PSNR against minutes of training, one colour per field: whole image solid, its moving part dashed."""
    from matplotlib.figure import Figure  # here: its memory would count as that of a training step

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="minutes of training", ylabel="PSNR on held-out views [dB]")
    for index, report in enumerate(reports):
        curve = report.curve or []
        minutes = [point.minutes for point in curve]
        whole, moving = [point.psnr for point in curve], [point.psnr_dynamic for point in curve]
        for values, style, suffix in ((whole, "o-", ""), (moving, "o--", ", moving part")):
            psnrs = np.array(values, dtype=float)  # None becomes NaN, which leaves a gap
            axes.plot(minutes, psnrs, style, color=f"C{index}", label=report.field + suffix)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
