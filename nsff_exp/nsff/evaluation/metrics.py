"""Image metrics of a render against the truth, over the whole image and inside masks.

Images are (H, W, 3) with values 0..1. Every metric is computed in two steps: a map over the image, then its mean over a
region. The map is computed once per view, however many regions are reported.
"""

import contextlib
import dataclasses
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from nsff.errors import InputError, reason_of
from nsff.evaluation.scores import ImageScores, RegionScores

log = logging.getLogger("nsff")

Image = Float[np.ndarray, "H W 3"]
Mask = Bool[np.ndarray, "H W"]
LpipsMaps = list[Tensor]  # (1, 1, h, w) per layer of the network, at the resolution of that layer
EPSILON = 1e-8  # keeps means over empty masks finite
SSIM_WINDOW = 7  # pixels, scikit-image's default
BLACK_BELOW = 1e-3  # sum of the channels of a render; DynIBaR's script takes darker pixels as not rendered
OPENCV_PSNR = 20.0 * float(np.log10(255.0 / np.finfo(np.float64).eps))  # cv2.PSNR of equal 8-bit images, 361.2 dB

Quantise = Literal["none", "round", "truncate"]
ChannelOrder = Literal["RGB", "BGR"]


@dataclasses.dataclass(frozen=True)
class Rules:
    """Comparison of a render with the truth.

    Attributes:
        quantise: reduction of the render to 8 bits before the comparison; "none" leaves it in floating point.
        ssim_range: data range of SSIM; 2 where the library took floats for -1..1.
        scaled_lpips: apply the input scaling layer of LPIPS.
        lpips_order: order of the channels given to LPIPS, whose network was trained on RGB.
        psnr_limit: PSNR of equal images, in dB.
        empty_counts_zero: score an empty mask, and the PSNR of a mask without any error, as 0, as published, instead
            of as undefined and infinite.
        valid_from_render: blacken the truth where the render is black, and take the scores of the whole image over
            the other pixels (DynIBaR). The moving and the static part include the black pixels, as error-free.
    """

    quantise: Quantise = "round"
    ssim_range: float = 1.0
    scaled_lpips: bool = True
    lpips_order: ChannelOrder = "RGB"
    psnr_limit: float = float("inf")
    empty_counts_zero: bool = False
    valid_from_render: bool = False


def eight_bits(image: Image, quantise: Quantise = "round") -> UInt8[np.ndarray, "H W 3"]:
    """Clip an image to 0..1 and convert it to 0..255, truncated or (for any other rule) rounded."""
    levels = 255.0 * image.clip(0.0, 1.0)
    return (levels if quantise == "truncate" else levels.round()).astype(np.uint8)


def compare(
    truth: Image, render: Image, moving: Mask, rules: Rules, perceptual: "Lpips | None", visible: Mask | None = None
) -> ImageScores:
    """Score a render over the whole image, its moving part and the rest.

    Args:
        truth: held-out image, of 8 bits.
        render: output of the renderer, not yet quantised.
        moving: moving part of the truth.
        rules: of the protocol.
        perceptual: LPIPS; None without its weights.
        visible: pixels that count; None for all.
    """
    if rules.quantise != "none":  # in double precision, like libraries that are given 8-bit images
        truth, render = eight_bits(truth) / 255.0, eight_bits(render, rules.quantise) / 255.0
    whole = visible
    if visible is not None:
        moving, static = visible & moving, visible & ~moving
    else:
        static = ~moving
        if rules.valid_from_render:
            whole = render.sum(-1) > BLACK_BELOW
    if whole is not None:
        truth, render = truth * whole[..., None], render * whole[..., None]
    error = squared_error(truth, render)
    similarity = _similarity(truth, render, rules, masked=visible is not None)
    distances = None if perceptual is None else perceptual(truth, render)

    def scores(region: Mask | None) -> RegionScores:
        if region is not None and not region.any() and not rules.empty_counts_zero:
            return RegionScores()
        lpips = None if distances is None else mean_lpips(distances, region)
        return RegionScores(_limited(psnr_of_error(error, region), region, rules), similarity(region), lpips)

    return ImageScores(whole=scores(whole), moving=scores(moving), static=scores(static))


def _similarity(truth: Image, render: Image, rules: Rules, masked: bool) -> Callable[[Mask | None], float]:
    """SSIM of a region: the mean of one map, or, `masked`, of windows that see the region alone."""
    if masked:
        return lambda region: masked_ssim(truth, render, region, rules.ssim_range)
    similarity = ssim_map(truth, render, rules.ssim_range)
    return lambda region: mean_ssim(similarity, region)


def _limited(decibels: float, region: Mask | None, rules: Rules) -> float:
    """Replace an infinite PSNR by the value that the rules have for it."""
    if decibels == float("inf") and region is not None and rules.empty_counts_zero:
        return 0.0
    return min(decibels, rules.psnr_limit)


def squared_error(truth: Image, render: Image) -> Float[np.ndarray, "H W 3"]:
    """Squared difference per pixel and channel, in double precision."""
    return (truth.astype(np.float64) - render.astype(np.float64)) ** 2


