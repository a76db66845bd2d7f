"""Image metrics on (H, W, 3) arrays, 0..1, over the whole image or inside a mask."""

import logging
from pathlib import Path
from typing import Any

import cv2
import lpips
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from jaxtyping import Bool, Float
from skimage.metrics import structural_similarity
from torch import Tensor

from nsff.config import InputError

log = logging.getLogger("nsff")

Image = Float[np.ndarray, "H W 3"]
Mask = Bool[np.ndarray, "H W"]
TINY = 1e-8


def psnr(truth: Image, render: Image, mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio in dB for the range 0..1; infinite if equal; 0 for an empty mask, as published."""
    error = (truth.astype(np.float64) - render.astype(np.float64)) ** 2
    if mask is not None:
        if not mask.any():
            return 0.0
        error = error[mask]
    mean = float(error.mean())
    return float("inf") if mean == 0.0 else -10.0 * float(np.log10(mean))


def ssim(truth: Image, render: Image, mask: Mask | None = None, data_range: float = 1.0) -> float:
    """Structural similarity, 7x7 windows.

    Args:
        truth: image.
        render: image.
        mask: mean of the map inside it. Windows at its border see outside it, as published; 0 if it is empty.
        data_range: the published evaluation has 2 (its library took floats for -1..1).
    """
    mean, similarity = structural_similarity(truth, render, channel_axis=-1, data_range=data_range, full=True)
    if mask is None:
        return float(mean)
    weight = mask[..., None].astype(np.float64)
    return float((similarity * weight).sum() / (weight.sum() * truth.shape[-1] + TINY))


def masked_ssim(truth: Image, render: Image, mask: Mask | None = None, data_range: float = 1.0) -> float:
    """Structural similarity of what lies inside a mask alone (DyCheck, arXiv:2210.13445, appendix).

    Gaussian windows of 11x11, sigma 1.5; each sees only the pixels of the mask, its weights scaled up for the rest.
    0 for an empty mask.
    """
    inside = np.ones(truth.shape[:2]) if mask is None else mask.astype(np.float64)
    if not inside.any():
        return 0.0
    seen = _gaussian(inside)[..., None]

    def mean(values: np.ndarray) -> np.ndarray:
        return np.where(seen > 0.0, _gaussian(values * inside[..., None]) / np.maximum(seen, TINY), 0.0)

    a, b = truth.astype(np.float64), render.astype(np.float64)
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = (np.maximum(mean(x * x) - m * m, 0.0) for x, m in ((a, mean_a), (b, mean_b)))
    covariance = np.clip(mean(a * b) - mean_a * mean_b, -np.sqrt(var_a * var_b), np.sqrt(var_a * var_b))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return float(similarity[inside > 0.0].mean())


def _gaussian(values: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(values, (11, 11), 1.5, borderType=cv2.BORDER_CONSTANT).reshape(values.shape)


class Lpips:
    """Learned perceptual similarity, AlexNet (Zhang et al. 2018), with a masked form.

    Args:
        trunk: state of torchvision's AlexNet.
        scaled: apply the input scaling layer; the published evaluation does not.
        device: where to compute.
    """

    def __init__(self, trunk: dict[str, Tensor], scaled: bool, device: torch.device):
        self.model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval().to(device)
        trunk = {name.removeprefix("features."): value for name, value in trunk.items() if name.startswith("features.")}
        slices = [getattr(self.model.net, f"slice{k}") for k in range(1, 6)]
        layers = {name: layer for part in slices for name, layer in part.named_children()}
        for name, layer in layers.items():
            state = {k: trunk[f"{name}.{k}"] for k in ("weight", "bias") if f"{name}.{k}" in trunk}
            layer.load_state_dict(state)
        self.scaled, self.device = scaled, device

    @torch.no_grad()
    def __call__(self, truth: Image, render: Image, mask: Mask | None = None) -> float:
        """Distance, 0 for equal images; in a mask: mean inside it, layer by layer (it is resized to each)."""
        features = [self._features(image) for image in (truth, render)]
        total = 0.0
        for first, second, head in zip(*features, self.model.lins, strict=True):
            difference = head((lpips.normalize_tensor(first) - lpips.normalize_tensor(second)) ** 2)
            if mask is None:
                total += float(difference.mean())
                continue
            weight = torch.from_numpy(mask.astype(np.float32)).to(self.device)[None, None]
            weight = F.interpolate(weight, size=difference.shape[2:], mode="nearest")
            total += float((difference * weight).sum() / (weight.sum() + TINY))
        return total

    def _features(self, image: Image) -> Any:
        pixels = torch.from_numpy(np.ascontiguousarray(image, np.float32)).to(self.device).permute(2, 0, 1)[None]
        pixels = pixels * 2.0 - 1.0
        return self.model.net(self.model.scaling_layer(pixels) if self.scaled else pixels)


def load_lpips(path: str | None, scaled: bool, device: torch.device) -> Lpips | None:
    """LPIPS with torchvision's AlexNet, from a file or its download; None (and a line in the log) without a download.

    Raises:
        InputError: the given file holds no AlexNet.
    """
    if path is not None:
        try:
            return Lpips(torch.load(Path(path), map_location="cpu", weights_only=True), scaled, device)
        except Exception as error:  # whatever a file can hold
            raise InputError(f"--lpips_trunk {path} holds no AlexNet weights ({type(error).__name__})") from error
    try:
        trunk = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.get_state_dict(progress=False)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:100]
        log.warning("no AlexNet weights, LPIPS is left out (%s); give --lpips_trunk FILE", reason)
        return None
    return Lpips(trunk, scaled, device)
