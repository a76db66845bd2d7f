"""MiDaS v2 and v2.1 (Ranftl et al. 2020, arXiv:1907.01341): disparity of a single image, up to scale and shift."""

import math
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nsff.io import Image
from nsff.prep.network_sizes import NO_LIMITS, Limits, long_side_size
from nsff.prep.weights import load_state, read_weights

MIDAS_LONG_SIDE = 640  # Pixels of the network's input where the user gives no limits; as published.
STRIDE = 32  # The sides of the network's input must be divisible by this.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHANNELS = 256  # Width of the decoder.


class _Residual(nn.Module):
    """Residual block of two convolutions.

    Note:
        The published ReLU works in place, so that the skip connection carries relu(x), not x. The weights were trained
        with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.conv2(F.relu(self.conv1(x))) + x


class _Fusion(nn.Module):
    """Adds features of the encoder to those of the coarser level, and doubles the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.resConfUnit1, self.resConfUnit2 = _Residual(), _Residual()

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        return F.interpolate(self.resConfUnit2(x), scale_factor=2, mode="bilinear", align_corners=True)


class MidasNet(nn.Module):
    """ResNeXt-101 encoder and RefineNet decoder; parameters are named as in the published files."""

    def __init__(self) -> None:
        from torchvision.models import resnext101_32x8d  # takes seconds to import

        super().__init__()
        net = resnext101_32x8d(weights=None)
        stem = (net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
        self.pretrained = nn.ModuleDict(
            {"layer1": nn.Sequential(*stem), "layer2": net.layer2, "layer3": net.layer3, "layer4": net.layer4}
        )
        self.scratch = nn.ModuleDict(
            {f"layer{k}_rn": nn.Conv2d(CHANNELS << (k - 1), CHANNELS, 3, padding=1, bias=False) for k in (1, 2, 3, 4)}
            | {f"refinenet{k}": _Fusion() for k in (4, 3, 2, 1)}
        )
        self.scratch["output_conv"] = nn.Sequential(
            nn.Conv2d(CHANNELS, 128, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(128, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
            nn.ReLU(),
        )

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
        """Predict the disparity of normalised images whose sides are divisible by 32."""
        features, x = [], image
        for k in (1, 2, 3, 4):
            x = self.pretrained[f"layer{k}"](x)
            features.append(self.scratch[f"layer{k}_rn"](x))
        x = self.scratch["refinenet4"](features[3])
        for k in (3, 2, 1):
            x = self.scratch[f"refinenet{k}"](x, features[k - 1])
        return self.scratch["output_conv"](x)[:, 0]


def input_size(width: int, height: int, limits: Limits) -> tuple[int, int]:
    """Largest (width, height) within the limits, near the aspect ratio of the image, with sides divisible by 32.

    Args:
        width: width of the image.
        height: height of the image.
        limits: largest width and height; without any, those of the image scaled to a longer side of 640 pixels.
    """
    if limits == NO_LIMITS:
        limits = long_side_size(width, height, MIDAS_LONG_SIDE)
    max_width, max_height = (math.inf if limit is None else limit for limit in limits)
    scale = min(max_width / width, max_height / height)

    def fit(side: int, limit: float) -> int:
        rounded = round(scale * side / STRIDE) * STRIDE
        return max(STRIDE, rounded if rounded <= limit else int(limit // STRIDE) * STRIDE)

    return fit(width, max_width), fit(height, max_height)


class MidasDepth:
    """Estimator of the disparity of single frames (larger = nearer), up to scale and shift."""

    def __init__(self, path: Path, device: torch.device, limits: Limits = NO_LIMITS):
        self.model, self.device, self.limits = MidasNet().eval(), device, limits
        load_state(self.model, read_weights(path), path)
        self.model.to(device)

    @torch.no_grad()
    def __call__(self, image: Image) -> Float[np.ndarray, "H W"]:
        height, width = image.shape[:2]
        small = cv2.resize(image / 255.0, input_size(width, height, self.limits), interpolation=cv2.INTER_AREA)
        normalised = ((small - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32).transpose(2, 0, 1)
        disparity = self.model(torch.from_numpy(normalised)[None].to(self.device))
        resized = F.interpolate(disparity[:, None], size=(height, width), mode="bicubic", align_corners=False)
        return resized[0, 0].cpu().numpy()
