"""Measure how far the priors of a scene agree with each other: depth with flow and poses, flow with colours."""

import dataclasses

import numpy as np
import torch

from nsff.data.pixel_sampler import moving_pixels
from nsff.data.priors import Priors

MIN_CONFIDENCE = 0.5  # of a prior that counts as believed
MAX_PIXELS = 4096  # of a frame's motion mask
MIN_KNOWN = 25.0  # percent of the moving pixels of a frame; with less lifted flow it is named


@dataclasses.dataclass(frozen=True)
class PriorFigures:
    """Agreement of the priors; None where there is nothing to measure them on.

    Attributes:
        prior_depth: disagreement of disparity with flow and poses, median of the frames, in percent of the width.
        prior_frames: frames whose disparity is believed, in percent.
        prior_flow: pixels inside the motion masks whose flow could be lifted to scene flow, in percent.
        prior_moving: moving regions whose track gives their depth and does not contradict the given one, in percent.
    """

    prior_depth: float | None
    prior_frames: float | None
    prior_flow: float | None
    prior_moving: float | None


@torch.no_grad()
def measure_priors(priors: Priors) -> tuple[PriorFigures, dict[str, tuple[int, ...]]]:
    """Measure the priors of all frames, on every pixel of the motion masks or `MAX_PIXELS` evenly spaced ones.

    Returns:
        The figures, and by the name of a figure the frames whose prior is doubted: disparity that is not believed,
        motion of which less than `MIN_KNOWN` percent could be lifted or whose flow does not lead back, regions whose
        track contradicts their depth, and masks that are empty or full.
    """
    scene = priors.scene
    residuals = [alignment.residual for alignment in priors.alignments if np.isfinite(alignment.residual)]
    bad_depth = tuple(
        frame
        for frame, alignment in enumerate(priors.alignments)
        if not alignment.believed and frame not in priors.doubts.full_masks
    )
    regions, known = priors.moving.regions, {}
    for frame in range(scene.timeline.n_frames):
        moving = moving_pixels(scene, frame)
        if len(moving):
            lifted = priors.lift(frame * scene.n_pixels + moving[:: max(1, len(moving) // MAX_PIXELS)])
            best = torch.maximum(lifted.sf_fwd_confidence, lifted.sf_bwd_confidence)
            known[frame] = 100.0 * float((best > MIN_CONFIDENCE).float().mean())
    figures = PriorFigures(
        prior_depth=100.0 * float(np.median(residuals)) / scene.intrinsics.width if residuals else None,
        prior_frames=100.0 * (1.0 - len(bad_depth) / len(priors.alignments)),
        prior_flow=float(np.mean(list(known.values()))) if known else None,
        prior_moving=100.0 * float(np.mean([not region.contradicts for region in regions])) if regions else None,
    )
    bad_flow = {frame for frame, percent in known.items() if percent < MIN_KNOWN}
    return figures, {
        "prior_frames": bad_depth,
        "prior_flow": tuple(sorted(bad_flow.union(priors.doubts.flow))),
        "prior_moving": priors.moving.doubted_frames(),
        "moving": priors.doubts.empty_masks,
        "static": priors.doubts.full_masks,
    }
