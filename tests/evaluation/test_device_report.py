"""The report on a machine: steps and frames measured on the CPU, and the tables made of figures."""

import dataclasses
import subprocess

import benchmark
import pytest
import torch
from nsff.errors import UsageError
from nsff.evaluation.device_report import (
    DeviceReport,
    StepFigures,
    describe_machine,
    measure_modes,
    measure_step,
    run_gpu_tests,
    to_markdown,
)
from nsff.evaluation.profiling import CurvePoint

CPU = torch.device("cpu")


def test_markdown_has_rates_hours_and_curves():
    steps = [StepFigures("first", 30.0, 1536, 0.9, 8.0), StepFigures("later", 36.0, 1024, None, 7.0)]
    curve = [CurvePoint(0.5, 400, 20.0, None, 22.0)]
    text = to_markdown(
        DeviceReport({"device": "a card"}, "3 passed", steps, "64x36", {"bullet time": 0.25}, {"room": curve})
    )
    assert "| first | 30.00 | 1536 | 51200 | 90 % | 8.00 GB |" in text
    assert "| later | 36.00 | 1024 | 28444 |  | 7.00 GB |" in text
    assert "2.92 h" in text  # 300,000 steps: a sixth of 30 ms, the rest of 36 ms
    assert "| bullet time | 0.250 |" in text
    assert "| 30 | 400 | 20.00 | - | 22.00 |" in text


def test_steps_and_frames_are_measured_on_the_cpu(paper_config, paper_scene):
    config = dataclasses.replace(
        paper_config, netwidth=16, N_samples=8, N_rand=32, num_extra_sample=8, use_motion_mask=True, bench_steps=1
    )
    figures = measure_step("name", config, paper_scene, CPU, 0)
    assert (figures.name, figures.rays, figures.busy) == ("name", 40, None)
    assert figures.ms > 1.0
    seconds = measure_modes(config, paper_scene, CPU)
    assert list(seconds) == ["bullet time", "slow motion, fixed camera", "slow motion, moving camera"]
    assert min(seconds.values()) > 0.01
    assert "the CPU" in describe_machine(CPU)["device"]
    assert run_gpu_tests(CPU) == "not run: no GPU"


def test_failed_tests_are_named(monkeypatch):
    output = "..F\nFAILED tests/gpu/test_kernels.py::test_splat[1] - assert 0\n== 1 failed, 2 passed in 3.00s ==\n"
    run = subprocess.CompletedProcess([], 1, stdout=output)
    monkeypatch.setattr(subprocess, "run", lambda *given, **more: run)
    assert run_gpu_tests(torch.device("cuda")) == "1 failed, 2 passed in 3.00s; test_splat[1]"


@pytest.mark.parametrize("path", ["gpu.md", "missing/gpu.json"])
def test_report_needs_a_json_file_in_a_folder_that_exists(path, golden, tmp_path):
    argv = ["--config", str(golden / "paper/config.txt"), "--datadir", str(golden / "scene")]
    with pytest.raises(UsageError, match="--report"):
        benchmark.main([*argv, "--report", str(tmp_path / path)])
