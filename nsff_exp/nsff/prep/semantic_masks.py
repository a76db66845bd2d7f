"""Masks of movable things, found in single frames by Mask R-CNN (He et al. 2017, arXiv:1703.06870)."""

from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from nsff.io import Image, Mask
from nsff.prep.motion_masks import disk
from nsff.prep.network_sizes import NO_LIMITS, Limits, network_size, resize_image
from nsff.prep.weights import MASK_RCNN, find_weights, has_weights, load_state, read_weights

# COCO: person, bicycle, motorcycle, truck, cat, dog, umbrella, snowboard, skateboard; as published
MOVABLE = (1, 2, 4, 8, 17, 18, 28, 36, 41)
MASK_RCNN_LONG_SIDE = 960  # Pixels of the network's input where the user gives no limits; as published.
MIN_SCORE = 0.5  # Detections below it are ignored.
MIN_MASK_PROBABILITY = 0.5  # Pixels of a detection below it lie outside of the thing.
DILATION_RADIUS = 1  # Pixels of the network's input, as published.


class MaskRcnn:
    """Detector of movable things.

    Raises:
        InputError: the file holds no weights, or those of another network.
    """

    def __init__(self, path: Path, device: torch.device, limits: Limits = NO_LIMITS):
        from torchvision.models.detection import maskrcnn_resnet50_fpn  # takes seconds to import

        self.model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        load_state(self.model, read_weights(path), path)
        self.model.eval().to(device)
        self.device, self.limits = device, limits

    @torch.no_grad()
    def __call__(self, image: Image, size: tuple[int, int] | None = None) -> Bool[np.ndarray, "h w"]:
        """Detect the movable things in an image.

        Args:
            image: a frame.
            size: (width, height) of the mask; None = those of the image.

        Returns:
            The mask, dilated at the size of the network's input and then resized (nearest pixel), as published.
        """
        width, height = image.shape[1::-1]
        network_input = resize_image(image, network_size(width, height, self.limits, MASK_RCNN_LONG_SIDE))
        tensor = torch.from_numpy(network_input.astype(np.float32) / 255.0).permute(2, 0, 1).to(self.device)
        movable = dilate(movable_mask(self.model([tensor])[0]).cpu().numpy())
        return cv2.resize(movable.astype(np.uint8), size or (width, height), interpolation=cv2.INTER_NEAREST) > 0


def load_mask_rcnn_if_present(device: torch.device) -> MaskRcnn | None:
    """Load Mask R-CNN; None if its weights are not installed."""
    return MaskRcnn(find_weights(MASK_RCNN), device) if has_weights(MASK_RCNN) else None


def dilate(mask: Mask) -> Mask:
    """Dilate a mask by a disk of radius 1, so that thin things survive resizing.

    Note:
        The published code erodes the background by this disk, which is the same, at the image border too.
    """
    return cv2.dilate(mask.astype(np.uint8), disk(DILATION_RADIUS)) > 0


def movable_mask(detections: dict[str, Tensor]) -> Tensor:
    """Unite the masks (h, w) of all confident detections of movable classes."""
    labels = detections["labels"]
    movable = torch.isin(labels, torch.tensor(MOVABLE, device=labels.device))
    masks = detections["masks"][movable & (detections["scores"] > MIN_SCORE), 0]
    if not len(masks):
        return torch.zeros(detections["masks"].shape[-2:], dtype=torch.bool)
    return (masks > MIN_MASK_PROBABILITY).any(0)
