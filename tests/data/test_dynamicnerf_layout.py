"""Folders in the layout of DynamicNeRF are read as they are."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from nsff.data.scene import load_scene
from nsff.errors import InputError
from nsff.scene_folder import SceneFolder

CPU = torch.device("cpu")


@pytest.fixture
def config(golden, paper_config, tmp_path):
    """The golden scene as `images_2/000.png`, `flow/000_fwd.npz`, `disp/000.npy`, `motion_masks/000.png`."""
    root, folders = tmp_path / "Balloon1", {"images_64x36": "images_2", "flow_i1": "flow"}
    for name in ("images", "images_64x36", "flow_i1", "disp", "motion_masks"):
        target = root / folders.get(name, name)
        target.mkdir(parents=True)
        for path in (golden / "scene" / name).iterdir():
            shutil.copy(path, target / path.name.removeprefix("00"))
    shutil.copy(golden / "scene" / "poses_bounds.npy", root)
    return dataclasses.replace(paper_config, datadir=str(root))


def test_scene_in_the_layout_of_dynamicnerf_is_the_same(config, paper_scene):
    assert (Path(config.datadir) / "flow" / "000_fwd.npz").is_file()
    scene = load_scene(config, CPU)
    for field in dataclasses.fields(scene):
        if isinstance(value := getattr(scene, field.name), torch.Tensor):
            assert torch.equal(value, getattr(paper_scene, field.name)), field.name


def test_reduced_images_of_another_height_are_not_taken(config):
    root = Path(config.datadir)
    (root / "images_2").rename(root / "images_4")
    shutil.copytree(root / "images", root / "images_2")
    assert SceneFolder(root).frames_folder(36).name == "images_4"
    with pytest.raises(InputError, match=r"found: images_2, images_4\); give --final_height"):
        SceneFolder(root).frames_folder(48)
    with pytest.raises(InputError, match="has 2 folders"):
        SceneFolder(root).frames_folder()


def test_missing_flow_is_named_as_usual(config):
    (Path(config.datadir) / "flow" / "004_bwd.npz").unlink()
    with pytest.raises(InputError, match=r"flow_i1/00004_bwd\.npz is missing; run run_flows_video\.py"):
        load_scene(config, CPU)
