"""Find frames whose motion masks or optical flow cannot be right, and warn of them."""

import dataclasses
import logging

import torch
from jaxtyping import Bool
from torch import Tensor

from nsff.data.flow_check import check_flow
from nsff.data.scene import Scene

log = logging.getLogger("nsff")

MAX_CHECKED = 20_000  # pixels of a frame whose flow is checked, evenly spaced
MIN_RETURNING = 0.75  # of the pixels whose flow its mask calls consistent; with fewer, the flow of a frame is doubted
# Of the same; with fewer, the flow is noise and what returns does so by chance: 0.13 to 0.25 of random flow does, 0.5
# of flow of which a third of the pixels is random.
MIN_SIGNAL = 0.4
FULL_MASK = 0.95  # fraction of a frame from which its motion mask counts as full
MAX_NAMES = 8  # frames named in a warning


@dataclasses.dataclass(frozen=True)
class PriorDoubts:
    """Frames whose masks or flow cannot be right.

    Attributes:
        flow: frames whose flow is called consistent, but does not lead back from either neighbour.
        noise: frames whose flow to the next (first) or previous (second) frame is noise, or the flow back is.
        empty_masks: all frames, if no motion mask has a pixel; else none.
        full_masks: frames whose motion masks leave no background.
    """

    flow: tuple[int, ...]
    noise: tuple[tuple[int, ...], tuple[int, ...]]
    empty_masks: tuple[int, ...]
    full_masks: tuple[int, ...]

    @staticmethod
    def of(scene: Scene) -> "PriorDoubts":
        """Check all frames and warn of what is found."""
        frames = range(scene.timeline.n_frames)
        moving, forward, backward = [], [], []
        for frame in frames:
            moving.append(float(scene.motion_masks[frame].float().mean()))
            forward.append(_returning(scene, frame, 1))
            backward.append(_returning(scene, frame, -1))
            scene.release_pages()
        doubts = PriorDoubts(
            flow=tuple(t for t in frames if -1.0 < max(forward[t], backward[t]) < MIN_RETURNING),
            noise=(_noisy(forward), _noisy(backward)),
            empty_masks=() if any(moving) else tuple(frames),
            full_masks=tuple(frame for frame in frames if moving[frame] > FULL_MASK),
        )
        doubts.report()
        return doubts

    def without_noise(self, scene: Scene) -> Scene:
        """The scene without the flow that is noise: its masks are empty there."""
        if not any(self.noise):
            return scene
        fwd, bwd = (
            _cleared(mask, frames)
            for mask, frames in zip((scene.flow_fwd_mask, scene.flow_bwd_mask), self.noise, strict=True)
        )
        return dataclasses.replace(scene, flow_fwd_mask=fwd, flow_bwd_mask=bwd)

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


def _noisy(returning: list[float]) -> tuple[int, ...]:
    """Frames of whose flow almost nothing leads back."""
    return tuple(frame for frame, fraction in enumerate(returning) if -1.0 < fraction < MIN_SIGNAL)


def _cleared(mask: Bool[Tensor, "N H W"], frames: tuple[int, ...]) -> Bool[Tensor, "N H W"]:
    """A copy of the masks of all frames, empty in the given ones."""
    copy = mask.clone()
    copy[list(frames)] = False
    return copy


def _returning(scene: Scene, frame: int, step: int) -> float:
    """Fraction of the pixels of consistent flow to a neighbour that leads back; -1 without neighbour or such pixels."""
    if not 0 <= frame + step < scene.timeline.n_frames:
        return -1.0
    pixels = torch.arange(0, scene.n_pixels, max(1, scene.n_pixels // MAX_CHECKED), device=scene.device)
    index = frame * scene.n_pixels + pixels
    called_consistent = scene.pick(scene.flow_fwd_mask if step > 0 else scene.flow_bwd_mask, index)
    if not called_consistent.any():
        return -1.0
    return float(check_flow(scene, index, step)[-1][called_consistent].float().mean())
