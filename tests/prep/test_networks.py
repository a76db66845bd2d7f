"""Networks whose weights users bring: Mask R-CNN, and depth through transformers."""

import shutil
import sys
import types

import cv2
import numpy as np
import pytest
import torch
from nsff.errors import InputError
from nsff.io import read_frames, write_image
from nsff.prep.depth_stage import DepthSettings, make_disparity
from nsff.prep.masks import find_moving
from nsff.prep.semantic_masks import MaskRcnn
from nsff.scene_folder import SceneFolder
from torchvision.models.detection import maskrcnn_resnet50_fpn

CPU = torch.device("cpu")
PERSON, CAR = 1, 3


def test_mask_rcnn_sees_what_is_movable(tmp_path):
    torch.manual_seed(0)
    net = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    weights = net.state_dict()
    weights["roi_heads.mask_predictor.mask_fcn_logits.bias"][[PERSON, CAR]] = 20.0  # all of every box
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    covered = {}
    for label in (PERSON, CAR):
        bias = weights["roi_heads.box_predictor.cls_score.bias"]
        bias.zero_()
        bias[label] = 20.0  # every box is this, surely
        torch.save(weights, tmp_path / "weights.pth")
        mask = MaskRcnn(tmp_path / "weights.pth", CPU, (32, 32))(image)
        assert mask.shape == (48, 64)
        covered[label] = mask.mean()
    assert covered[PERSON] > 0.1
    assert covered[CAR] == 0.0  # COCO's cars are not among the published classes


def test_movable_things_are_kept_out_of_the_cameras(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (27, 48, 3), np.uint8)
    frames = [tmp_path / f"{k}.png" for k in range(3)]
    for path in frames:
        write_image(path, cv2.resize(noise, (480, 270), interpolation=cv2.INTER_CUBIC))  # nothing moves
    thing = np.zeros((270, 480), bool)
    thing[100:150, 200:260] = True
    assert not np.any(find_moving(frames, None))
    for mask in find_moving(frames, None, lambda image: thing):
        assert mask[thing].all()
        assert mask.sum() < 1.3 * thing.sum()


class Brightness:
    """Stands for an estimator of transformers: the nearer the brighter, at half the size."""

    def __call__(self, picture):
        grey = torch.from_numpy(np.asarray(picture).mean(axis=-1)).float()
        return {"predicted_depth": torch.nn.functional.avg_pool2d(grey[None], 2)}


@pytest.fixture
def scene(small_scene, tmp_path):
    return SceneFolder(shutil.copytree(small_scene, tmp_path / "scene"))


@pytest.mark.parametrize(("method", "name"), [("dpt", "Intel/dpt-large"), ("depth_anything", "depth-anything/")])
def test_depth_through_transformers(method, name, scene, monkeypatch):
    asked = []

    def pipeline(task: str, model: str, device: torch.device) -> Brightness:
        asked.append((task, model, device))
        return Brightness()

    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(pipeline=pipeline))
    line = make_disparity(scene, DepthSettings(method, height=36), CPU)
    assert line == f"depth: {method} on 12 frames"
    assert len(asked) == 1
    assert asked[0][0] == "depth-estimation"
    assert asked[0][1].startswith(name)
    for index, frame in enumerate(read_frames(scene.list_frames(36))):
        disparity = np.load(scene.disparity(index))
        assert disparity.dtype == np.float32
        assert np.corrcoef(disparity.ravel(), frame.mean(axis=-1).ravel())[0, 1] > 0.98


def test_depth_without_transformers(scene, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # what is not installed
    with pytest.raises(InputError, match="--depth dpt needs transformers; run pip install transformers"):
        make_disparity(scene, DepthSettings("dpt", height=36), CPU)


def test_a_folder_that_transformers_cannot_load(scene, monkeypatch):
    def pipeline(*_, **__):
        raise OSError("no config.json")

    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(pipeline=pipeline))
    with pytest.raises(InputError, match=r"/nowhere cannot be loaded \(OSError\); give --depth_model FOLDER"):
        make_disparity(scene, DepthSettings("dpt", "/nowhere", height=36), CPU)
