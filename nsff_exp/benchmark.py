"""Measure a training step, a rendered frame and, if asked, quality against time on this machine.

    python benchmark.py --config configs/config_balloon1_view0.txt
    python benchmark.py --config ... --compare mlp,hash --netwidth 256 --N_rand 1024 --num_extra_sample 512
    python benchmark.py --config ... --compare hash,hash_without_priors --bench_minutes 10 --bench_plot F.png \\
        --protocol view0 --heldout DIR
    python benchmark.py --config ... --report gpu.json

The report, in `gpu.json` and `gpu.md`, is meant for a machine with a GPU: the tests in `tests/gpu`, the cost of steps
and frames, and quality against seconds on the built-in scene and, where it has held-out views, on the given one.

CPU-seconds count all cores. Peak memory is that of the whole process in a training step (on CUDA: of its tensors). The
time of a frame, and of one of slow motion, is measured on a strip and scaled by its pixels.
"""

import json
from pathlib import Path

from nsff.cli import run_script
from nsff.config import Config
from nsff.config_loader import load_config
from nsff.errors import UsageError
from nsff.io import write_text

KINDS = {
    "mlp": ["--field", "mlp"],
    "hash": ["--field", "hash"],
    "hash_without_priors": [
        *("--field", "hash"),
        *("--warm_steps", "0"),
        *("--prior_samples", "0"),
        *("--w_line_of_sight", "0"),
    ],
}  # fields that can be compared, by their options


def main(argv: list[str]) -> None:
    """Measure, print, and write the figures where asked."""
    config = load_config(argv, "benchmark.py", __doc__)
    kinds = fields_to_compare(config)
    # Heavy imports follow the command line: `--help` and its errors do not wait for them.
    from nsff.data.scene import load_scene
    from nsff.distributed import pick_device
    from nsff.evaluation.device_report import write_report
    from nsff.evaluation.profiling import compare_fields, format_table, measure, plot_curves

    device = pick_device(config)
    if config.report:
        print(write_report(argv, config, device))
        return
    reports = compare_fields(argv, kinds) if kinds else [measure(config, load_scene(config, device), device)]
    print(format_table(reports))
    if config.bench_json:
        results = [report.to_json() for report in reports]
        write_text(Path(config.bench_json), json.dumps(results if kinds else results[0], indent=1) + "\n")
    if config.bench_plot:
        plot_curves(reports, Path(config.bench_plot))


def fields_to_compare(config: Config) -> dict[str, list[str]]:
    """Options of each kind of fields to measure side by side, by its name; none for that of the config alone.

    Raises:
        UsageError: an unknown kind, or a file that cannot be written or would have nothing in it.
    """
    for name in ("bench_json", "bench_plot", "report"):
        path = getattr(config, name)
        if path and not Path(path).absolute().parent.is_dir():
            raise UsageError(f"--{name}: folder {Path(path).absolute().parent} does not exist")
    if config.report and Path(config.report).suffix != ".json":
        raise UsageError(f"--report {config.report}: name a .json file; the Markdown is written beside it")
    if config.bench_plot and not config.bench_minutes:
        raise UsageError("--bench_plot draws quality against time: give --bench_minutes as well")
    kinds = [kind for kind in (config.compare or "").split(",") if kind]
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"--compare: '{kind}' is not one of {', '.join(KINDS)}")
    return {kind: KINDS[kind] for kind in kinds}


if __name__ == "__main__":
    run_script(main)
