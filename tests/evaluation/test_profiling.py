"""The benchmark as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from imageio.v3 import imread

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = [
    "--N_rand", "32", "--num_extra_sample", "8", "--N_samples", "8", "--netwidth", "16", "--bench_steps", "1",
    "--hash_width", "16", "--hash_coarse_samples", "8", "--hash_samples", "4",
]  # fmt: skip


def benchmark(golden: Path, *more: str) -> subprocess.CompletedProcess:
    config = str(golden / "paper/config.txt")
    command = [sys.executable, "benchmark.py", "--config", config, "--datadir", str(golden / "scene"), *SMALL, *more]
    return subprocess.run(command, cwd=REPOSITORY / "nsff_exp", capture_output=True, text=True, check=False)


def test_figures_of_one_field(golden, tmp_path):
    out = benchmark(golden, "--bench_json", str(tmp_path / "figures.json"))
    assert out.returncode == 0, out.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["field"] == "mlp"
    assert figures["rays_a_step"] == 40
    assert figures["rays_per_s"] == pytest.approx(40 / figures["step_wall_s"])
    assert figures["frame"] == "64x36"
    assert 0.1 < figures["peak_memory_gb"] < 10
    assert {"slow_frame_wall_s", "slow_to_frame", "splats_wall_s"} <= figures.keys()
    for name in figures:
        assert name in out.stdout


def test_fields_side_by_side_with_a_curve(golden, tmp_path):
    (tmp_path / "00002.png").write_bytes((golden / "scene/images/00002.png").read_bytes())
    scored = ["--bench_minutes", "0.05", "--protocol", "view0", "--heldout", str(tmp_path)]
    kept = ["--bench_json", str(tmp_path / "figures.json"), "--bench_plot", str(tmp_path / "curve.png")]
    out = benchmark(golden, "--compare", "mlp,hash", *scored, *kept)
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


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--compare", "mlp,grid"], "'grid' is not one of mlp, hash"),
        (["--bench_plot", "x.png"], "give --bench_minutes"),
        (["--bench_json", "nowhere/x.json"], "nowhere does not exist"),
    ],
)
def test_impossible_wishes(golden, more, words):
    out = benchmark(golden, *more)
    assert out.returncode == 2
    assert words in out.stderr.splitlines()[-1]
