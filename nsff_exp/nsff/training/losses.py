"""The losses of a training step, in both variants.

| term | paper (arXiv:2011.13084), by its names | here |
| --- | --- | --- |
| colour | L_pho of the frame and its warps, L_cb of both fields blended | `colour_loss` |
| cycle | L_cyc, forward and backward scene flow cancel | `cycle_loss` |
| prob | the L1 term on the disocclusion weights beside L_pho | `disocclusion_loss` |
| depth | L_z of L_data, single-view depth | `depth_loss` |
| flow | L_geo of L_data, optical flow | `flow_loss` |
| sf_reg | L_reg, small scene flow | `flow_magnitude_loss` |
| smoothness | L_reg, scene flow smooth in space and in time (least kinetic) | `spatial_smoothness`, `least_kinetic` |
| entropy | not in the paper (`wild`) | `blend_entropy` |
| distortion | not in the paper; off unless `w_distortion` is set | `distortion_loss` |
| line_of_sight | not in the paper; off unless rays follow lifted priors | `line_of_sight_loss` |
| background | not in the paper; off unless `background_rays` is set | `background_loss` |
| split | not in the paper; off unless `w_split` is set | `split_loss` |

The differences between the variants are in `variant_rules`.
"""

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from nsff.data.pixel_sampler import TrainBatch
from nsff.data.scene import Frame, Scene
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import expected_pixel
from nsff.geometry.space import Space
from nsff.rendering.train_render import TrainRender
from nsff.training.loss_terms import (
    Terms,
    background_loss,
    blend_entropy,
    cycle_loss,
    depth_loss,
    disocclusion_loss,
    distortion_loss,
    flow_magnitude_loss,
    least_kinetic,
    line_of_sight_loss,
    spatial_smoothness,
    weighted_mean,
)
from nsff.training.variant_rules import VariantRules

