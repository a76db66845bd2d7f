"""Loss terms as functions of tensors alone; `losses` says which tensors enter them, and with which weights."""

import dataclasses
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

SomeTerms = TypeVar("SomeTerms", bound="Terms")

KINETIC_NEAREST = 0.9  # fraction of the samples of a ray, nearest first, that enter the least-kinetic term
EPSILON = 1e-8  # added to denominators and logarithms, as published


@dataclasses.dataclass(frozen=True)
class Terms:
    """Scalar terms of a step as they enter the sum, with their weights applied; subclasses name them."""

    def total(self) -> Tensor:
        """Sum of all terms: the quantity that training minimises."""
        return torch.stack(list(vars(self).values())).sum()

    def detach(self: SomeTerms) -> SomeTerms:
        """The same values without their graph."""
        return type(self)(**{name: value.detach() for name, value in vars(self).items()})


def weighted_mean(values: Float[Tensor, "*b c"], weight: Float[Tensor, "*b"], n_kept: int = 0) -> Float[Tensor, "*k"]:
    """Mean over rows and channels with one weight per row.

    Args:
        values: c channels of each row.
        weight: of each row.
        n_kept: leading axes that are kept: one mean for each of their entries.

    Note:
        The gradient also runs through the sum of the weights, as published.
    """
    rows = tuple(range(n_kept, weight.ndim))
    return (values * weight[..., None]).sum((*rows, -1)) / (weight.sum(rows) * values.shape[-1] + EPSILON)


def cycle_loss(
    flow: Float[Tensor, "*k n s 3"], return_flow: Float[Tensor, "*k n s 3"], prob: Float[Tensor, "*k n s"]
) -> Float[Tensor, "*k"]:
    """Mean |flow + return flow| of a warp, or of each of k warps: both cancel where nothing is disoccluded.

    Args:
        flow: scene flow to a neighbour, in units of the space of the fields.
        return_flow: scene flow of the neighbour at the warped points, towards this frame.
        prob: disocclusion probability of the warp; samples are weighted by 1 - prob.
    """
    return weighted_mean((flow + return_flow).abs(), 1.0 - prob, n_kept=prob.ndim - 2)


def disocclusion_loss(prob: Float[Tensor, "*k n s"]) -> Float[Tensor, "*k"]:
    """Mean disocclusion probability of a warp, or of each of k warps.

    Without this term the fields explain every error as a disocclusion.
    """
    return prob.mean((-2, -1))


def depth_loss(depth: Float[Tensor, " n"], disparity: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Squared difference of depth and -disparity, each shifted by its median and scaled by its mean deviation.

    Note:
        Squared as in the published code. Its denominators are clamped here: a constant depth gives no NaN.
    """

    def normalised(values: Tensor) -> Tensor:
        shifted = values - values.median()
        return shifted / shifted.abs().mean().clamp(min=EPSILON)

    return F.mse_loss(normalised(depth), normalised(-disparity))


def flow_magnitude_loss(flow: Float[Tensor, "k ..."]) -> Float[Tensor, ""]:
    """Sum over k warps of their mean |scene flow|: most of space does not move."""
    return len(flow) * flow.abs().mean()


def spatial_smoothness(
    points_world: Float[Tensor, "*k n s 3"],
    flow_world: Float[Tensor, "*k n s 3"],
    nearest: float,
    weighted: bool,
) -> Float[Tensor, "*k"]:
    """Mean |difference of scene flow| between adjacent samples of a ray, of a warp or of each of k warps.

    Args:
        points_world: samples in world units, nearest first.
        flow_world: their scene flow to a neighbouring frame, or from it, in world units.
        nearest: fraction of the samples of a ray that enter, 0..1.
        weighted: weight each difference by exp(-2 distance) of the two samples.
    """
    n_near = int(points_world.shape[-2] * nearest)
    change = flow_world[..., :n_near, :].diff(dim=-2).abs()
    if weighted:
        distance = points_world[..., :n_near, :].diff(dim=-2).norm(dim=-1, keepdim=True)
        change = change * torch.exp(-2.0 * distance)
    return change.mean((-3, -2, -1))


def least_kinetic(flow_before: Float[Tensor, "*k n s 3"], flow_after: Float[Tensor, "*k n s 3"]) -> Float[Tensor, "*k"]:
    """Half the squared change of velocity between two steps of points, or between k pairs of steps, in world units."""
    n_near = int(flow_before.shape[-2] * KINETIC_NEAREST)
    change = (flow_after - flow_before)[..., :n_near, :]
    return 0.5 * (change**2).mean((-3, -2, -1))


def blend_entropy(blend_w: Float[Tensor, "n s"]) -> Float[Tensor, ""]:
    """Mean of -b log b: drives the blend weight to 0 or 1."""
    return -(blend_w * (blend_w + EPSILON).log()).mean()


def distortion_loss(weights: Float[Tensor, "n s"], depths: Float[Tensor, "n s"]) -> Float[Tensor, ""]:
    """Spread of the weights along each ray: large for haze, zero for a surface.

    sum_ij w_i w_j |s_i - s_j| + 1/3 sum_i w_i^2 (s_{i+1} - s_i), with s the depth in 0..1.

    Source: mip-NeRF 360, arXiv:2111.12077, equation 15.
    """
    before = weights.cumsum(-1) - weights
    depth_before = (weights * depths).cumsum(-1) - weights * depths
    between = 2.0 * (weights * (depths * before - depth_before)).sum(-1)
    within = (weights[:, :-1] ** 2 * (depths[:, 1:] - depths[:, :-1])).sum(-1) / 3.0
    return (between + within).mean()


def line_of_sight_loss(
    weights: Float[Tensor, "n s"],
    depths: Float[Tensor, "n s"],
    prior: Float[Tensor, " n"],
    margin: float | Float[Tensor, ""],
    confidence: Float[Tensor, " n"],
) -> Float[Tensor, ""]:
    """Squared weights before a surface of known depth, plus the distance of the rendered depth to it.

    Source: the line-of-sight loss of Urban Radiance Fields (Rematas et al. 2022, arXiv:2111.14643), with a margin in
    the place of its Gaussian.

    Args:
        weights: of the dynamic field by itself.
        depths: of the samples, 0..1.
        prior: depth of the surface, 0..1.
        margin: space is empty up to this far before the surface.
        confidence: of the prior, 0..1; weight of each ray.
    """
    before = torch.where(depths < prior[:, None] - margin, weights, 0.0)
    off = ((weights * depths).sum(-1) - prior).abs()
    return (confidence * ((before**2).sum(-1) + off)).mean()


def background_loss(
    rgb: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"], background: Bool[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Mean squared colour error of the static field alone, over the rays that show the background."""
    return weighted_mean((rgb - target) ** 2, background.to(rgb.dtype))
