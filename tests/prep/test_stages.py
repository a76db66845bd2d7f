"""Stages of the preparation: which methods run without weights, and when a stage is current."""

import pytest
from nsff.errors import InputError
from nsff.prep import pipeline, weights
from nsff.prep.depth_stage import DepthSettings
from nsff.prep.flow_stage import FlowSettings
from nsff.prep.weights import MASK_RCNN, MIDAS, RAFT


def test_resolve_methods_without_weights(monkeypatch, tmp_path, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "MODELS", tmp_path / "scripts" / "models")
    depth, flow = pipeline.resolve_methods(DepthSettings(), FlowSettings())
    assert (depth.method, flow.method, flow.semantic) == ("multiview", "dis", "multiview")
    assert "no MiDaS weights" in caplog.text
    for semantic, words in (
        ("multiview", "needs --depth multiview"),
        ("masc", "nor a folder"),
        ("maskrcnn", "no weights"),
    ):
        with pytest.raises(InputError, match=words):
            pipeline.resolve_methods(DepthSettings("dpt"), FlowSettings(semantic=semantic))
    named = FlowSettings(model="typo.pth")
    assert pipeline.resolve_methods(DepthSettings(), named)[1].method == "raft"  # a named file is not replaced
    (tmp_path / "models").mkdir()
    for name in (MIDAS, RAFT, MASK_RCNN):
        (tmp_path / name).write_bytes(b"x")
    expected = (DepthSettings(), FlowSettings(semantic="maskrcnn"))
    assert pipeline.resolve_methods(DepthSettings(), FlowSettings()) == expected


@pytest.fixture
def stage(tmp_path):
    """A stage with its output, and the stamp of the run that made it."""
    output, stamp = tmp_path / "output", tmp_path / "stamp.json"
    output.write_text("x")
    stamp.write_text('{"settings": {"a": 1}, "summary": ["summary line"]}')
    return pipeline.Stage("poses", {"a": 1}, lambda: "", lambda: [output]), stamp, output


def test_summary_if_current_requires_settings_stamp_and_newer_output(stage):
    stage, stamp, output = stage
    before = output.stat().st_mtime - 5
    assert pipeline.summary_if_current(stage, stamp, "same", before) == ["summary line"]
    assert pipeline.summary_if_current(stage, stamp, "same", before + 10) is None  # the input is newer
    changed = pipeline.Stage("poses", {"a": 2}, stage.run, stage.outputs)
    assert pipeline.summary_if_current(changed, stamp, "same", before) is None
    stamp.write_text('{"settings": {"a": 1}, "given": "same", "summary": ["summary line"]}')
    assert pipeline.summary_if_current(stage, stamp, "same", before) == ["summary line"]
    assert pipeline.summary_if_current(stage, stamp, "other", before) is None  # other files, although older
    stamp.write_text("{")
    assert pipeline.summary_if_current(stage, stamp, "same", before) is None
    stamp.unlink()
    output.unlink()
    assert pipeline.summary_if_current(stage, stamp, "same", before) is None