KINETIC_REPEATS = 2  # the published code adds the least-kinetic term twice


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Weights of the terms at one step; `colour_where_dynamic` and `blended_on_hard`: see `colour_loss`."""

    depth: float
    flow: float
    smooth: float
    sf_reg: float
    cycle: float
    prob: float
    entropy: float
    distortion: float
    split: float
    line_of_sight: float
    colour_where_dynamic: bool
    blended_on_hard: bool


@dataclasses.dataclass(frozen=True)
class LossTerms(Terms):
    """Terms of a step that renders rays."""

    colour: Tensor
    cycle: Tensor
    prob: Tensor
    depth: Tensor
    flow: Tensor
    sf_reg: Tensor
    smoothness: Tensor
    entropy: Tensor
    distortion: Tensor
    line_of_sight: Tensor
    background: Tensor
    split: Tensor


@dataclasses.dataclass(frozen=True)
class NeighbourCameras:
    """Camera-to-world poses of a reference frame and its neighbours; its own in place of those beyond the ends."""

    ref: Float[Tensor, "3 4"]
    prev: Float[Tensor, "3 4"]
    next: Float[Tensor, "3 4"]
    intrinsics: Intrinsics
    space: Space

    @staticmethod
    def of(scene: Scene, frame: Frame) -> "NeighbourCameras":
        """Cameras around a frame of a scene."""
        poses = scene.pose(frame), scene.pose(frame - 1), scene.pose(frame + 1)
        return NeighbourCameras(*poses, scene.intrinsics, scene.space)


@dataclasses.dataclass(frozen=True)
class BackgroundRender:
    """Colours of the static field alone, and the true ones, both 0..1; pixels outside the background do not count."""

    rgb: Float[Tensor, "n 3"]
    target: Float[Tensor, "n 3"]
    background: Bool[Tensor, " n"]


@dataclasses.dataclass(frozen=True)
class DepthPrior:
    """Lifted depth s of n rays: that of the surface, its confidence (0..1), and the depths of the samples."""

    z: Float[Tensor, " n"]
    confidence: Float[Tensor, " n"]
    depths: Float[Tensor, "n s"]
    margin: float | Float[Tensor, ""]  # space is empty up to this far before the surface

    def line_of_sight_loss(self, weights: Float[Tensor, "n s"]) -> Float[Tensor, ""]:
        """The line-of-sight loss of weights at the samples."""
        return line_of_sight_loss(weights, self.depths, self.z, self.margin, self.confidence)


@dataclasses.dataclass(frozen=True)
class _Warps:
    """Samples moved by one frame, k times: their flow, its disocclusion probability, and the flow that leads back."""

    flow: Float[Tensor, "k n s 3"]
    prob: Float[Tensor, "k n s"]
    return_flow: Float[Tensor, "k n s 3"]


def compute_losses(
    render: TrainRender,
    batch: TrainBatch,
    cameras: NeighbourCameras,
    weights: LossWeights,
    rules: VariantRules,
    background: BackgroundRender | None = None,
    prior: DepthPrior | None = None,
) -> LossTerms:
    """Compute all terms of one step.

    Args:
        render: of the pixels of `batch`.
        batch: colours and priors of the pixels.
        cameras: of the frame of `batch` and its neighbours.
        weights: of the terms at this step.
        rules: of the variant.
        background: further pixels, for the static field; None leaves that term 0.
        prior: depth of the surface along each ray; None leaves the line-of-sight term 0.
    """
    ref, dynamic = render.ref, render.ref.dynamic_only
    zero = dynamic.rgb.new_zeros(())
    warps = _regularised_warps(render, rules)
    magnitudes = (dynamic.weights[..., None] * warps.flow).sum(-1) if rules.composited_magnitude else warps.flow
    distortion = distortion_loss(dynamic.weights, ref.depths) if weights.distortion else zero
    return LossTerms(
        colour=colour_loss(render, batch, weights.colour_where_dynamic, weights.blended_on_hard),
        cycle=weights.cycle * cycle_loss(warps.flow, warps.return_flow, warps.prob).sum(),
        prob=weights.prob * disocclusion_loss(warps.prob).sum(),
        depth=weights.depth * depth_loss(dynamic.depth, batch.disparity),
        flow=weights.flow * flow_loss(render, batch, cameras, rules.flow_relative),
        sf_reg=weights.sf_reg * flow_magnitude_loss(magnitudes),
        smoothness=weights.smooth * _smoothness(render, cameras.space, rules),
        entropy=weights.entropy * blend_entropy(ref.static.blend_w) if rules.entropy else zero,
        distortion=weights.distortion * distortion,
        line_of_sight=zero if prior is None else weights.line_of_sight * prior.line_of_sight_loss(dynamic.weights),
        background=zero if background is None else background_loss(**vars(background)),
        split=weights.split * split_loss(render, batch) if weights.split else zero,
    )


def _regularised_warps(render: TrainRender, rules: VariantRules) -> _Warps:
    """Warps of the step that have prob, cycle and magnitude terms: forward, backward, and the second one if any."""
    ref, prev, next_ = render.ref.dynamic, render.prev.dynamic, render.next.dynamic
    warps = [(ref.sf_fwd, ref.prob_fwd, next_.sf_bwd), (ref.sf_bwd, ref.prob_bwd, prev.sf_fwd)]
    if rules.two_step_regularised and render.two_step is not None:
        far = render.two_step.dynamic
        if render.two_step_backward:
            warps.append((prev.sf_bwd, prev.prob_bwd, far.sf_fwd))
        else:
            warps.append((next_.sf_fwd, next_.prob_fwd, far.sf_bwd))
    return _Warps(*(torch.stack(parts) for parts in zip(*warps, strict=True)))


def colour_loss(
    render: TrainRender, batch: TrainBatch, where_dynamic: bool, blended_on_hard: bool
) -> Float[Tensor, ""]:
    """Squared colour error of the dynamic field, of its warps weighted by confidence, and of both fields blended.

    Args:
        render: of the pixels of `batch`.
        batch: the true colours.
        where_dynamic: weight the dynamic terms by the detached dynamic weight map, and the two-step warp by nothing
            else (`wild`, from step D on). Both fields must then be blended on all rays.
        blended_on_hard: the blended colour counts on the hard-mined rays too, not on the uniform ones alone (not
            published). Both fields must then be blended on all rays.
    """
    ref, alike = render.ref, torch.ones_like(render.next.confidence)
    rgb = [ref.dynamic_only.rgb, render.next.rgb, render.prev.rgb]
    confidence = [alike, render.next.confidence, render.prev.confidence]
    if render.two_step is not None:
        rgb.append(render.two_step.rgb)
        confidence.append(alike if where_dynamic else render.two_step.confidence)
    weights = torch.stack(confidence)
    if where_dynamic:
        weights = weights * ref.blended.dynamic_weight.detach()
    dynamic = weighted_mean((torch.stack(rgb) - batch.rgb) ** 2, weights, n_kept=1).sum()
    n = len(batch.rgb) if blended_on_hard else batch.n_uniform
    return dynamic + F.mse_loss(ref.blended.rgb[:n], batch.rgb[:n])


def flow_loss(render: TrainRender, batch: TrainBatch, cameras: NeighbourCameras, relative: bool) -> Float[Tensor, ""]:
    """Mean |projected scene flow - optical flow| in pixels, over the pixels where the latter is consistent.

    Forward and backward terms add up; at the ends of the sequence one of them is 0, as no flow is consistent there.

    Args:
        render: of the pixels of `batch`.
        batch: optical flow and its consistency masks.
        cameras: of the frame and its neighbours.
        relative: measure the projected flow from the projected reference point instead of from the pixel.
    """
    points = torch.stack([render.next.points, render.prev.points, render.ref.points])
    c2w = torch.stack([cameras.next, cameras.prev, cameras.ref])[:, None]
    flow, mask = torch.stack([batch.flow_fwd, batch.flow_bwd]), torch.stack([batch.flow_fwd_mask, batch.flow_bwd_mask])
    pixels = expected_pixel(render.ref.dynamic_only.weights, points, batch.rays, c2w, cameras.intrinsics)
    start = pixels[2] if relative else batch.uv
    return weighted_mean((pixels[:2] - start - flow).abs(), mask.to(flow.dtype), n_kept=1).sum()


def _smoothness(render: TrainRender, space: Space, rules: VariantRules) -> Tensor:
    """Smoothness of both one-frame warps and least motion, plus that of the second warp as the rules say."""
    ref, prev, next_, far = (
        render.ref.points, render.prev.points, render.next.points, render.two_step_points,
    )  # fmt: skip
    # Along the path of a sample: the frame two steps away, the neighbour on that side, ref, the other neighbour.
    sides = (prev, next_) if render.two_step_backward else (next_, prev)
    path = space.to_world(torch.stack([far, sides[0], ref, sides[1]]))
    flow = path.diff(dim=0)
    around_neighbour, around_ref = least_kinetic(flow[:-1], flow[1:]).unbind()
    starts = torch.stack([path[1], path[2], path[2]])  # each step but the last runs against time: its sign is free
    if not rules.two_step_regularised:
        starts, flow = starts[1:], flow[1:]
    smoothness = spatial_smoothness(starts, flow, rules.smooth_nearest, rules.smooth_weighted).sum()
    return smoothness + KINETIC_REPEATS * around_ref + around_neighbour


def split_loss(render: TrainRender, batch: TrainBatch) -> Float[Tensor, ""]:
    """Mean dynamic weight of the uniform rays that show the background.

    Without it both fields learn the background, and the dynamic one remains there as haze in views of other cameras.
    """
    n = batch.n_uniform
    return weighted_mean(render.ref.blended.dynamic_weight[:n, None], batch.background[:n].to(batch.rgb.dtype))
