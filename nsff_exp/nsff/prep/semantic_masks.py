"""Things that are able to move, found in single frames by Mask R-CNN."""

from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from nsff.io import Image, Mask
from nsff.prep.motion_masks import disk
from nsff.prep.network_sizes import NO_LIMITS, Limits, network_size, resize_image
from nsff.prep.weights import MASK_RCNN, fill, find_weights, has_weights, read_weights

# COCO: person, bicycle, motorcycle, truck, cat, dog, umbrella, snowboard, skateboard; as published
MOVABLE = (1, 2, 4, 8, 17, 18, 28, 36, 41)
LONG_SIDE = 960  # pixels of the network's input, where the user gives no limits; as published
SURE, INSIDE = 0.5, 0.5  # score of a thing, share of a pixel
GROW_RADIUS = 1  # pixels of the network's input, as published


class MaskRcnn:
    """Finds movable things in frames."""

    def __init__(self, path: Path, device: torch.device, limits: Limits = NO_LIMITS):
        from torchvision.models.detection import maskrcnn_resnet50_fpn  # here: seconds, spared where no network runs

        self.model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        fill(self.model, read_weights(path), path)
        self.model.eval().to(device)
        self.device, self.limits = device, limits

    @torch.no_grad()
    def __call__(self, image: Image, size: tuple[int, int] | None = None) -> Bool[np.ndarray, "h w"]:
        """Find the movable things of an image.

        Args:
            image: a frame.
            size: width and height of the mask; None = those of the image.

        Returns:
            The mask, grown at the size of the network's input, then resized (nearest pixel), as published.
        """
        width, height = image.shape[1::-1]
        seen = resize_image(image, network_size(width, height, self.limits, LONG_SIDE))
        tensor = torch.from_numpy(seen.astype(np.float32) / 255.0).permute(2, 0, 1).to(self.device)
        movable = grow(union(self.model([tensor])[0]).cpu().numpy())
        return cv2.resize(movable.astype(np.uint8), size or (width, height), interpolation=cv2.INTER_NEAREST) > 0


def mask_rcnn_if_there() -> MaskRcnn | None:
    """Load Mask R-CNN, on CUDA where there is one, if its weights are there."""
    if not has_weights(MASK_RCNN):
        return None
    return MaskRcnn(find_weights(MASK_RCNN), torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def grow(mask: Mask) -> Mask:
    """Grow things by a disk of radius 1; a thin one grows as well, and is not lost.

    Note:
        The published code erodes the background by this disk, which is the same, at the image border too.
    """
    return cv2.dilate(mask.astype(np.uint8), disk(GROW_RADIUS)) > 0


def union(found: dict[str, Tensor]) -> Tensor:
    """The union (h, w) of the movable things that the network is sure of."""
    movable = torch.isin(found["labels"], torch.tensor(MOVABLE, device=found["labels"].device))
    masks = found["masks"][movable & (found["scores"] > SURE), 0]
    return (masks > INSIDE).any(0) if len(masks) else torch.zeros(found["masks"].shape[-2:], dtype=torch.bool)
