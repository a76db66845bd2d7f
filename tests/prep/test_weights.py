"""Weights: where they are looked for, RAFT's small network, mixed precision."""

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
    """A folder in the place of nsff_scripts; the current folder becomes an empty one."""
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    monkeypatch.setattr(weights, "MODELS", tmp_path / "nsff_scripts" / "models")
    monkeypatch.setattr(downloads, "MODELS", tmp_path / "nsff_scripts" / "models")
    return tmp_path / "nsff_scripts"


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_find_weights_order_of_places(scripts):
    assert not has_weights(MIDAS)
    for place in (scripts / "model.pt", scripts / MIDAS, Path(MIDAS).absolute()):  # in ascending priority
        touch(place)
        assert find_weights(MIDAS) == place
        assert has_weights(MIDAS)


def test_find_weights_error_names_every_place(scripts):
    with pytest.raises(InputError) as error:
        find_weights(MIDAS)
    places = [Path(MIDAS).absolute(), scripts / MIDAS, scripts / "model.pt"]
    assert str(error.value) == f"no weights at {places[0]} nor {places[1]} nor {places[2]}; run download_models.py"
    with pytest.raises(InputError, match=rf"{scripts / RAFT}; run"):
        find_weights(RAFT)
    with pytest.raises(InputError, match=r"no weights at /nowhere/x\.pth; run"):  # a single place
        find_weights("/nowhere/x.pth")


def test_find_weights_in_scripts_folder_names_no_place_twice(scripts, monkeypatch):
    scripts.mkdir()
    monkeypatch.chdir(scripts)
    with pytest.raises(InputError, match=rf"no weights at {scripts / MIDAS} nor {scripts / 'model.pt'}; run"):
        find_weights(MIDAS)


def test_resolve_methods_uses_installed_weights(scripts):
    assert pipeline.resolve_methods(DepthSettings(), FlowSettings())[0].method == "multiview"
    touch(scripts / "model.pt")  # published place
    assert pipeline.resolve_methods(DepthSettings(), FlowSettings())[0].method == "midas"
    touch(Path(MASK_RCNN))
    assert flow_stage.resolve_semantic("auto", True) == "maskrcnn"
    assert pipeline.resolve_methods(DepthSettings(), FlowSettings())[1].semantic == "maskrcnn"


def test_installed_folder_finds_published_place(scripts):
    midas = next(item for item in downloads.DOWNLOADS if item.name == "midas")
    assert downloads.installed_folder(midas, scripts / "models") is None
    touch(scripts / "model.pt")
    assert downloads.installed_folder(midas, scripts / "models") == scripts
    assert downloads.installed_folder(midas, scripts / "elsewhere") is None


