"""Things that are able to move, found in single frames: Mask R-CNN, or masks of the user's own."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection import maskrcnn_resnet50_fpn

from nsff_prep.folder import Image, Mask, list_images, read_image
from nsff_prep.script import PrepError
from nsff_prep.weights import fill, read_weights

WEIGHTS = "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
# COCO: person, bicycle, motorcycle, truck, cat, dog, umbrella, snowboard, skateboard; as published
MOVABLE = (1, 2, 4, 8, 17, 18, 28, 36, 41)
SURE, INSIDE = 0.5, 0.5  # score of a thing, share of a pixel
WHITE = 127  # of 255: above, a pixel of the user's mask counts as moving


class MaskRcnn:
    """Where movable things are in a frame."""

    def __init__(self, path: Path, device: torch.device, size: tuple[int, int]):
        self.model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        fill(self.model, read_weights(path), path)
        self.model.eval().to(device)
        self.device, self.size = device, size

    @torch.no_grad()
    def __call__(self, image: Image) -> Mask:
        """Mask at the size of the image; looked for at `size`."""
        small = cv2.resize(image, self.size, interpolation=cv2.INTER_AREA)
        tensor = torch.from_numpy(small.astype(np.float32) / 255.0).permute(2, 0, 1).to(self.device)
        moving = union(self.model([tensor])[0]).cpu().numpy().astype(np.uint8)
        return cv2.resize(moving, image.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0


def union(found: dict[str, Tensor]) -> Tensor:
    """The union (h, w) of the movable things that the network is sure of."""
    movable = torch.isin(found["labels"], torch.tensor(MOVABLE, device=found["labels"].device))
    masks = found["masks"][movable & (found["scores"] > SURE), 0]
    return (masks > INSIDE).any(0) if len(masks) else torch.zeros(found["masks"].shape[-2:], dtype=torch.bool)


class OwnMasks:
    """Masks from a folder, one an image, in the same order; white = moving."""

    def __init__(self, folder: Path, n_frames: int):
        self.paths = list_images(folder, "give --semantic DIR with a mask for each frame")
        if len(self.paths) != n_frames:
            raise PrepError(f"{folder} has {len(self.paths)} masks for {n_frames} frames; give one for each")

    def of(self, index: int, size: tuple[int, int]) -> Mask:
        """Mask of a frame at a size (width, height)."""
        return cv2.resize(read_image(self.paths[index])[..., 0], size, interpolation=cv2.INTER_NEAREST) > WHITE