def psnr_of_error(error: Float[np.ndarray, "H W 3"], mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio in dB, for the range 0..1, of a map of squared errors.

    Infinite without any error; 0 for an empty mask, as published.
    """
    if mask is not None:
        if not mask.any():
            return 0.0
        error = error[mask]
    mean = float(error.mean())
    return float("inf") if mean == 0.0 else -10.0 * float(np.log10(mean))


def psnr(truth: Image, render: Image, mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio in dB, see `psnr_of_error`."""
    return psnr_of_error(squared_error(truth, render), mask)


def ssim_map(truth: Image, render: Image, data_range: float = 1.0) -> Float[np.ndarray, "H W 3"]:
    """Structural similarity per pixel and channel, in uniform windows of 7x7.

    Args:
        truth: image.
        render: image.
        data_range: span of the values; the published evaluation has 2 (its library took floats for -1..1).
    """
    from skimage.metrics import structural_similarity  # here: evaluations alone need it, training does not

    options = {"channel_axis": -1, "win_size": SSIM_WINDOW, "data_range": data_range}
    return structural_similarity(truth, render, full=True, **options)[1]


def mean_ssim(similarity: Float[np.ndarray, "H W 3"], mask: Mask | None = None) -> float:
    """Mean of a map of structural similarity.

    Without a mask, windows that reach over the border of the image are left out, as by scikit-image. Inside a mask all
    windows count, and those at its border see outside it, as published; 0 for an empty mask.
    """
    if mask is None:
        border = SSIM_WINDOW // 2
        return float(similarity[border:-border, border:-border].mean(dtype=np.float64))
    return float(similarity[mask].sum(dtype=np.float64) / (mask.sum() * similarity.shape[-1] + EPSILON))


def masked_ssim(truth: Image, render: Image, mask: Mask | None = None, data_range: float = 1.0) -> float:
    """Structural similarity of the pixels inside a mask alone (DyCheck, arXiv:2210.13445, appendix).

    Gaussian windows of 11x11, sigma 1.5. Each window sees only pixels of the mask, its weights normalised over them;
    the map therefore depends on the mask. 0 for an empty mask.

    Note:
        The authors' code takes the mean over the whole map, where windows without any pixel of the mask count as 1.
    """
    inside = np.ones(truth.shape[:2]) if mask is None else mask.astype(np.float64)
    if not inside.any():
        return 0.0
    coverage = _gaussian(inside)[..., None]

    def mean(values: np.ndarray) -> np.ndarray:
        total = _gaussian(values * inside[..., None])
        return np.where(coverage > 0.0, total / np.maximum(coverage, EPSILON), 0.0)

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
    """Learned perceptual image patch similarity with AlexNet (Zhang et al. 2018, arXiv:1801.03924).

    Args:
        trunk: state dict of torchvision's AlexNet.
        scaled: apply the input scaling layer; the published evaluation does not.
        device: compute device.
        order: order in which the network is given the channels of RGB images.
    """

    def __init__(self, trunk: dict[str, Tensor], scaled: bool, device: torch.device, order: ChannelOrder = "RGB"):
        import lpips  # here: evaluations alone need it, training does not

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
        self._normalise = lpips.normalize_tensor

    @torch.no_grad()
    def __call__(self, truth: Image, render: Image) -> LpipsMaps:
        """Distance maps of two images, one per layer; reduce them with `mean_lpips`."""
        features = [self._features(image) for image in (truth, render)]
        return [
            head((self._normalise(first) - self._normalise(second)) ** 2)
            for first, second, head in zip(*features, self.model.lins, strict=True)
        ]

    def _features(self, image: Image) -> Any:
        image = image[..., ::-1] if self.order == "BGR" else image
        pixels = torch.from_numpy(np.ascontiguousarray(image, np.float32)).to(self.device).permute(2, 0, 1)[None]
        pixels = pixels * 2.0 - 1.0
        return self.model.net(self.model.scaling_layer(pixels) if self.scaled else pixels)


def mean_lpips(distances: LpipsMaps, mask: Mask | None = None) -> float:
    """Perceptual distance, 0 for equal images: the sum over layers of the mean of each distance map.

    A mask is resized to every layer with nearest neighbours, as published; features near its border see outside it.
    0 for an empty mask.
    """
    if mask is None:
        return sum(float(layer.mean()) for layer in distances)
    full = torch.from_numpy(mask.astype(np.float32)).to(distances[0].device)[None, None]
    total = 0.0
    for layer in distances:
        weight = F.interpolate(full, size=layer.shape[2:], mode="nearest")
        total += float((layer * weight).sum() / (weight.sum() + EPSILON))
    return total


def load_lpips(path: str | None, rules: Rules, device: torch.device) -> Lpips | None:
    """Load LPIPS with torchvision's AlexNet, from a file or by download; None, with a warning, if the download fails.

    Raises:
        InputError: the given file does not hold AlexNet weights.
    """
    if path is not None:
        try:
            trunk = torch.load(Path(path), map_location="cpu", weights_only=True)
            return Lpips(trunk, rules.scaled_lpips, device, rules.lpips_order)
        except Exception as error:  # a broken or foreign file can raise anything
            raise InputError(f"--lpips_trunk {path} holds no AlexNet weights ({type(error).__name__})") from error
    import torchvision  # here: evaluations alone need it, training does not

    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for scores, not for the download's messages
            trunk = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.get_state_dict(progress=False)
    except (OSError, RuntimeError) as error:
        reason = reason_of(error)
        log.warning("no AlexNet weights, LPIPS is left out (%s); give --lpips_trunk FILE", reason)
        return None
    return Lpips(trunk, rules.scaled_lpips, device, rules.lpips_order)
