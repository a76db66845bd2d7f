"""Batches of pixels of a scene: what one training step looks at."""

import dataclasses

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nsff.data.scene import Scene

AT_ONCE = 128  # pixels of any frames


@dataclasses.dataclass(frozen=True)
class TrainBatch:
    """n pixels of a frame: first `n_uniform` drawn over the whole frame, then hard-mined ones from its motion mask."""

    frame: int
    n_uniform: int
    uv: Float[Tensor, "n 2"]
    rgb: Float[Tensor, "n 3"]
    disparity: Float[Tensor, " n"]
    flow_fwd: Float[Tensor, "n 2"]
    flow_fwd_mask: Bool[Tensor, " n"]
    flow_bwd: Float[Tensor, "n 2"]
    flow_bwd_mask: Bool[Tensor, " n"]
    background: Bool[Tensor, " n"]


@dataclasses.dataclass(frozen=True)
class BackgroundBatch:
    """n pixels of any frames, well outside their motion masks."""

    frames: Int[Tensor, " n"]
    uv: Float[Tensor, "n 2"]
    rgb: Float[Tensor, "n 3"]


def gather_batch(scene: Scene, frame: int, uniform: Int[Tensor, " a"], hard: Int[Tensor, " b"]) -> TrainBatch:
    """The pixels with the given flat (row-major) indices of a frame, uniform ones first."""
    index = torch.cat([uniform, hard])
    width = scene.intrinsics.width
    uv = torch.stack([index % width, index // width], dim=-1).to(scene.images.dtype)

    def pick(values: Tensor) -> Tensor:
        return values[frame].flatten(0, 1)[index.to(values.device)].to(scene.device)

    return TrainBatch(
        frame,
        len(uniform),
        uv,
        rgb=pick(scene.images),
        disparity=pick(scene.disparity),
        flow_fwd=pick(scene.flow_fwd),
        flow_fwd_mask=pick(scene.flow_fwd_mask),
        flow_bwd=pick(scene.flow_bwd),
        flow_bwd_mask=pick(scene.flow_bwd_mask),
        background=pick(scene.background),
    )


def moving_pixels(scene: Scene, frame: int) -> Int[Tensor, " m"]:
    """Flat indices of the pixels of a frame inside its motion mask; none if the mask is empty."""
    return scene.motion_masks[frame].flatten().nonzero().squeeze(-1).to(scene.device)


def draw_batch(scene: Scene, frame: int, n_uniform: int, n_hard: int, generator: torch.Generator) -> TrainBatch:
    """Draw pixels of a frame without replacement; fewer hard ones where the mask is smaller, none where it is empty."""
    n_pixels = scene.intrinsics.height * scene.intrinsics.width
    device = scene.device
    moving = moving_pixels(scene, frame) if n_hard else torch.empty(0, dtype=torch.long, device=device)
    hard = moving[torch.randperm(len(moving), generator=generator, device=device)[:n_hard]]
    uniform = torch.randperm(n_pixels, generator=generator, device=device)[:n_uniform]
    return gather_batch(scene, frame, uniform, hard)


def draw_background(scene: Scene, n: int, generator: torch.Generator) -> BackgroundBatch:
    """Draw n pixels over all frames, with replacement, and keep those of the background."""
    height, width = scene.intrinsics.height, scene.intrinsics.width
    index = torch.randint(scene.background.numel(), (n,), generator=generator, device=scene.device)
    there = index.to(scene.images.device)
    there = there[_pick_anywhere(scene, scene.background.flatten(), there)]
    index = there.to(scene.device)
    uv = torch.stack([index % width, index // width % height], dim=-1).to(scene.images.dtype)
    return BackgroundBatch(
        index // (height * width), uv, _pick_anywhere(scene, scene.images.flatten(0, 2), there).to(scene.device)
    )


def _pick_anywhere(scene: Scene, values: Tensor, index: Int[Tensor, " n"]) -> Tensor:
    """Values of pixels of any frames, some at a time: of a mapped file each brings a long stretch into memory."""
    parts = []
    for some in index.split(AT_ONCE):
        parts.append(values[some])
        scene.forget()
    return torch.cat(parts)
