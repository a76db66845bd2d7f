"""The benchmark: figures of one field, fields side by side, quality against time, invalid options."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import benchmark
import pytest
import torch
from imageio.v3 import imread
from nsff.config_loader import load_config
from nsff.data.scene import load_scene
from nsff.errors import UsageError
from nsff.evaluation import profiling
from nsff.evaluation.launches import count_launches
from nsff.evaluation.profiling import CostReport, CurvePoint, format_table, measure_curve, plot_curves
from nsff.training.trainer import Trainer

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = [
    "--N_rand", "32", "--num_extra_sample", "8", "--N_samples", "8", "--netwidth", "16", "--bench_steps", "1",
    "--hash_width", "16", "--hash_coarse_samples", "8", "--hash_samples", "4",
]  # fmt: skip


@pytest.fixture
def argv(golden) -> list[str]:
    return ["--config", str(golden / "paper/config.txt"), "--datadir", str(golden / "scene"), *SMALL]


def type_benchmark(argv: list[str]) -> subprocess.CompletedProcess:
    """Run the benchmark as a user types it, inside its folder."""
    command = [sys.executable, "benchmark.py", *argv]
    return subprocess.run(command, cwd=REPOSITORY / "nsff_exp", capture_output=True, text=True, check=False)


@pytest.fixture
def report() -> CostReport:
    return CostReport(
        field="mlp", device="cpu", threads=2, rays_a_step=40, samples_a_ray=8, netwidth=16, step_wall_s=0.5,
        step_cpu_s=1.0, rays_per_s=80.0, peak_memory_gb=2.0, peak_above_idle_gb=1.0, frame="64x36", frame_wall_s=3.0,
        frame_cpu_s=6.0, slow_frame_wall_s=6.0, slow_frame_cpu_s=12.0, slow_to_frame=2.0, splats_wall_s=0.25,
        launches_a_step=900,
    )  # fmt: skip


def test_benchmark_prints_and_writes_every_figure(argv, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(profiling, "measure_splats", lambda device: 0.5)
    benchmark.main([*argv, "--bench_json", str(tmp_path / "figures.json")])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures) == [field.name for field in dataclasses.fields(CostReport) if field.name != "curve"]
    assert figures["field"] == "mlp"
    assert figures["rays_a_step"] == 40
    assert figures["rays_per_s"] == pytest.approx(40 / figures["step_wall_s"])
    assert figures["frame"] == "64x36"
    assert figures["launches_a_step"] > 300
    assert 0.1 < figures["peak_memory_gb"] < 10
    printed = capsys.readouterr().out
    for name in figures:
        assert name in printed


def test_launches_are_operators_that_compute():
    """Views and empty memory launch nothing; backward passes count."""
    x = torch.ones(4, 3, requires_grad=True)

    def step() -> None:
        (x[:2].flatten() * 2.0).sum().backward()  # forward: mul, sum; then ones_like, mul, slice_backward

    counts = count_launches(step)
    assert counts["mul"] == 2
    assert counts["sum"] == counts["slice_backward"] == counts["ones_like"] == 1
    assert counts.total() == 5


@pytest.mark.parametrize(("background_rays", "most"), [("0", 900), ("1024", 1105)])
def test_launches_of_a_step_of_hash_grids_in_the_last_stage(golden, tmp_path, background_rays, most):
    """Without priors; it was 1621 and 1906 with a launch for every warp, loss and neighbour."""
    video = ["--config", str(REPOSITORY / "configs/config_video.txt"), "--datadir", str(golden / "scene")]
    small = ["--end_frame", "24", "--final_height", "36", "--hash_log2_rows", "10", "--warm_steps", "0"]
    more = ["--prior_samples", "0", "--background_rays", background_rays, "--basedir", str(tmp_path)]
    config = load_config([*video, *small, *more])
    device = torch.device("cpu")
    trainer = Trainer(config, load_scene(config, device), device)
    trainer.step = config.N_iters - 2
    trainer.train_step()
    assert count_launches(trainer.train_step).total() <= most


def test_table_has_ratios_of_fields(report):
    other = dataclasses.replace(report, field="hash", step_cpu_s=0.25)
    lines = {line.split()[0]: line.split()[1:] for line in format_table([report, other]).splitlines()}
    assert lines["field"] == ["mlp", "hash"]
    assert lines["step_cpu_s"] == ["1.000", "0.250", "4.00x"]
    assert lines["rays_a_step"] == ["40", "40"]


def test_curve_is_printed_written_and_plotted(report, tmp_path):
    curve = [CurvePoint(0.5, 10, 15.0, None, 16.0), CurvePoint(1.0, 20, 17.5, 12.0, 18.0)]
    report = dataclasses.replace(report, curve=curve)
    assert format_table([report]).splitlines()[-1].split(maxsplit=1) == ["mlp", "0.5 min 15.00 dB  1.0 min 17.50 dB"]
    assert CostReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    plot_curves([report], tmp_path / "curve.png")
    assert imread(tmp_path / "curve.png").std() > 1.0


def test_curve_scores_views_along_training(paper_config, paper_scene, golden, tmp_path):
    (tmp_path / "00002.png").write_bytes((golden / "scene/images/00002.png").read_bytes())
    config = dataclasses.replace(
        paper_config, N_rand=32, num_extra_sample=8, N_samples=8, netwidth=16, bench_minutes=0.01, protocol="view0",
        heldout=str(tmp_path),
    )  # fmt: skip
    curve = measure_curve(config, paper_scene, torch.device("cpu"))
    minutes = [point.minutes for point in curve]
    assert len(curve) == profiling.N_CURVE_POINTS
    assert minutes == sorted(minutes)
    assert minutes[-1] >= 0.01
    assert all(5.0 < point.psnr < 40.0 for point in curve)


@pytest.mark.nightly
def test_fields_side_by_side_as_typed(argv, golden, tmp_path):
    (tmp_path / "00002.png").write_bytes((golden / "scene/images/00002.png").read_bytes())
    scored = ["--bench_minutes", "0.05", "--protocol", "view0", "--heldout", str(tmp_path)]
    files = ["--bench_json", str(tmp_path / "figures.json"), "--bench_plot", str(tmp_path / "curve.png")]
    out = type_benchmark([*argv, "--compare", "mlp,hash", *scored, *files])
    assert out.returncode == 0, out.stderr
    both = json.loads((tmp_path / "figures.json").read_text())
    assert [figures["field"] for figures in both] == ["mlp", "hash"]
    line = next(line for line in out.stdout.splitlines() if line.startswith("step_cpu_s"))
    assert float(line.split()[-1].rstrip("x")) == pytest.approx(both[0]["step_cpu_s"] / both[1]["step_cpu_s"], abs=0.01)
    for figures in both:
        minutes = [point["minutes"] for point in figures["curve"]]
        assert minutes == sorted(minutes)
        assert minutes[-1] >= 0.05
        assert all(5.0 < point["psnr"] < 40.0 for point in figures["curve"])
    assert imread(tmp_path / "curve.png").std() > 1.0


INVALID = [
    (["--compare", "mlp,grid"], "'grid' is not one of mlp, hash"),
    (["--bench_plot", "x.png"], "give --bench_minutes"),
    (["--bench_json", "nowhere/x.json"], "nowhere does not exist"),
]


@pytest.mark.parametrize(("options", "message"), INVALID)
def test_benchmark_rejects_invalid_options(argv, options, message):
    with pytest.raises(UsageError, match=message):
        benchmark.main([*argv, *options])


def test_benchmark_error_as_typed(argv):
    options, message = INVALID[0]
    out = type_benchmark([*argv, *options])
    assert out.returncode == 2
    assert message in out.stderr.splitlines()[-1]
