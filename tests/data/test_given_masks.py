"""Masks, disparities and sizes that the user brings: read alike in every place, refused where they do not fit."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from nsff.data.cameras import load_cameras
from nsff.data.scene import load_scene
from nsff.errors import InputError
from nsff.evaluation.protocols import find_heldout_views
from nsff.images import read_pixels
from nsff.io import read_array
from nsff.prep.user_masks import read_user_masks

LABELS = np.zeros((36, 64), np.uint8)
LABELS[5:15, 5:15], LABELS[5:15, 25:35], LABELS[5:15, 45:55] = 1, 2, 3
CPU = torch.device("cpu")


@pytest.fixture
def config(golden, paper_config, tmp_path):
    shutil.copytree(golden / "scene", tmp_path / "dense")
    return dataclasses.replace(paper_config, datadir=str(tmp_path / "dense"))


@pytest.fixture
def scene(config) -> Path:
    return Path(config.datadir)


def palette(labels):
    image = PIL.Image.fromarray(labels, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 0, 0, 128] + [0] * 756)
    return image


@pytest.mark.parametrize(
    "kind",
    [
        PIL.Image.fromarray,
        palette,
        lambda labels: PIL.Image.fromarray(labels > 0),
        lambda labels: PIL.Image.fromarray(np.where(labels, 235, 16).astype(np.uint8)),
        lambda labels: PIL.Image.fromarray(labels.astype(np.uint16)),
        lambda labels: PIL.Image.fromarray(np.dstack([labels] * 3 + [np.where(labels, 255, 0).astype(np.uint8)])),
    ],
    ids=["labels", "palette", "1 bit", "video black", "16 bit", "alpha"],
)
def test_masks_of_a_kind_move_the_same_pixels_everywhere(config, scene, kind):
    for folder in (scene / "motion_masks", *(scene / "mv_masks").iterdir()):
        for path in folder.iterdir():
            kind(LABELS).save(path)
    np.testing.assert_array_equal(load_scene(config, CPU).motion_masks, [LABELS > 0] * 24)
    np.testing.assert_array_equal(read_user_masks(scene / "motion_masks", 24), [LABELS > 0] * 24)
    view = find_heldout_views(config, load_cameras(config)).complete[0]
    np.testing.assert_array_equal(view.read_moving(), LABELS > 0)


def test_masks_of_the_published_layout_are_unchanged(golden, config):
    masks = load_scene(config, CPU).motion_masks
    for k in range(24):
        published = read_pixels(golden / f"scene/motion_masks/{k:05d}.png")[..., 0] > 0
        np.testing.assert_array_equal(masks[k], published)


def test_held_out_files_of_other_suffixes_are_found(config, scene):
    before = [(view.name, view.read_truth()) for view in find_heldout_views(config, load_cameras(config)).complete[:3]]
    for path in scene.glob("mv_*/*/*"):
        path.rename(path.with_suffix(path.suffix.upper()))
    after = find_heldout_views(config, load_cameras(config)).complete
    for view, (name, truth) in zip(after[:3], before, strict=True):
        assert view.name == name
        np.testing.assert_array_equal(view.read_truth(), truth)


def turn(path: Path) -> None:
    PIL.Image.open(path).transpose(PIL.Image.Transpose.ROTATE_90).save(path)


def exchange_size(scene: Path) -> None:
    rows = np.load(scene / "poses_bounds.npy")
    rows[:, [4, 9]] = rows[:, [9, 4]]
    np.save(scene / "poses_bounds.npy", rows)


def crop_images(scene: Path) -> None:
    for path in (scene / "images").iterdir():
        PIL.Image.open(path).crop((0, 10, 128, 62)).save(path)


def turn_masks(scene: Path) -> None:
    for path in (scene / "motion_masks").iterdir():
        turn(path)


def turn_disparity(scene: Path) -> None:
    for path in (scene / "disp").iterdir():
        np.save(path, np.rot90(np.load(path)).copy())


def turn_frames(scene: Path) -> None:
    for path in (scene / "images_64x36").iterdir():
        turn(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (exchange_size, r"poses_bounds\.npy is 72x128, images/00000\.png is 128x72: .*turned, or width and height"),
        (crop_images, r"poses_bounds\.npy is 128x72, images/00000\.png is 128x52: their aspect ratios differ; run"),
        (turn_masks, r"motion_masks/00000\.png is 36x64, its frame is 64x36: .*; run run_flows_video\.py"),
        (turn_disparity, r"disp/00000\.npy is 36x64, its frame is 64x36: .*; run run_midas\.py"),
        (turn_frames, r"images_64x36/00000\.png is 36x64, poses_bounds\.npy is 128x72: .*; run run_midas\.py"),
    ],
)
def test_size_that_contradicts_the_others_is_refused_with_both_sizes(config, scene, change, message):
    change(scene)
    with pytest.raises(InputError, match=message):
        load_scene(config, CPU)


def test_images_of_another_resolution_are_taken(config, scene, paper_scene):
    for path in (scene / "images").iterdir():
        PIL.Image.open(path).resize((63, 36)).save(path)  # 64 rounded
    for path in (scene / "motion_masks").iterdir():
        PIL.Image.open(path).resize((128, 72), PIL.Image.Resampling.NEAREST).save(path)
    assert torch.equal(load_scene(config, CPU).motion_masks, paper_scene.motion_masks)


@pytest.mark.parametrize(("column", "name"), [(14, "focal length"), (4, "height"), (9, "width")])
@pytest.mark.parametrize(("factor", "outcome"), [(1.02, "taken"), (1.05, "warned"), (1.2, "refused")])
def test_values_that_differ_between_rows(config, scene, caplog, column, name, factor, outcome):
    rows = read_array(scene / "poses_bounds.npy", "")
    least = rows[0, column]
    rows[7, column] *= factor
    np.save(scene / "poses_bounds.npy", rows)
    span = f"{least:.1f} (row 0) to {factor * least:.1f} (row 7), {factor - 1:.0%}"
    if outcome == "refused":
        with pytest.raises(InputError, match=f"poses_bounds.npy: {name} differs") as caught:
            load_cameras(config)
        assert span in str(caught.value)
    else:
        load_cameras(config)
        assert (span in caplog.text) == (outcome == "warned")