def test_read_weights_of_training_checkpoint_gives_model(tmp_path):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save({"optimizer": optimizer.state_dict(), "model": layer.state_dict()}, tmp_path / "model.pt")
    loaded = read_weights(tmp_path / "model.pt")
    assert loaded.keys() == {"weight", "bias"}
    torch.testing.assert_close(loaded["weight"], layer.weight.detach())
    torch.save({"optimizer": optimizer.state_dict()}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model\.pt holds no weights"):
        read_weights(tmp_path / "model.pt")


@pytest.fixture(scope="module")
def raft_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights of both networks, under torchvision's names."""
    folder = tmp_path_factory.mktemp("raft")
    files = {"small": folder / "small.pth", "large": folder / "large.pth"}
    torch.manual_seed(0)
    torch.save(optical_flow.raft_small(weights=None).state_dict(), files["small"])
    torch.save(optical_flow.raft_large(weights=None).state_dict(), files["large"])
    return files


def parse_settings(*arguments: str) -> FlowSettings:
    parser = Parser(None)
    add_flow(parser)
    return flow_settings(parser.parse_args(arguments), None)


def test_raft_flow_small_refuses_large_weights(raft_files):
    small = RaftFlow(raft_files["small"], CPU, small=True)
    assert small.model.mask_predictor is None
    assert RaftFlow(raft_files["small"], CPU).model.mask_predictor is None  # decided by the file
    with pytest.raises(InputError, match=r"large\.pth holds weights of RAFT's large network; leave --small out"):
        RaftFlow(raft_files["large"], CPU, small=True)


def test_small_finds_and_requires_small_weights(scripts):
    with pytest.raises(InputError, match=r"models/raft-small\.pth; run download_models\.py --only raft_small"):
        pipeline.resolve_methods(DepthSettings(), parse_settings("--small"))  # explicit, so not replaced by DIS
    touch(scripts / RAFT_SMALL)
    assert flow_stage.find_raft(parse_settings("--small")) == scripts / RAFT_SMALL
    assert pipeline.resolve_methods(DepthSettings(), parse_settings("--small"))[1].method == "raft"
    assert (
        flow_stage.find_raft(parse_settings("--small", "--model", str(touch(Path("my.pth")))))
        == Path("my.pth").absolute()
    )
    assert [item.file for item in downloads.select_downloads("raft_small")] == [Path(RAFT_SMALL).name]
    assert "raft_small" not in {item.name for item in downloads.select_downloads(None)}


def test_flow_options_reach_raft_flow(scripts, monkeypatch):
    calls = []

    def construct(*arguments):
        calls.append(arguments)
        return DisFlow()

    monkeypatch.setattr(flow_stage, "RaftFlow", construct)
    for name in (RAFT, RAFT_SMALL):
        touch(scripts / name)
    for arguments in ([], ["--small"], ["--mixed_precision"]):
        flow_stage._load_flow_method(parse_settings(*arguments), CPU)
    large, small = scripts / RAFT, scripts / RAFT_SMALL
    assert calls == [(large, CPU, False, False), (small, CPU, True, False), (large, CPU, False, True)]


@pytest.mark.parametrize("option", ["--small", "--mixed_precision"])
def test_raft_options_with_dis_are_refused(option):
    with pytest.raises(UsageError, match="options of RAFT: not with --flow dis"):
        parse_settings("--flow", "dis", option)


def images() -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(0).integers(0, 256, (2, 128, 136, 3), np.uint8)
    return noise[0], noise[1]


def test_mixed_precision_on_cpu_warns_and_has_no_effect(raft_files, caplog):
    plain = RaftFlow(raft_files["small"], CPU, n_updates=2)
    assert caplog.records == []
    mixed = RaftFlow(raft_files["small"], CPU, mixed_precision=True, n_updates=2)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "--mixed_precision has no effect on a CPU: flow is computed in float32")
    ]
    np.testing.assert_array_equal(mixed(*images()), plain(*images()))


@pytest.mark.parametrize("name", ["small", "large"])
def test_mixed_precision_runs_convolutions_in_float16(raft_files, name):
    """Under the CPU's autocast in place of CUDA's: convolutions in float16, correlation and flow in float32."""
    flow = RaftFlow(raft_files[name], CPU, n_updates=3)
    expected = flow(*images())
    use_mixed_precision(flow.model, "cpu")
    dtypes = {}
    layers = {"features": "feature_encoder.conv", "context": "context_encoder.conv", "update": "update_block.flow_head"}
    for part, layer in layers.items():
        flow.model.get_submodule(layer).register_forward_hook(
            lambda layer, inputs, result, part=part: dtypes.update({part: result.dtype})
        )
    flow.model.feature_encoder.register_forward_hook(lambda part, inputs, maps: dtypes.update(correlated=maps.dtype))
    mixed = flow(*images())
    assert dtypes == dict.fromkeys(layers, torch.float16) | {"correlated": torch.float32}
    assert all(volume.dtype == torch.float32 for volume in flow.model.corr_block.corr_pyramid)
    assert mixed.dtype == np.float32
    assert np.any(mixed != expected)
    np.testing.assert_allclose(mixed, expected, rtol=0, atol=0.01 * np.abs(expected).max())


def test_mixed_precision_on_cuda_wraps_each_part_in_autocast(raft_files, monkeypatch):
    """Checked without a GPU: autocast and the transfer of the network are replaced."""
    contexts = []

    def autocast(device_type: str, dtype: torch.dtype):
        contexts.append((device_type, dtype))
        return lambda forward: forward

    monkeypatch.setattr(raft.torch, "autocast", autocast)
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: module)
    RaftFlow(raft_files["large"], torch.device("cuda"), mixed_precision=True)
    assert contexts == [("cuda", torch.float16)] * len(HALF_PRECISION_PARTS)
    contexts.clear()
    RaftFlow(raft_files["large"], torch.device("cuda"))
    assert contexts == []
