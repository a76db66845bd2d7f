"""Draw the pixels of a training step and cast the rays through them."""

import dataclasses

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nsff.data.scene import Scene
from nsff.geometry.rays import RayBundle, make_rays

GATHER_CHUNK = 128  # pixels gathered between releases of mapped pages


@dataclasses.dataclass(frozen=True)
class TrainBatch:
    """n pixels of one frame: first `n_uniform` from the whole frame, then hard-mined ones from its motion mask.

    `index` is flat (row-major); `uv` and flow are (right, down) in pixels, `rgb` is 0..1.
    """

    frame: int
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


def gather_batch(scene: Scene, frame: int, uniform: Int[Tensor, " a"], hard: Int[Tensor, " b"]) -> TrainBatch:
    """Gather pixels of a frame by flat (row-major) indices, uniform ones first, on the compute device."""
    index = torch.cat([uniform, hard])
    width = scene.intrinsics.width
    uv = torch.stack([index % width, index // width], dim=-1).to(scene.images.dtype)

    def pick(values: Tensor) -> Tensor:
        return values[frame].flatten(0, 1)[index.to(values.device)].to(scene.device)

    return TrainBatch(
        frame,
        len(uniform),
        index,
        uv,
        make_rays(uv, scene.c2w[frame], scene.intrinsics),
        rgb=pick(scene.images),
        disparity=pick(scene.disparity),
        flow_fwd=pick(scene.flow_fwd),
        flow_fwd_mask=pick(scene.flow_fwd_mask),
        flow_bwd=pick(scene.flow_bwd),
        flow_bwd_mask=pick(scene.flow_bwd_mask),
        background=pick(scene.background),
    )


def moving_pixels(scene: Scene, frame: int) -> Int[Tensor, " m"]:
    """Flat (row-major) indices of the pixels inside the motion mask of a frame, possibly none; found once per frame."""
    if frame not in scene.moving:
        scene.moving[frame] = scene.motion_masks[frame].flatten().nonzero().squeeze(-1).to(scene.device)
    return scene.moving[frame]


def draw_batch(scene: Scene, frame: int, n_uniform: int, n_hard: int, generator: torch.Generator) -> TrainBatch:
    """Draw pixels of a frame without replacement, uniformly and from its motion mask.

    Args:
        scene: Scene to sample.
        frame: Index of the frame.
        n_uniform: Pixels from the whole frame, at most all of them.
        n_hard: Pixels from the motion mask; fewer if the mask is smaller.
        generator: Random generator on the compute device.
    """
    n_pixels = scene.intrinsics.height * scene.intrinsics.width
    device = scene.device
    moving = moving_pixels(scene, frame) if n_hard else torch.empty(0, dtype=torch.long, device=device)
    hard = moving[torch.randperm(len(moving), generator=generator, device=device)[:n_hard]]
    uniform = torch.randperm(n_pixels, generator=generator, device=device)[:n_uniform]
    return gather_batch(scene, frame, uniform, hard)


def draw_background(scene: Scene, n: int, generator: torch.Generator) -> BackgroundBatch:
    """Draw n pixels from all frames with replacement: of twice as many candidates, those of the background first.

    The number of rays does not depend on the masks, so that a GPU is not waited for.
    """
    height, width = scene.intrinsics.height, scene.intrinsics.width
    index = torch.randint(scene.background.numel(), (2 * n,), generator=generator, device=scene.device)
    background = _gather_chunked(scene, scene.background.flatten(), index)
    first = torch.argsort((~background).byte(), stable=True)[:n]
    index, background = index[first], background[first]
    rgb = _gather_chunked(scene, scene.images.flatten(0, 2), index)
    uv = torch.stack([index % width, index // width % height], dim=-1).to(scene.images.dtype)
    frames = index // (height * width)
    return BackgroundBatch(frames, uv, make_rays(uv, scene.c2w[frames], scene.intrinsics), rgb, background)


def _gather_chunked(scene: Scene, values: Tensor, index: Int[Tensor, " n"]) -> Tensor:
    """Gather onto the compute device, from a memory-mapped array in small chunks: read-ahead would fill the memory."""
    if values.device == index.device != torch.device("cpu"):
        return values[index]
    chunks = []
    for chunk in index.to(values.device).split(GATHER_CHUNK):
        chunks.append(values[chunk])
        scene.release_pages()
    return torch.cat(chunks).to(index.device)
