"""Image metrics on (H, W, 3) arrays, 0..1, over the whole image or inside a mask; all of them by given rules."""

import contextlib
import dataclasses
import logging
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

import cv2
import lpips
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from jaxtyping import Bool, Float, UInt8
from skimage.metrics import structural_similarity
from torch import Tensor

from nsff.errors import InputError

log = logging.getLogger("nsff")

Image = Float[np.ndarray, "H W 3"]
Mask = Bool[np.ndarray, "H W"]
TINY = 1e-8
VALID_ABOVE = 1e-3  # sum of a render's channels above which DynIBaR's script takes a pixel as rendered
OPENCV_PSNR = 20.0 * float(np.log10(255.0 / np.finfo(np.float64).eps))  # cv2.PSNR of equal 8-bit images, 361.2 dB

Quantise = Literal["none", "round", "truncate"]
ChannelOrder = Literal["RGB", "BGR"]


@dataclasses.dataclass(frozen=True)
class Rules:
    """How a render is compared with the truth.

    Attributes:
        quantise: how the render is brought to 8 bits before anything is compared; "none" leaves it as it is.
        ssim_range: data range of SSIM; 2 where the library took floats for -1..1.
        scaled_lpips: apply LPIPS's input scaling layer.
        lpips_order: order of the channels that LPIPS is given; its network was trained on RGB.
        psnr_limit: PSNR of equal images, in dB.
        empty_counts_zero: the figures of an empty mask, and the PSNR inside a mask without any error, are 0, as
            published, instead of missing or infinite.
        valid_from_render: black pixels of the render become black in the truth too, and the figures of the whole
            image are taken inside the others (DynIBaR). Those of the moving and the still part are not: black pixels
            count there, without an error.
    """

    quantise: Quantise = "round"
    ssim_range: float = 1.0
    scaled_lpips: bool = True
    lpips_order: ChannelOrder = "RGB"
    psnr_limit: float = float("inf")
    empty_counts_zero: bool = False
    valid_from_render: bool = False


def eight_bits(image: Image, quantise: Quantise = "round") -> UInt8[np.ndarray, "H W 3"]:
    """VideoSpec 0..1 and bring it to 0..255: cut off by "truncate", else rounded."""
    levels = 255.0 * image.clip(0.0, 1.0)
    return (levels if quantise == "truncate" else levels.round()).astype(np.uint8)


def compare(
    truth: Image, render: Image, mask: Mask, rules: Rules, perceptual: "Lpips | None", visible: Mask | None = None
) -> dict[str, float | None]:
    """All figures of one view: whole image, moving part, rest. None where a figure could not be had.

    Args:
        truth: the picture of the camera, of 8 bits.
        render: as rendered; the rules say what becomes of it.
        mask: the moving part.
        rules: of the protocol.
        perceptual: LPIPS, if its weights are there.
        visible: pixels that count; None for all.
    """
    if rules.quantise != "none":  # in double precision, like libraries that are given 8-bit images
        truth, render = eight_bits(truth) / 255.0, eight_bits(render, rules.quantise) / 255.0
    regions: dict[str, Mask | None] = {"": visible, "_dynamic": mask, "_static": ~mask}
    if visible is not None:
        regions |= {"_dynamic": visible & mask, "_static": visible & ~mask}
    elif rules.valid_from_render:
        regions[""] = render.sum(-1) > VALID_ABOVE
    if (valid := regions[""]) is not None:
        truth, render = truth * valid[..., None], render * valid[..., None]
    similarity = ssim if visible is None else masked_ssim
    figures: dict[str, float | None] = {}
    for suffix, region in regions.items():
        missing = region is not None and not region.any() and not rules.empty_counts_zero
        figures[f"psnr{suffix}"] = None if missing else _finite(psnr(truth, render, region), region, rules)
        figures[f"ssim{suffix}"] = None if missing else similarity(truth, render, region, rules.ssim_range)
        figures[f"lpips{suffix}"] = None if missing or perceptual is None else perceptual(truth, render, region)
    return figures


def _finite(decibels: float, region: Mask | None, rules: Rules) -> float:
    """The PSNR that the rules have instead of an infinite one."""
    if decibels == float("inf") and region is not None and rules.empty_counts_zero:
        return 0.0
    return min(decibels, rules.psnr_limit)


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
        order: in which the network is given the channels of the RGB images that it is called with.
    """

    def __init__(self, trunk: dict[str, Tensor], scaled: bool, device: torch.device, order: ChannelOrder = "RGB"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the package names torchvision's weights in an older way
            self.model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval().to(device)
        trunk = {name.removeprefix("features."): value for name, value in trunk.items() if name.startswith("features.")}
        slices = [getattr(self.model.net, f"slice{k}") for k in range(1, 6)]
        layers = {name: layer for part in slices for name, layer in part.named_children()}
        for name, layer in layers.items():
            state = {k: trunk[f"{name}.{k}"] for k in ("weight", "bias") if f"{name}.{k}" in trunk}
            layer.load_state_dict(state)
        self.scaled, self.device, self.order = scaled, device, order

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
        image = image[..., ::-1] if self.order == "BGR" else image
        pixels = torch.from_numpy(np.ascontiguousarray(image, np.float32)).to(self.device).permute(2, 0, 1)[None]
        pixels = pixels * 2.0 - 1.0
        return self.model.net(self.model.scaling_layer(pixels) if self.scaled else pixels)


def load_lpips(path: str | None, rules: Rules, device: torch.device) -> Lpips | None:
    """LPIPS with torchvision's AlexNet, from a file or its download; None (and a line in the log) without a download.

    Raises:
        InputError: the given file holds no AlexNet.
    """
    if path is not None:
        try:
            trunk = torch.load(Path(path), map_location="cpu", weights_only=True)
            return Lpips(trunk, rules.scaled_lpips, device, rules.lpips_order)
        except Exception as error:  # whatever a file can hold
            raise InputError(f"--lpips_trunk {path} holds no AlexNet weights ({type(error).__name__})") from error
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for figures, not for the download's messages
            trunk = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.get_state_dict(progress=False)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:100]
        log.warning("no AlexNet weights, LPIPS is left out (%s); give --lpips_trunk FILE", reason)
        return None
    return Lpips(trunk, rules.scaled_lpips, device, rules.lpips_order)
