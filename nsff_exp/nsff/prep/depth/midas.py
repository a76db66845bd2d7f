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
from nsff.prep.weights import fill, read_weights

LONG_SIDE = 640  # pixels of the network's input, where the user gives no limits; as published
MULTIPLE = 32  # of the sides of the network's input
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
CHANNELS = 256  # of the decoder


class _Residual(nn.Module):
    """Two convolutions around a skip.

    Note:
        The published ReLU works in place, so that what is added is relu(x), not x. The weights were trained so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.conv2(F.relu(self.conv1(x))) + x


class _Fusion(nn.Module):
    """Adds features of the encoder to what comes from the coarser level, and doubles the size."""

    def __init__(self) -> None:
        super().__init__()
        self.resConfUnit1, self.resConfUnit2 = _Residual(), _Residual()

    def forward(self, x: Tensor, skipped: Tensor | None = None) -> Tensor:
        if skipped is not None:
            x = x + self.resConfUnit1(skipped)
        return F.interpolate(self.resConfUnit2(x), scale_factor=2, mode="bilinear", align_corners=True)


class MidasNet(nn.Module):
    """ResNeXt-101 and a RefineNet decoder; names as in the published files."""

    def __init__(self) -> None:
        from torchvision.models import resnext101_32x8d  # here: seconds, spared where no network runs

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
        """Disparity of normalised images; sides divisible by 32."""
        features, x = [], image
        for k in (1, 2, 3, 4):
            x = self.pretrained[f"layer{k}"](x)
            features.append(self.scratch[f"layer{k}_rn"](x))
        x = self.scratch["refinenet4"](features[3])
        for k in (3, 2, 1):
            x = self.scratch[f"refinenet{k}"](x, features[k - 1])
        return self.scratch["output_conv"](x)[:, 0]


def input_size(width: int, height: int, limits: Limits) -> tuple[int, int]:
    """Largest (width, height) within the limits, about the aspect ratio of the image, sides divisible by 32.

    Args:
        width: of the image.
        height: of the image.
        limits: widest and highest; without any, the image scaled to a longer side of 640 pixels is the limit.
    """
    if limits == NO_LIMITS:
        limits = long_side_size(width, height, LONG_SIDE)
    most = [math.inf if limit is None else limit for limit in limits]
    scale = min(most[0] / width, most[1] / height)

    def fitted(side: int, limit: float) -> int:
        rounded = round(scale * side / MULTIPLE) * MULTIPLE
        return max(MULTIPLE, rounded if rounded <= limit else int(limit // MULTIPLE) * MULTIPLE)

    return fitted(width, most[0]), fitted(height, most[1])


class MidasDepth:
    """Disparity of frames, larger = nearer, one by one."""

    def __init__(self, path: Path, device: torch.device, limits: Limits = NO_LIMITS):
        self.model, self.device, self.limits = MidasNet().eval(), device, limits
        fill(self.model, read_weights(path), path)
        self.model.to(device)

    @torch.no_grad()
    def __call__(self, image: Image) -> Float[np.ndarray, "H W"]:
        height, width = image.shape[:2]
        small = cv2.resize(image / 255.0, input_size(width, height, self.limits), interpolation=cv2.INTER_AREA)
        normalised = ((small - MEAN) / DEVIATION).astype(np.float32).transpose(2, 0, 1)
        disparity = self.model(torch.from_numpy(normalised)[None].to(self.device))
        whole = F.interpolate(disparity[:, None], size=(height, width), mode="bicubic", align_corners=False)
        return whole[0, 0].cpu().numpy()
