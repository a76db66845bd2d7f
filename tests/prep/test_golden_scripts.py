"""Recorded results of the published scripts on a small scene: cameras, flow consistency, epipolar distances, masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from nsff.images import read_image
from nsff.io import write_image
from nsff.prep.flow import consistent, resize_flow
from nsff.prep.motion_masks import epipolar_distance, epipolar_mask, fundamental, motion_mask
from nsff.prep.poses_bounds import read_model, save_poses
from nsff.scene_folder import SceneFolder

N_FRAMES = 6


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "scripts" / "figures.npz") as data:
        return dict(data)


@pytest.fixture
def scene(golden: Path, tmp_path: Path) -> SceneFolder:
    for name in ("images", "sparse", "flow_i1", "images_96x54"):
        (tmp_path / name).symlink_to(golden / "scripts" / "dense" / name)
    return SceneFolder(tmp_path)


def test_save_poses_matches_published_files(scene, golden):
    save_poses(scene)
    expected = golden / "scripts" / "expected"
    np.testing.assert_allclose(np.load(scene.poses_bounds), np.load(expected / "poses_bounds.npy"), rtol=0, atol=1e-9)
    result, published = (json.loads((folder / "scene.json").read_text()) for folder in (scene.root, expected))
    assert result.keys() == published.keys() | {"cameras"}
    assert result["cameras"]["space"] == "ndc"
    for name, value in published.items():
        np.testing.assert_allclose(result[name], value, rtol=0, atol=1e-9)


def test_resize_flow_matches_published(recorded):
    resized = resize_flow(recorded["resize/flow"], (80, 30))
    np.testing.assert_allclose(resized, recorded["resize/flow_30x80"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("frame", range(N_FRAMES - 1))
def test_consistent_matches_published(recorded, frame):
    fwd, bwd = recorded[f"flow/{frame:05d}_fwd"], recorded[f"flow/{frame + 1:05d}_bwd"]
    np.testing.assert_array_equal(consistent(fwd, bwd), recorded[f"mask/{frame:05d}_fwd"])
    np.testing.assert_array_equal(consistent(bwd, fwd), recorded[f"mask/{frame + 1:05d}_bwd"])


def distance(recorded, frame: int, step: int) -> np.ndarray:
    first, second = (recorded["w2c"][k][:3] for k in (frame, frame + step))
    flow = recorded[f"flow/{frame:05d}_{'fwd' if step > 0 else 'bwd'}"]
    return epipolar_distance(flow, fundamental(first, second, recorded["K"]))


@pytest.mark.parametrize("frame", range(N_FRAMES - 1))
def test_epipolar_distance_matches_published(recorded, frame):
    np.testing.assert_allclose(distance(recorded, frame, 1), recorded[f"epipolar/{frame:05d}_fwd"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("frame", range(N_FRAMES))
def test_motion_mask_matches_published(recorded, golden, frame, tmp_path):
    steps = [step for step in (1, -1) if 0 <= frame + step < N_FRAMES]
    masks = [recorded[f"mask/{frame:05d}_{'fwd' if step > 0 else 'bwd'}"] for step in steps]
    moving = motion_mask(epipolar_mask([distance(recorded, frame, step) for step in steps], masks, 1.0))
    write_image(tmp_path / "mask.png", moving.astype(np.uint8) * 255)
    expected = golden / "scripts" / "expected" / "motion_masks" / f"{frame:05d}.png"
    np.testing.assert_array_equal(read_image(tmp_path / "mask.png"), read_image(expected))


def test_read_model_gives_names_size_and_camera(scene):
    model = read_model(scene)
    assert model.names == [f"{k:05d}.png" for k in range(N_FRAMES)]
    assert (model.size, model.focal, model.principal_point) == ((192, 108), (170.0, 170.0), (96.0, 54.0))
