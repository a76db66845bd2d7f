"""The preparation and training meet in files: prepared scenes load, and their priors are near the truth."""

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
    """A scene with true priors, and the same scene with priors estimated from its frames and poses."""
    folder = tmp_path_factory.mktemp("contract")
    truth, estimated = folder / "truth", folder / "estimated"
    write_demo_scene(truth, DemoSettings(*SIZE, n_frames=N_FRAMES))
    shutil.copytree(truth / "images", estimated / "images")
    shutil.copy(truth / "poses_bounds.npy", estimated)
    make_disparity(SceneFolder(estimated), DepthSettings(method="multiview", height=SIZE[1]), CPU)
    make_flows(SceneFolder(estimated), FlowSettings(method="dis", flow_width=256, semantic="none"), CPU)
    return truth, estimated


def load_prepared(folder: Path):
    config = load_config(
        ["--expname", "x", "--use_viewdirs", "--end_frame", str(N_FRAMES), "--final_height", str(SIZE[1])]
    )
    return load_scene(dataclasses.replace(config, datadir=str(folder)), CPU)


def test_load_scene_reads_prepared_files(prepared):
    truth, estimated = (load_prepared(folder) for folder in prepared)
    assert estimated.intrinsics == truth.intrinsics
    torch.testing.assert_close(estimated.c2w, truth.c2w)
    assert float((estimated.images / 255.0 - truth.images / 255.0).abs().mean()) < 0.01
    assert estimated.flow_fwd_mask[:-1].float().mean() > 0.5
    assert bool((estimated.disparity > 0).all())


def test_dis_flow_and_epipolar_masks_are_near_truth(prepared):
    truth, estimated = (load_prepared(folder) for folder in prepared)
    agree = estimated.flow_fwd_mask & truth.flow_fwd_mask
    error = (estimated.flow_fwd - truth.flow_fwd).norm(dim=-1)[agree]
    assert float(error.median()) < 0.3
    overlap = (estimated.motion_masks & truth.motion_masks).sum() / (estimated.motion_masks | truth.motion_masks).sum()
    assert float(overlap) > 0.3


def test_multiview_depth_of_static_pixels_is_near_truth(prepared):
    """Disparity is inverse depth in the units of the cameras, not only up to scale."""
    truth, estimated = (load_prepared(folder) for folder in prepared)
    static = ~truth.motion_masks
    error = (estimated.disparity[static] / truth.disparity[static] - 1.0).abs()
    assert float(error.median()) < 0.05


def test_make_flows_missing_frame_is_reported(prepared, tmp_path):
    shutil.copytree(prepared[1], tmp_path / "scene")
    (tmp_path / "scene" / "images" / "00003.png").unlink()
    with pytest.raises(InputError, match=r"has 6 frames, .*images has 5; run run_midas.py"):
        make_flows(SceneFolder(tmp_path / "scene"), FlowSettings(method="dis"), CPU)
