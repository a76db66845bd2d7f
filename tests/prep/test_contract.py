"""What the preparation scripts write, training reads: the two packages share files and no code."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from nsff.config_loader import load_config
from nsff.data.scene import load_scene
from nsff.demo.scene import DemoSettings, write_demo_scene
from nsff.errors import InputError
from nsff.prep.depth_stage import DepthSettings, make_disparity
from nsff.prep.flow_stage import FlowSettings, make_flows
from nsff.scene_folder import SceneFolder

CPU = torch.device("cpu")
N_FRAMES, SIZE = 6, (128, 72)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A scene with true priors, and the same with those that the scripts make of its frames and poses."""
    folder = tmp_path_factory.mktemp("contract")
    truth, made = folder / "truth", folder / "made"
    write_demo_scene(truth, DemoSettings(*SIZE, n_frames=N_FRAMES))
    shutil.copytree(truth / "images", made / "images")
    shutil.copy(truth / "poses_bounds.npy", made)
    make_disparity(SceneFolder(made), DepthSettings(method="multiview", height=SIZE[1]), CPU)
    make_flows(SceneFolder(made), FlowSettings(method="dis", flow_width=256, semantic="none"), CPU)
    return truth, made


def scene_of(folder: Path):
    config = load_config(
        ["--expname", "x", "--use_viewdirs", "--end_frame", str(N_FRAMES), "--final_height", str(SIZE[1])]
    )
    return load_scene(dataclasses.replace(config, datadir=str(folder)), CPU)


def test_training_reads_what_was_prepared(prepared):
    truth, made = (scene_of(folder) for folder in prepared)
    assert made.intrinsics == truth.intrinsics
    torch.testing.assert_close(made.c2w, truth.c2w)
    assert float((made.images - truth.images).abs().mean()) < 0.01
    assert made.flow_fwd_mask[:-1].float().mean() > 0.5
    assert bool((made.disparity > 0).all())


def test_flow_and_masks_are_near_the_truth(prepared):
    truth, made = (scene_of(folder) for folder in prepared)
    agree = made.flow_fwd_mask & truth.flow_fwd_mask
    error = (made.flow_fwd - truth.flow_fwd).norm(dim=-1)[agree]
    assert float(error.median()) < 0.3
    overlap = (made.motion_masks & truth.motion_masks).sum() / (made.motion_masks | truth.motion_masks).sum()
    assert float(overlap) > 0.3


def test_depth_is_near_the_truth_where_nothing_moves(prepared):
    """Not only up to scale: disparity is the inverse depth in the units of the cameras."""
    truth, made = (scene_of(folder) for folder in prepared)
    still = ~truth.motion_masks
    error = (made.disparity[still] / truth.disparity[still] - 1.0).abs()
    assert float(error.median()) < 0.05


def test_frames_that_went_missing_are_named(prepared, tmp_path):
    shutil.copytree(prepared[1], tmp_path / "scene")
    (tmp_path / "scene" / "images" / "00003.png").unlink()
    with pytest.raises(InputError, match=r"has 6 frames, .*images has 5; run run_midas.py"):
        make_flows(SceneFolder(tmp_path / "scene"), FlowSettings(method="dis"), CPU)
