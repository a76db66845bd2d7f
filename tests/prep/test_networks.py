"""Networks whose weights users bring: Mask R-CNN, and depth by transformers."""

import shutil
import sys
import types

import cv2
import numpy as np
import pytest
import torch
from nsff.errors import InputError
from nsff.images import read_frames
from nsff.io import write_image
from nsff.prep.depth_stage import DepthSettings, make_disparity
from nsff.prep.semantic_masks import MaskRcnn
from nsff.prep.sfm_masks import find_moving
from nsff.scene_folder import SceneFolder
from torchvision.models.detection import maskrcnn_resnet50_fpn

CPU = torch.device("cpu")
PERSON, CAR = 1, 3


def test_mask_rcnn_masks_movable_classes_only(tmp_path):
    torch.manual_seed(0)
    net = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    weights = net.state_dict()
    weights["roi_heads.mask_predictor.mask_fcn_logits.bias"][[PERSON, CAR]] = 20.0  # each mask fills its box
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    fraction = {}
    for label in (PERSON, CAR):
        bias = weights["roi_heads.box_predictor.cls_score.bias"]
        bias.zero_()
        bias[label] = 20.0  # each box has this label
        torch.save(weights, tmp_path / "weights.pth")
        detector = MaskRcnn(tmp_path / "weights.pth", CPU, (32, 32))
        detector.model.transform.min_size = (128,)  # torchvision would enlarge the image to 800 pixels
        mask = detector(image)
        assert mask.shape == (48, 64)
        fraction[label] = mask.mean()
    assert fraction[PERSON] > 0.1
    assert fraction[CAR] == 0.0  # COCO's cars are not among the published classes


def test_find_moving_adds_movable_things(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (27, 48, 3), np.uint8)
    frames = [tmp_path / f"{k}.png" for k in range(3)]
    for path in frames:
        write_image(path, cv2.resize(noise, (480, 270), interpolation=cv2.INTER_CUBIC))  # a static video
    person = np.zeros((270, 480), bool)
    person[100:150, 200:260] = True
    assert not np.any(find_moving(frames, None))
    for mask in find_moving(frames, None, lambda image: person):
        assert mask[person].all()
        assert mask.sum() < 1.3 * person.sum()


class Brightness:
    """Stand-in for an estimator of transformers: disparity is brightness, at half the resolution."""

    def __call__(self, picture):
        grey = torch.from_numpy(np.asarray(picture).mean(axis=-1)).float()
        return {"predicted_depth": torch.nn.functional.avg_pool2d(grey[None], 2)}


@pytest.fixture
def scene(small_scene, tmp_path):
    return SceneFolder(shutil.copytree(small_scene, tmp_path / "scene"))


@pytest.mark.parametrize(("method", "name"), [("dpt", "Intel/dpt-large"), ("depth_anything", "depth-anything/")])
def test_make_disparity_with_transformers(method, name, scene, monkeypatch):
    calls = []

    def pipeline(task: str, model: str, device: torch.device) -> Brightness:
        calls.append((task, model, device))
        return Brightness()

    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(pipeline=pipeline))
    line = make_disparity(scene, DepthSettings(method, height=36), CPU)
    assert line == f"depth: {method} on 12 frames"
    assert len(calls) == 1
    assert calls[0][0] == "depth-estimation"
    assert calls[0][1].startswith(name)
    for index, frame in enumerate(read_frames(scene.list_frames(36))):
        disparity = np.load(scene.disparity(index))
        assert disparity.dtype == np.float32
        assert np.corrcoef(disparity.ravel(), frame.mean(axis=-1).ravel())[0, 1] > 0.98


def test_make_disparity_without_transformers_says_what_to_install(scene, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # import fails
    with pytest.raises(InputError, match="--depth dpt needs transformers; run pip install transformers"):
        make_disparity(scene, DepthSettings("dpt", height=36), CPU)


def test_make_disparity_unloadable_model_is_one_clear_error(scene, monkeypatch):
    def pipeline(*_, **__):
        raise OSError("no config.json")

    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(pipeline=pipeline))
    with pytest.raises(InputError, match=r"/nowhere cannot be loaded \(OSError\); give --depth_model FOLDER"):
        make_disparity(scene, DepthSettings("dpt", "/nowhere", height=36), CPU)
