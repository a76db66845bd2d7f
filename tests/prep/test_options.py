"""Options of the preparation: their errors, and abbreviations."""

import shutil

import pytest
from nsff.cli import Parser
from nsff.errors import UsageError
from nsff.prep.options import add_capture, add_depth, add_flow, capture_settings
from script_runs import error_line, run_as_typed, run_main


@pytest.mark.parametrize(
    "arguments",
    [[], ["--video", "a.mp4"], ["--data_path", "x"], ["--data_path", "x", "--video", "a", "--images", "b"],
     ["--data_path", "x", "--video", "a", "--fps", "many"], ["--data_path", "x", "--images", "a", "--fps", "5"]],
)  # fmt: skip
def test_capture_options_reject_missing_or_contradictory_ones(arguments):
    parser = Parser(None)
    parser.add_argument("--data_path", required=True)
    add_capture(parser)
    with pytest.raises(UsageError):
        capture_settings(parser.parse_args(arguments))


def test_usage_error_as_typed_is_one_line_with_status_2():
    run = run_as_typed("run_colmap.py", "--data_path", "x", "--fps", "many")
    assert "--fps: 'many' is not 0.01 to 1000; see --help" in error_line(run, status=2)
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [(["--resize", "144"], "resize_height", 144), (["--input_flow", "512"], "input_flow_w", 512),
     (["--epi_thres", "2"], "epi_threshold", "2"), (["--mix"], "mixed_precision", True)],
)  # fmt: skip
def test_options_accept_unambiguous_abbreviation(arguments, name, value):
    parser = Parser(None)
    add_depth(parser, model_option=False)
    add_flow(parser)
    assert getattr(parser.parse_args(arguments), name) == value


def test_ambiguous_abbreviation_names_candidates():
    with pytest.raises(UsageError, match="--input_semantic could match --input_semantic_w, --input_semantic_h; see"):
        run_main("run_flows_video.py", "--data_path", "x", "--input_semantic", "960")


def test_abbreviated_quiet_and_verbose_as_typed_have_effect(scene):
    assert run_as_typed("save_poses_nerf.py", "--data_path", scene, "--qui").stderr == ""
    shutil.rmtree(scene / "sparse")
    assert "Traceback" in run_as_typed("save_poses_nerf.py", "--data_path", scene, "--verb").stderr
