"""Find frames whose motion masks or optical flow cannot be right, and warn of them."""

import dataclasses
import logging

import torch

from nsff.data.flow_check import check_flow
from nsff.data.scene import Scene

log = logging.getLogger("nsff")

MAX_CHECKED = 20_000  # pixels of a frame whose flow is checked, evenly spaced
MIN_RETURNING = 0.75  # of the pixels whose flow its mask calls consistent; with fewer, the flow of a frame is doubted
FULL_MASK = 0.95  # fraction of a frame from which its motion mask counts as full
MAX_NAMES = 8  # frames named in a warning


@dataclasses.dataclass(frozen=True)
class PriorDoubts:
    """Frames whose masks or flow cannot be right.

    Attributes:
        flow: frames whose flow is called consistent, but does not lead back from either neighbour.
        empty_masks: all frames, if no motion mask has a pixel; else none.
        full_masks: frames whose motion masks leave no background.
    """

    flow: tuple[int, ...]
    empty_masks: tuple[int, ...]
    full_masks: tuple[int, ...]

    @staticmethod
    def of(scene: Scene) -> "PriorDoubts":
        """Check all frames and warn of what is found."""
        frames = range(scene.timeline.n_frames)
        moving, flow = [], []
        for frame in frames:
            moving.append(float(scene.motion_masks[frame].float().mean()))
            if _returning(scene, frame) < MIN_RETURNING:
                flow.append(frame)
            scene.release_pages()
        full = tuple(frame for frame in frames if moving[frame] > FULL_MASK)
        doubts = PriorDoubts(tuple(flow), () if any(moving) else tuple(frames), full)
        doubts.report()
        return doubts

    def report(self) -> None:
        """Warn of what is found."""
        if self.flow:
            log.warning(
                "optical flow of %d frames does not lead back although its mask calls it consistent, and is not lifted "
                "there: frames %s; run run_flows_video.py again", len(self.flow), names(self.flow),
            )  # fmt: skip
        if self.empty_masks:
            log.warning("all motion masks are empty: what moves is taken for background; look at motion_masks/")
        if self.full_masks:
            log.warning(
                "motion masks of %d frames cover the whole frame, the background has nothing to learn from there: "
                "frames %s; look at motion_masks/", len(self.full_masks), names(self.full_masks),
            )  # fmt: skip


def names(frames: tuple[int, ...] | list[int]) -> str:
    """Name frames in a warning, the first `MAX_NAMES` of them."""
    return ", ".join(map(str, frames[:MAX_NAMES])) + (", ..." if len(frames) > MAX_NAMES else "")


def _returning(scene: Scene, frame: int) -> float:
    """Fraction of the pixels of consistent flow that leads back, in the better direction; 1 without such pixels."""
    pixels = torch.arange(0, scene.n_pixels, max(1, scene.n_pixels // MAX_CHECKED), device=scene.device)
    index = frame * scene.n_pixels + pixels
    fractions = []
    for step, mask in ((1, scene.flow_fwd_mask), (-1, scene.flow_bwd_mask)):
        if 0 <= frame + step < scene.timeline.n_frames:
            called_consistent = scene.pick(mask, index)
            if called_consistent.any():
                trusted = check_flow(scene, index, step)[-1]
                fractions.append(float(trusted[called_consistent].float().mean()))
    return max(fractions, default=1.0)
