"""Weights: the places that are looked at, checkpoints of training."""

from pathlib import Path

import pytest
import torch
from nsff_prep import downloads, flows, pipeline, weights
from nsff_prep.depth import DepthSettings
from nsff_prep.flows import FlowSettings
from nsff_prep.script import PrepError
from nsff_prep.weights import MASK_RCNN, MIDAS, RAFT, find_weights, has_weights, read_weights


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for nsff_scripts, and another one, `here`, to stand in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(weights, "MODELS", tmp_path / "nsff_scripts" / "models")
    monkeypatch.setattr(downloads, "MODELS", tmp_path / "nsff_scripts" / "models")
    return tmp_path / "nsff_scripts"


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_weights_are_looked_for_in_order(scripts):
    assert not has_weights(MIDAS)
    for place in (scripts / "model.pt", scripts / MIDAS, Path(MIDAS).absolute()):  # the last is looked at first
        write(place)
        assert find_weights(MIDAS) == place
        assert has_weights(MIDAS)


def test_every_place_is_named(scripts):
    with pytest.raises(PrepError) as error:
        find_weights(MIDAS)
    places = [Path(MIDAS).absolute(), scripts / MIDAS, scripts / "model.pt"]
    assert str(error.value) == f"no weights at {places[0]} nor {places[1]} nor {places[2]}; run download_models.py"
    with pytest.raises(PrepError, match=rf"{scripts / RAFT}; run"):
        find_weights(RAFT)
    with pytest.raises(PrepError, match=r"no weights at /nowhere/x\.pth; run"):  # one place, named once
        find_weights("/nowhere/x.pth")


def test_inside_the_scripts_no_place_is_named_twice(scripts, monkeypatch):
    scripts.mkdir()
    monkeypatch.chdir(scripts)
    with pytest.raises(PrepError, match=rf"no weights at {scripts / MIDAS} nor {scripts / 'model.pt'}; run"):
        find_weights(MIDAS)


def test_methods_agree_with_the_weights_that_are_found(scripts):
    assert pipeline.sensible(DepthSettings(), FlowSettings())[0].method == "multiview"
    write(scripts / "model.pt")  # as the published instructions have it
    assert pipeline.sensible(DepthSettings(), FlowSettings())[0].method == "midas"
    write(Path(MASK_RCNN))
    assert flows.chosen_semantic("auto", True) == "maskrcnn"
    assert pipeline.sensible(DepthSettings(), FlowSettings())[1].semantic == "maskrcnn"


def test_weights_at_their_published_place_are_not_fetched_again(scripts):
    midas = next(item for item in downloads.DOWNLOADS if item.name == "midas")
    assert downloads.folder_of(midas, scripts / "models") is None
    write(scripts / "model.pt")
    assert downloads.folder_of(midas, scripts / "models") == scripts
    assert downloads.folder_of(midas, scripts / "elsewhere") is None


def test_a_checkpoint_of_training_gives_its_model(tmp_path):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save({"optimizer": optimizer.state_dict(), "model": layer.state_dict()}, tmp_path / "model.pt")
    found = read_weights(tmp_path / "model.pt")
    assert found.keys() == {"weight", "bias"}
    torch.testing.assert_close(found["weight"], layer.weight.detach())
    torch.save({"optimizer": optimizer.state_dict()}, tmp_path / "model.pt")
    with pytest.raises(PrepError, match=r"model\.pt holds no weights"):
        read_weights(tmp_path / "model.pt")
