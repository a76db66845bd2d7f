"""Things that are able to move, found in single frames by Mask R-CNN."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from nsff_prep.folder import Image, Mask
from nsff_prep.weights import MASK_RCNN, fill, find_weights, has_weights, read_weights

# COCO: person, bicycle, motorcycle, truck, cat, dog, umbrella, snowboard, skateboard; as published
MOVABLE = (1, 2, 4, 8, 17, 18, 28, 36, 41)
USUAL_SIZE = 1024, 576  # width, height within which things are looked for
SURE, INSIDE = 0.5, 0.5  # score of a thing, share of a pixel


class MaskRcnn:
    """Where movable things are in a frame."""

    def __init__(self, path: Path, device: torch.device, size: tuple[int, int]):
        from torchvision.models.detection import maskrcnn_resnet50_fpn  # here: seconds, spared where no network runs

        self.model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        fill(self.model, read_weights(path), path)
        self.model.eval().to(device)
        self.device, self.size = device, size

    @torch.no_grad()
    def __call__(self, image: Image) -> Mask:
        """Mask at the size of the image; looked for within `size` (width, height)."""
        scale = min(self.size[0] / image.shape[1], self.size[1] / image.shape[0])
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        tensor = torch.from_numpy(small.astype(np.float32) / 255.0).permute(2, 0, 1).to(self.device)
        moving = union(self.model([tensor])[0]).cpu().numpy().astype(np.uint8)
        return cv2.resize(moving, image.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0


def mask_rcnn_if_there() -> MaskRcnn | None:
    """Load Mask R-CNN, on CUDA where there is one, if its weights are there."""
    if not has_weights(MASK_RCNN):
        return None
    return MaskRcnn(find_weights(MASK_RCNN), torch.device("cuda" if torch.cuda.is_available() else "cpu"), USUAL_SIZE)


def union(found: dict[str, Tensor]) -> Tensor:
    """The union (h, w) of the movable things that the network is sure of."""
    movable = torch.isin(found["labels"], torch.tensor(MOVABLE, device=found["labels"].device))
    masks = found["masks"][movable & (found["scores"] > SURE), 0]
    return (masks > INSIDE).any(0) if len(masks) else torch.zeros(found["masks"].shape[-2:], dtype=torch.bool)
