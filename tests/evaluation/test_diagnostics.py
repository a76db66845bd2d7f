"""The health report: verdicts, figures of fields with known flaws, and the page."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from nsff.data.cameras import Cameras
from nsff.data.scene import load_scene
from nsff.errors import InputError
from nsff.evaluation.diagnostics import HealthFigures, diagnose, measure_cameras, measure_frame, measure_masks
from nsff.evaluation.health import CHECKS, Check, make_row
from nsff.fields import Fields
from nsff.geometry.poses import Intrinsics
from nsff.report.evaluation_page import write_health_page
from toy_fields import Nothing, Wall

CPU = torch.device("cpu")


def test_verdict_depends_on_direction_of_limits():
    larger_is_better = Check("a", "a", "", 20.0, 15.0, "", "")
    smaller_is_better = Check("b", "b", "", 5.0, 20.0, "", "")
    verdicts = ["good", "good", "fair", "poor", "poor"]
    assert [larger_is_better.verdict(value) for value in (25.0, 20.0, 17.0, 15.0, 3.0)] == verdicts
    assert [smaller_is_better.verdict(value) for value in (1.0, 5.0, 10.0, 20.0, 50.0)] == verdicts
    assert larger_is_better.verdict(None) == smaller_is_better.verdict(float("nan")) == "-"


def test_every_check_has_its_figure():
    assert [check.figure for check in CHECKS] == [field.name for field in dataclasses.fields(HealthFigures)]


def test_parallax_of_sideways_camera():
    """A camera that moves 0.3 to the right, focal length 80, nearest point at 2: 12 of 96 pixels."""
    c2w = np.tile(np.eye(4, dtype=np.float32)[:3], (4, 1, 1))
    c2w[:, 0, 3] = 0.1 * np.arange(4)
    bounds = np.full((4, 2), 2.0, np.float32)
    figures = measure_cameras(Cameras(Intrinsics(48, 96, 80.0), c2w, bounds, 1.0, np.eye(4)[:3]))
    assert (figures.parallax, figures.step) == (pytest.approx(12.5), pytest.approx(12.5 / 3))


def test_static_wall_has_no_dynamic_weight(trained):
    """Fields that show a grey wall: the static field fills the motion masks, and nothing is dynamic."""
    scene = load_scene(trained, CPU)
    figures = measure_frame(Fields(Wall(), Nothing()), trained, scene, 5, torch.Generator().manual_seed(0))
    assert figures.static_in_moving == pytest.approx(100.0)
    assert figures.dynamic_in_static == pytest.approx(0.0)
    assert figures.undecided == pytest.approx(0.0)
    grey = -10.0 * np.log10(float(((scene.image(5)[scene.background[5]] - 0.5) ** 2).mean()))
    assert figures.fit_static == pytest.approx(grey, abs=0.3)
    assert measure_masks(scene).moving == pytest.approx(100.0 * float(scene.motion_masks.float().mean()))


def test_advice_names_options_changed_already(trained):
    check = next(check for check in CHECKS if check.name == "undecided pixels")
    fresh, given = (dataclasses.replace(trained, w_split=value, w_entropy=1e-3) for value in (0.0, 0.01))
    assert make_row(check, 50.0, fresh).advice == check.advice
    assert make_row(check, 50.0, given).advice.endswith("(set already: w_split 0.01; train longer)")
    assert make_row(check, 1.0, given).advice == ""


def test_diagnose_writes_report_and_page(trained, capsys):
    path = diagnose(trained, CPU, write_health_page)
    assert path == trained.experiment_dir / "health.json"
    report, page = json.loads(path.read_text()), path.with_suffix(".html").read_text()
    assert [row["name"] for row in report["checks"]] == [check.name for check in CHECKS]
    for row in report["checks"]:
        if row["name"] == "given depth of what moves":  # the golden scene has no disparity that any track could judge
            assert (row["value"], row["verdict"]) == (None, "-")
            assert row["advice"].startswith("no path of what moves tells its depth, which is taken as given")
            continue
        assert row["verdict"] in ("good", "fair", "poor")
        assert bool(row["advice"]) == (row["verdict"] != "good")
        assert row["name"] in page
    by_name = {row["name"]: row for row in report["checks"]}
    assert by_name["fit, static"]["verdict"] == "poor"  # 2000 steps of a tiny network
    assert page.count("data:image/jpeg;base64,") == 3 * 7
    assert "-> " in capsys.readouterr().out


def test_diagnose_without_checkpoint_is_refused(trained):
    with pytest.raises(InputError, match="no checkpoint in"):
        diagnose(dataclasses.replace(trained, expname="nothing"), CPU)
