"""Evaluation in several processes, one of which fails."""

import json
import os
import shutil
import subprocess
import sys

from process_groups import FOLDER, run_together

FAILING_EVALUATION = """
import torch
from nsff.cli import run_script
from nsff.config_loader import load_config
from nsff.distributed import join_process_group
from nsff.errors import InputError
from nsff.evaluation import evaluator
from nsff.evaluation.results_table import evaluate_all
def main(argv):
    evaluator.load_lpips = lambda *_: None
    names = ("loading", "scoring", "neither")
    configs = [load_config([*argv, "--expname", name]) for name in names]
    with join_process_group() as group:
        def failing(function, name, config_of):
            def run(*given):
                if not group.is_main and config_of(*given).expname == name:
                    raise InputError("only this process fails")
                return function(*given)
            return run
        evaluator.restore_fields = failing(evaluator.restore_fields, "loading", lambda _, config: config)
        scorer = evaluator.Scorer
        scorer.score_to_files = failing(scorer.score_to_files, "scoring", lambda self, *_: self.config)
        try:
            evaluate_all(configs, torch.device("cpu"), group)
        except InputError as error:
            assert "2 of 3 scenes could not be evaluated in full: loading, scoring" in str(error), error
        else:
            raise AssertionError("no error")
run_script(main)
"""


def test_evaluate_all_goes_on_after_one_process_failed_in_a_scene(golden, tmp_path):
    """A process that gave a scene up alone would meet the others in the barriers of two different scenes."""
    errors = run_together(
        2, "-c", FAILING_EVALUATION, "--config", str(golden / "paper/config.txt"), "--datadir", str(golden / "scene"),
        "--image_ext", "png", "--basedir", str(tmp_path), "--ft_path", str(golden / "render/002000.tar"),
        "--protocol", "nsff-fixed", "--every", "100", "--device", "cpu", "--allow_missing",
    )  # fmt: skip
    assert "loading: process 1: only this process fails" in errors[0]
    assert "scoring: process 1: only this process fails" in errors[0]
    assert errors[1] == ""  # the main process reports for all
    results = json.loads((tmp_path / "results_nsff-fixed.json").read_text())
    assert list(results["scenes"]) == ["neither"]
    assert results["failed"] == ["loading", "scoring"]
    assert len(json.loads((tmp_path / "neither_F00-24/metrics_nsff-fixed.json").read_text())["views"]) == 3


def test_evaluate_all_with_one_broken_picture_in_the_first_of_two_scenes(golden, tmp_path):
    """As typed, two processes; the process that reads the picture is not the main one."""
    shutil.copytree(golden / "scene", tmp_path / "broken")
    picture = sorted((tmp_path / "broken/mv_images").rglob("*.jpg"))[1]
    picture.write_bytes(picture.read_bytes()[:200])
    configs = []
    for name, datadir in (("first", tmp_path / "broken"), ("second", golden / "scene")):
        configs.append(tmp_path / f"{name}.txt")
        text = (golden / "paper/config.txt").read_text()
        kept = [line for line in text.splitlines() if not line.startswith(("datadir", "expname"))]
        configs[-1].write_text("\n".join([*kept, f"datadir = {datadir}", f"expname = {name}"]) + "\n")
    command = [
        sys.executable, "evaluate_all.py", *map(str, configs), "--gpus", "2", "--device", "cpu", "--basedir",
        str(tmp_path), "--ft_path", str(golden / "render/002000.tar"), "--protocol", "nsff-fixed", "--allow_missing",
        "--every", "11", "--lpips_trunk", "None", "--N_samples", "4",
    ]  # fmt: skip
    environment = os.environ | {"TORCH_HOME": str(tmp_path)}
    run = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False, timeout=200, env=environment)
    assert run.returncode == 1, run.stderr
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: first:")]
    assert f"{picture} cannot be read" in line
    assert "Traceback" not in run.stderr
    results = json.loads((tmp_path / "results_nsff-fixed.json").read_text())
    assert (list(results["scenes"]), results["failed"]) == (["second"], ["first"])
