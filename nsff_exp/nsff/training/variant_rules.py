"""Differences between the losses of the two published variants."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class VariantRules:
    """Differences between the terms of the two published variants; `schedules` decides when a term is on.

    Attributes:
        flow_relative: the target of the flow loss is the difference of projected points, else pixel + flow.
        smooth_nearest: fraction of the samples of a ray, nearest first, that enter the smoothness term.
        smooth_weighted: weight neighbours along the ray by exp(-2 distance).
        two_step_regularised: the second warp has prob, cycle, magnitude and smoothness terms too.
        composited_magnitude: penalise the composited scene flow of a ray instead of that of every sample.
        entropy: the entropy of the blend weight is a term.
    """

    flow_relative: bool
    smooth_nearest: float
    smooth_weighted: bool
    two_step_regularised: bool
    composited_magnitude: bool
    entropy: bool


VARIANT_RULES = {
    "paper": VariantRules(
        flow_relative=True,
        smooth_nearest=0.9,
        smooth_weighted=True,
        two_step_regularised=True,
        composited_magnitude=False,
        entropy=False,
    ),
    "wild": VariantRules(
        flow_relative=False,
        smooth_nearest=0.95,
        smooth_weighted=False,
        two_step_regularised=False,
        composited_magnitude=True,
        entropy=True,
    ),
}
