"""Draw the pixels of a training step and cast the rays through them."""

import dataclasses

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nsff.data.scene import Frame, Scene
from nsff.geometry.rays import RayBundle, make_rays

GATHER_CHUNK = 128  # pixels gathered between releases of mapped pages


@dataclasses.dataclass(frozen=True)
class TrainBatch:
    """n pixels of one frame: first `n_uniform` from the whole frame, then hard-mined ones from its motion mask.

    `index` is flat (row-major) over all frames; `uv` and flow are (right, down) in pixels, `rgb` is 0..1.
    """

    frame: Frame
    n_uniform: int
    index: Int[Tensor, " n"]
    uv: Float[Tensor, "n 2"]
    rays: RayBundle
    rgb: Float[Tensor, "n 3"]
    disparity: Float[Tensor, " n"]
    flow_fwd: Float[Tensor, "n 2"]
    flow_fwd_mask: Bool[Tensor, " n"]
    flow_bwd: Float[Tensor, "n 2"]
    flow_bwd_mask: Bool[Tensor, " n"]
    background: Bool[Tensor, " n"]


@dataclasses.dataclass(frozen=True)
class BackgroundBatch:
    """n pixels from all frames; `background` marks those well outside their motion masks, normally all."""

    frames: Int[Tensor, " n"]
    uv: Float[Tensor, "n 2"]
    rays: RayBundle
    rgb: Float[Tensor, "n 3"]
    background: Bool[Tensor, " n"]


def gather_batch(scene: Scene, frame: Frame, pixels: Int[Tensor, " n"], n_uniform: int) -> TrainBatch:
    """Gather pixels of a frame on the compute device.

    Args:
        scene: Scene to sample.
        frame: Index of the frame.
        pixels: Flat (row-major) indices within the frame, uniform ones first.
        n_uniform: Number of the latter.
    """
    index = frame * scene.n_pixels + pixels
    stored = index.to(scene.images.device)  # that of the CPU where frames are memory-mapped: one copy for all of them
    uv = scene.pixel_coordinates(index)
    return TrainBatch(
        frame,
        n_uniform,
        index,
        uv,
        make_rays(uv, scene.pose(frame), scene.intrinsics, scene.space),
        rgb=scene.colours(stored),
        disparity=scene.pick(scene.disparity, stored),
        flow_fwd=scene.flow(stored, "forward"),
        flow_fwd_mask=scene.pick(scene.flow_fwd_mask, stored),
        flow_bwd=scene.flow(stored, "backward"),
        flow_bwd_mask=scene.pick(scene.flow_bwd_mask, stored),
        background=scene.pick(scene.background, stored),
    )


def moving_pixels(scene: Scene, frame: int) -> Int[Tensor, " m"]:
    """Flat (row-major) indices of the pixels inside the motion mask of a frame, possibly none.

    Found once per frame; at every call for a mapped scene, whose memory must not grow with its length.
    """
    if frame in scene.moving:
        return scene.moving[frame]
    moving = scene.motion_masks[frame].flatten().nonzero().squeeze(-1).to(scene.device)
    if not scene.is_mapped:
        scene.moving[frame] = moving
    return moving


def draw_pixels(
    scene: Scene, frame: int, n_uniform: int, n_hard: int, generator: torch.Generator | None, repeat_hard: bool = False
) -> tuple[Int[Tensor, " a"], Int[Tensor, " b"]]:
    """Draw pixels of a frame, uniformly and from its motion mask, without replacement but for `repeat_hard`.

    Args:
        scene: Scene to sample.
        frame: Index of the frame.
        n_uniform: Pixels from the whole frame, at most all of them.
        n_hard: Pixels from the motion mask; fewer if the mask is smaller.
        generator: Random generator on the compute device.
        repeat_hard: Draw those of the mask with replacement, always `n_hard` unless the mask is empty.

    Returns:
        Flat (row-major) indices within the frame: uniform ones, and those from the motion mask.
    """
    n_pixels, device = scene.n_pixels, scene.device
    moving = moving_pixels(scene, frame) if n_hard else torch.empty(0, dtype=torch.long, device=device)
    if repeat_hard and len(moving):
        hard = moving[torch.randint(len(moving), (n_hard,), generator=generator, device=device)]
    else:
        hard = moving[torch.randperm(len(moving), generator=generator, device=device)[:n_hard]]
    return torch.randperm(n_pixels, generator=generator, device=device)[:n_uniform], hard


def draw_background(scene: Scene, n: int, generator: torch.Generator | None) -> BackgroundBatch:
    """Draw n pixels from all frames with replacement: of twice as many candidates, those of the background first.

    The number of rays does not depend on the masks, so that a GPU is not waited for.
    """
    index = torch.randint(scene.background.numel(), (2 * n,), generator=generator, device=scene.device)
    background = _gather_chunked(scene, scene.background.flatten(), index)
    first = torch.argsort((~background).byte(), stable=True)[:n]
    index, background = index[first], background[first]
    rgb = _gather_chunked(scene, scene.images.flatten(0, 2), index) / 255.0
    uv, frames = scene.pixel_coordinates(index), index // scene.n_pixels
    rays = make_rays(uv, scene.c2w[frames], scene.intrinsics, scene.space)
    return BackgroundBatch(frames, uv, rays, rgb, background)


def _gather_chunked(scene: Scene, values: Tensor, index: Int[Tensor, " n"]) -> Tensor:
    """Gather onto the compute device, from a memory-mapped array in small chunks: read-ahead would fill the memory."""
    if not scene.is_mapped:
        return values[index]
    chunks = []
    for chunk in index.to(values.device).split(GATHER_CHUNK):
        chunks.append(values[chunk])
        scene.release_pages()
    return torch.cat(chunks).to(index.device)
