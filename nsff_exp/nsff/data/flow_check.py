"""Check optical flow against the flow back, whatever its consistency mask says."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from nsff.data.scene import Scene
from nsff.data.timeline import FlowDirection

# Tolerance: a fraction of the lengths of both flows, and pixels. As published, and a pixel more, because the flow back
# is that of the nearest pixel.
CONSISTENCY_FRACTION, CONSISTENCY_PIXELS = 0.5, 1.5


def has_neighbour(scene: Scene, index: Int[Tensor, " n"], step: int) -> Bool[Tensor, " n"]:
    """Whether the frame of a pixel has a next (`step` 1) or previous (-1) one."""
    neighbour = index // scene.n_pixels + step
    return (neighbour >= 0) & (neighbour < scene.timeline.n_frames)


def check_flow(
    scene: Scene, index: Int[Tensor, " n"], step: int
) -> tuple[Float[Tensor, "n 2"], Int[Tensor, " n"], Bool[Tensor, " n"]]:
    """Read the flow of pixels to the next (`step` 1) or previous (-1) frame, and decide whether to trust it.

    Flow is trusted if its mask says that it is consistent, it ends inside the frame, and the flow back from there leads
    to the pixel again.

    Args:
        scene: the scene.
        index: pixels, flat (row-major) over all frames.
        step: 1 or -1.

    Returns:
        Coordinates (right, down) where the flow leads, flat index of the nearest pixel, and whether to trust it.
    """
    mask = scene.flow_fwd_mask if step > 0 else scene.flow_bwd_mask
    direction: FlowDirection = "forward" if step > 0 else "backward"
    opposite: FlowDirection = "backward" if step > 0 else "forward"
    height, width = scene.intrinsics.height, scene.intrinsics.width
    forth = scene.flow(index, direction)
    target = scene.pixel_coordinates(index) + forth
    right, down = target.round().long().unbind(-1)
    inside = (right >= 0) & (right < width) & (down >= 0) & (down < height) & has_neighbour(scene, index, step)
    neighbour = (index // scene.n_pixels + step).clamp(0, scene.timeline.n_frames - 1)
    there = neighbour * scene.n_pixels + down.clamp(0, height - 1) * width + right.clamp(0, width - 1)
    back = scene.flow(there, opposite)
    tolerance = CONSISTENCY_FRACTION * (forth.norm(dim=-1) + back.norm(dim=-1)) + CONSISTENCY_PIXELS
    returns = (forth + back).norm(dim=-1) < tolerance
    return target, there, scene.pick(mask, index) & inside & returns
