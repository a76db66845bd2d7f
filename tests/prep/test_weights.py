"""Weights: the places that are looked at, RAFT's small network, mixed precision."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from nsff.cli import Parser
from nsff.errors import InputError, UsageError
from nsff.prep import downloads, flow_stage, pipeline, raft, weights
from nsff.prep.depth_stage import DepthSettings
from nsff.prep.flow import DisFlow
from nsff.prep.flow_stage import FlowSettings
from nsff.prep.options import add_flow, flow_settings
from nsff.prep.raft import HALF_PRECISION_PARTS, RaftFlow, use_mixed_precision
from nsff.prep.weights import MASK_RCNN, MIDAS, RAFT, RAFT_SMALL, find_weights, has_weights, read_weights
from torchvision.models import optical_flow

CPU = torch.device("cpu")


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
    with pytest.raises(InputError) as error:
        find_weights(MIDAS)
    places = [Path(MIDAS).absolute(), scripts / MIDAS, scripts / "model.pt"]
    assert str(error.value) == f"no weights at {places[0]} nor {places[1]} nor {places[2]}; run download_models.py"
    with pytest.raises(InputError, match=rf"{scripts / RAFT}; run"):
        find_weights(RAFT)
    with pytest.raises(InputError, match=r"no weights at /nowhere/x\.pth; run"):  # one place, named once
        find_weights("/nowhere/x.pth")


def test_inside_the_scripts_no_place_is_named_twice(scripts, monkeypatch):
    scripts.mkdir()
    monkeypatch.chdir(scripts)
    with pytest.raises(InputError, match=rf"no weights at {scripts / MIDAS} nor {scripts / 'model.pt'}; run"):
        find_weights(MIDAS)


def test_methods_agree_with_the_weights_that_are_found(scripts):
    assert pipeline.resolve_methods(DepthSettings(), FlowSettings())[0].method == "multiview"
    write(scripts / "model.pt")  # as the published instructions have it
    assert pipeline.resolve_methods(DepthSettings(), FlowSettings())[0].method == "midas"
    write(Path(MASK_RCNN))
    assert flow_stage.resolve_semantic("auto", True) == "maskrcnn"
    assert pipeline.resolve_methods(DepthSettings(), FlowSettings())[1].semantic == "maskrcnn"


def test_weights_at_their_published_place_are_not_fetched_again(scripts):
    midas = next(item for item in downloads.DOWNLOADS if item.name == "midas")
    assert downloads.installed_folder(midas, scripts / "models") is None
    write(scripts / "model.pt")
    assert downloads.installed_folder(midas, scripts / "models") == scripts
    assert downloads.installed_folder(midas, scripts / "elsewhere") is None


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
    with pytest.raises(InputError, match=r"model\.pt holds no weights"):
        read_weights(tmp_path / "model.pt")


# RAFT


@pytest.fixture(scope="module")
def raft_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights of both networks, under torchvision's names."""
    folder = tmp_path_factory.mktemp("raft")
    files = {"small": folder / "small.pth", "large": folder / "large.pth"}
    torch.manual_seed(0)
    torch.save(optical_flow.raft_small(weights=None).state_dict(), files["small"])
    torch.save(optical_flow.raft_large(weights=None).state_dict(), files["large"])
    return files


def settings_of(*words: str) -> FlowSettings:
    parser = Parser(None)
    add_flow(parser)
    return flow_settings(parser.parse_args(words), None)


def test_small_takes_the_small_network(raft_files):
    small = RaftFlow(raft_files["small"], CPU, small=True)
    assert small.model.mask_predictor is None
    assert RaftFlow(raft_files["small"], CPU).model.mask_predictor is None  # the file says which it is
    with pytest.raises(InputError, match=r"large\.pth holds weights of RAFT's large network; leave --small out"):
        RaftFlow(raft_files["large"], CPU, small=True)


