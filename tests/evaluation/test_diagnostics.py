"""The health report: verdicts, figures of a scene whose flaws are known, and the page."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from nsff.data.cameras import Cameras
from nsff.data.scene import load_scene
from nsff.errors import InputError
from nsff.evaluation.diagnostics import CHECKS, Check, diagnose, measure_frame, of_cameras, of_masks, row_of
from nsff.fields import Fields
from nsff.geometry.poses import Intrinsics
from toy_fields import Nothing, Wall

CPU = torch.device("cpu")


def test_verdicts():
    more, less = Check("a", "", 20.0, 15.0, "", ""), Check("b", "", 5.0, 20.0, "", "")
    assert [more.verdict(value) for value in (25.0, 20.0, 17.0, 15.0, 3.0)] == ["good", "good", "fair", "poor", "poor"]
    assert [less.verdict(value) for value in (1.0, 5.0, 10.0, 20.0, 50.0)] == ["good", "good", "fair", "poor", "poor"]
    assert more.verdict(None) == less.verdict(float("nan")) == "-"


def test_parallax_by_hand():
    """A camera that goes 0.3 to the right, focal length 80, the nearest thing at 2: 12 of 96 pixels."""
    c2w = np.tile(np.eye(4, dtype=np.float32)[:3], (4, 1, 1))
    c2w[:, 0, 3] = 0.1 * np.arange(4)
    bounds = np.full((4, 2), 2.0, np.float32)
    found = of_cameras(Cameras(Intrinsics(48, 96, 80.0), c2w, bounds, 1.0, np.eye(4)[:3]))
    assert found == {"parallax": pytest.approx(12.5), "step": pytest.approx(12.5 / 3)}


def test_a_static_wall_explains_no_motion(trained):
    """Fields that show a grey wall: everything that moves is static, nothing still is dynamic."""
    scene = load_scene(trained, CPU)
    found = measure_frame(Fields(Wall(), Nothing()), trained, scene, 5, torch.Generator().manual_seed(0))
    assert found["static share of what moves"] == pytest.approx(100.0)
    assert found["dynamic share of what is still"] == pytest.approx(0.0)
    assert found["undecided pixels"] == pytest.approx(0.0)
    grey = -10.0 * np.log10(float(((scene.images[5][scene.background[5]] - 0.5) ** 2).mean()))
    assert found["fit, still"] == pytest.approx(grey, abs=0.3)
    assert of_masks(scene)["moving pixels"] == pytest.approx(100.0 * float(scene.motion_masks.float().mean()))


def test_advice_knows_what_was_given_already(trained):
    check = next(check for check in CHECKS if check.name == "undecided pixels")
    fresh, given = (dataclasses.replace(trained, w_split=value, w_entropy=1e-3) for value in (0.0, 0.01))
    assert row_of(check, 50.0, fresh)["advice"] == check.advice
    assert row_of(check, 50.0, given)["advice"].endswith("(already w_split 0.01: then more training)")
    assert row_of(check, 1.0, given)["advice"] == ""


def test_report_of_a_scene(trained, capsys):
    page = diagnose(trained, CPU)
    report = json.loads((trained.experiment_dir / "health.json").read_text())
    assert [row["name"] for row in report["checks"]] == [check.name for check in CHECKS]
    for row in report["checks"]:
        assert row["verdict"] in ("good", "fair", "poor")
        assert bool(row["advice"]) == (row["verdict"] != "good")
        assert row["name"] in page.read_text()
    by_name = {row["name"]: row for row in report["checks"]}
    assert by_name["fit, still"]["verdict"] == "poor"  # 2000 steps of a tiny network
    assert page.read_text().count("data:image/jpeg;base64,") == 3 * 7
    assert "-> " in capsys.readouterr().out


def test_without_a_checkpoint(trained):
    with pytest.raises(InputError, match="no checkpoint in"):
        diagnose(dataclasses.replace(trained, expname="nothing"), CPU)
