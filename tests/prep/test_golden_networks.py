"""RAFT and MiDaS against recorded outputs of the published networks with generated weights (tests/golden/README.md)."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nsff.errors import InputError
from nsff.prep.depth.midas import MidasNet, input_size
from nsff.prep.raft import RaftFlow
from nsff.prep.weights import load_state, read_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def keys(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "nets" / "figures.json").read_text())


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "nets" / "figures.npz") as data:
        return dict(data)


def generated_tensor(key: str, shape: list[int], dtype: str, seed: int) -> torch.Tensor:
    """Generate the tensor of a key by the rule of tests/golden/README.md."""
    if dtype.startswith("int"):
        return torch.zeros(shape, dtype=torch.int64)
    x = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32).randn(*shape)
    if key.endswith("running_var"):
        x = 1 + 0.1 * np.abs(x)
    elif len(shape) >= 2:
        x = x * np.sqrt(2 / np.prod(shape[1:]))
    elif key.endswith("weight"):
        x = 1 + 0.1 * x
    else:
        x = 0.1 * x
    return torch.from_numpy(np.asarray(x, np.float32))


def write_weights(path: Path, keys: dict[str, Any], name: str) -> Path:
    """Write a checkpoint as published: with the prefix `module.` where the list has it, in the legacy format."""
    duplicates = {".norm3.": ".downsample.1.", ".norm4.": ".downsample.1."}
    weights = {}
    for key, (shape, dtype) in keys[name].items():
        source = key
        for norm, original in duplicates.items():
            if norm in key and key.replace(norm, original) in keys[name]:
                source = key.replace(norm, original)
        weights[key] = generated_tensor(source, shape, dtype, keys["seed"])
        if name == "midas_keys" and key.endswith("bn3.weight"):
            weights[key] *= 0.1
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize("name", ["raft_things", "raft_small"])
def test_raft_matches_published_flow(keys, recorded, name, tmp_path):
    raft = RaftFlow(write_weights(tmp_path / "raft.pth", keys, f"{name}_keys"), CPU, n_updates=4)
    images = torch.from_numpy(np.stack([recorded["raft/image1"], recorded["raft/image2"]])) / 127.5 - 1.0
    expected = recorded[f"{name}/flow_4_iters"]
    np.testing.assert_allclose(raft.estimate(images).numpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_midas_matches_published_disparity(keys, recorded, tmp_path):
    path, net = write_weights(tmp_path / "midas.pt", keys, "midas_keys"), MidasNet().eval()
    load_state(net, read_weights(path), path)
    with torch.no_grad():
        disparity = net(torch.from_numpy(recorded["midas/image_normalized"])[None])[0].numpy()
    expected = recorded["midas/disparity"]
    np.testing.assert_allclose(disparity, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_input_size_hand_values():
    assert input_size(1920, 1080, (640, 360)) == (640, 352)  # 360 is 11.25 times 32
    assert input_size(854, 480, (640, 360)) == (640, 352)
    assert input_size(480, 640, (640, 360)) == (256, 352)  # 270 is nearer to 256 than to 288
    assert input_size(100, 10, (64, 64)) == (64, 32)  # no side is 0


@pytest.mark.parametrize(("content", "words"), [(b"no weights", "holds no weights"), (None, "does not fit")])
def test_raft_rejects_wrong_weights(tmp_path, content, words):
    path = tmp_path / "raft.pth"
    if content is None:
        torch.save({"a": torch.zeros(3)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        RaftFlow(path, CPU)