def test_weights_of_the_small_network(scripts):
    with pytest.raises(InputError, match=r"models/raft-small\.pth; run download_models\.py --only raft_small"):
        pipeline.resolve_methods(DepthSettings(), settings_of("--small"))  # asked for: not replaced by DIS
    write(scripts / RAFT_SMALL)
    assert flow_stage.find_raft(settings_of("--small")) == scripts / RAFT_SMALL
    assert pipeline.resolve_methods(DepthSettings(), settings_of("--small"))[1].method == "raft"
    assert (
        flow_stage.find_raft(settings_of("--small", "--model", str(write(Path("my.pth"))))) == Path("my.pth").absolute()
    )
    assert [item.file for item in downloads.select_downloads("raft_small")] == [Path(RAFT_SMALL).name]
    assert "raft_small" not in {item.name for item in downloads.select_downloads(None)}


def test_options_reach_raft(scripts, monkeypatch):
    asked = []

    def network(*given):
        asked.append(given)
        return DisFlow()

    monkeypatch.setattr(flow_stage, "RaftFlow", network)
    for name in (RAFT, RAFT_SMALL):
        write(scripts / name)
    for words in ([], ["--small"], ["--mixed_precision"]):
        flow_stage._load_flow_method(settings_of(*words), CPU)
    large, small = scripts / RAFT, scripts / RAFT_SMALL
    assert asked == [(large, CPU, False, False), (small, CPU, True, False), (large, CPU, False, True)]


@pytest.mark.parametrize("option", ["--small", "--mixed_precision"])
def test_options_of_raft_without_raft(option):
    with pytest.raises(UsageError, match="options of RAFT: not with --flow dis"):
        settings_of("--flow", "dis", option)


def images() -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(0).integers(0, 256, (2, 128, 136, 3), np.uint8)
    return noise[0], noise[1]


def test_mixed_precision_has_no_effect_on_a_cpu(raft_files, caplog):
    plain = RaftFlow(raft_files["small"], CPU, n_updates=2)
    assert caplog.records == []
    mixed = RaftFlow(raft_files["small"], CPU, mixed_precision=True, n_updates=2)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "--mixed_precision has no effect on a CPU: flow is computed in float32")
    ]
    np.testing.assert_array_equal(mixed(*images()), plain(*images()))


@pytest.mark.parametrize("name", ["small", "large"])
def test_mixed_precision_computes_in_float16(raft_files, name):
    """The parts that CUDA would run, here under the CPU's autocast: float16 inside, float32 correlation and flow."""
    flow = RaftFlow(raft_files[name], CPU, n_updates=3)
    expected = flow(*images())
    use_mixed_precision(flow.model, "cpu")
    seen = {}
    layers = {"features": "feature_encoder.conv", "context": "context_encoder.conv", "update": "update_block.flow_head"}
    for part, layer in layers.items():
        flow.model.get_submodule(layer).register_forward_hook(
            lambda layer, given, result, part=part: seen.update({part: result.dtype})
        )
    flow.model.feature_encoder.register_forward_hook(lambda part, given, maps: seen.update(correlated=maps.dtype))
    mixed = flow(*images())
    assert seen == dict.fromkeys(layers, torch.float16) | {"correlated": torch.float32}
    assert all(volume.dtype == torch.float32 for volume in flow.model.corr_block.corr_pyramid)
    assert mixed.dtype == np.float32
    assert np.any(mixed != expected)
    np.testing.assert_allclose(mixed, expected, rtol=0, atol=0.01 * np.abs(expected).max())


def test_mixed_precision_is_for_cuda(raft_files, monkeypatch):
    """On a GPU each part of the network is run under CUDA's autocast."""
    entered = []

    def autocast(device_type: str, dtype: torch.dtype):
        entered.append((device_type, dtype))
        return lambda forward: forward

    monkeypatch.setattr(raft.torch, "autocast", autocast)
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: module)  # there need not be a GPU
    RaftFlow(raft_files["large"], torch.device("cuda"), mixed_precision=True)
    assert entered == [("cuda", torch.float16)] * len(HALF_PRECISION_PARTS)
    entered.clear()
    RaftFlow(raft_files["large"], torch.device("cuda"))
    assert entered == []
