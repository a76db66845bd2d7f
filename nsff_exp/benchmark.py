"""Measure a training step and a rendered frame on this machine.

    python benchmark.py --config configs/config_balloon1_view0.txt
    python benchmark.py --config ... --N_rand 1024 --num_extra_sample 512 --N_samples 128 --netwidth 256

Steps are those of the first stage (hard-mined rays, no chain). CPU-seconds count all cores. Peak memory is that of the
whole process (on CUDA: of its tensors). A frame's time is measured on a strip of it and scaled by its pixels.
"""

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch
from nsff.config import Config, UsageError, load_config
from nsff.poses import Intrinsics
from nsff.renderer import render_frame
from nsff.scene import Scene, draw_batch, load_scene
from nsff.schedules import plan_step
from nsff.script import pick_device, run_script
from nsff.trainer import Trainer

STRIP_RAYS = 4096  # rays of a frame that are rendered to time it


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
    """Most memory in use so far, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(config: Config, scene: Scene, device: torch.device) -> dict[str, float | int | str]:
    """Median of `bench_steps` steps after one that is not timed, then a strip of a frame."""
    trainer = Trainer(config, scene, device)
    trainer.train_step()
    steps = [timed(trainer.train_step, device) for _ in range(max(1, config.bench_steps))]
    wall, cpu = (sorted(values)[len(values) // 2] for values in zip(*steps, strict=True))
    peak_training = peak_bytes(device)
    full = scene.intrinsics
    strip = Intrinsics(min(full.height, -(-STRIP_RAYS // full.width)), full.width, full.focal)
    frame_wall, frame_cpu = timed(
        lambda: render_frame(trainer.fields, scene.c2w[0], strip, 0.0, config.N_samples, config.rays_at_once), device
    )
    share = strip.height / full.height
    batch = draw_batch(scene, 0, config.N_rand, plan_step(config, 0, config.n_frames).n_hard, trainer.samples)
    rays = len(batch.rgb)
    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "rays_a_step": rays,
        "samples_a_ray": config.N_samples,
        "netwidth": config.netwidth,
        "step_wall_s": wall,
        "step_cpu_s": cpu,
        "rays_per_s": rays / wall,
        "peak_memory_gb": peak_training / 1e9,
        "frame": f"{full.width}x{full.height}",
        "frame_wall_s": frame_wall / share,
        "frame_cpu_s": frame_cpu / share,
    }


def main(argv: list[str]) -> None:
    """Measure, print, and keep the figures if asked."""
    config = load_config(argv, "benchmark.py", __doc__)
    device = pick_device(config)
    path = Path(config.bench_json or "")
    if config.bench_json and not path.parent.is_dir():
        raise UsageError(f"--bench_json: folder {path.parent.absolute()} does not exist")
    figures = measure(config, load_scene(config, device), device)
    for name, value in figures.items():
        print(f"{name:16} {value:.3f}" if isinstance(value, float) else f"{name:16} {value}")
    if config.bench_json:
        path.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main)
