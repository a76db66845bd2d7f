"""Verdicts on the figures of a trained scene, and the change to make for each that is not good."""

import dataclasses
import re
from typing import Literal

import numpy as np

from nsff.config import Config

MAX_NAMES = 12  # frames named in an advice

Verdict = Literal["good", "fair", "poor", "-"]


@dataclasses.dataclass(frozen=True)
class Check:
    """A figure of the health report and its interpretation.

    Attributes:
        figure: field of `diagnostics.HealthFigures`.
        name: as reported.
        unit: of the figure.
        good: limit of the verdict "good". Larger figures are better if good > poor, smaller ones otherwise.
        poor: limit of the verdict "poor".
        meaning: of the figure.
        advice: change to make where the verdict is not "good".
        unknown: what it means, and what to do, if the figure could not be measured.
    """

    figure: str
    name: str
    unit: str
    good: float
    poor: float
    meaning: str
    advice: str
    unknown: str = ""

    def verdict(self, value: float | None) -> Verdict:
        if value is None or not np.isfinite(value):
            return "-"
        sign = 1.0 if self.good > self.poor else -1.0
        if sign * value >= sign * self.good:
            return "good"
        return "fair" if sign * value > sign * self.poor else "poor"


# The limits are judgement from three scenes (Balloon1, a toy train, a rendered room), not figures of the paper.
CHECKS = (
    Check("parallax", "parallax", "% of the width", 4.0, 1.5, "shift of the nearest point over the whole video",
          "the camera hardly moves sideways: film with more sideways motion, or use more frames"),
    Check("step", "step", "% of the width", 0.15, 0.02, "shift of the nearest point between frames, median",
          "neighbouring frames are almost the same: take every second or third frame (--fps of prepare_video.py)"),
    Check("moving", "moving pixels", "%", 0.5, 0.05, "fraction of pixels inside the motion masks",
          "masks are almost empty: look at motion_masks/; --semantic maskrcnn, or a smaller --epi_threshold"),
    Check("static", "static pixels", "%", 50.0, 20.0, "fraction of pixels well outside the motion masks",
          "masks cover almost everything, the static field has nothing to learn from: a larger --epi_threshold, and "
          "look at the cameras"),
    Check("prior_depth", "given depth", "% of the width", 0.2, 0.8,
          "disparity against flow and poses on the background, median of the frames",
          "the given depth contradicts flow and poses and can guide little: other depth (--depth multiview), and look "
          "at the cameras"),
    Check("prior_frames", "frames with usable depth", "%", 100.0, 80.0, "frames whose disparity agrees with the poses",
          "the disparity of some frames contradicts flow and poses and is not used: look at disp/ there"),
    Check("prior_flow", "lifted motion", "%", 50.0, 25.0,
          "moving pixels whose optical flow could be lifted to scene flow",
          "flow is inconsistent or changes colour where things move: faster motion than the frame rate shows, or masks "
          "beside the things; look at sheets/flow_and_masks.jpg"),
    Check("prior_moving", "given depth of what moves", "%", 100.0, 50.0,
          "moving regions whose depth agrees with their path, of those whose path gives it",
          "the given depth of moving things contradicts their path and was corrected for training (the log of the run "
          "names by how much): look at disp/ there, or other depth (--depth multiview)",
          unknown="no path of what moves tells its depth, which is taken as given: compare it with the video, in "
          "sheets/disparity.jpg"),
    Check("fit_static", "fit, static", "dB PSNR", 24.0, 19.0, "frames of the video, rendered, outside the masks",
          "the static part does not fit: train longer; if it stays, cameras are wrong (see the error in the log of "
          "run_colmap.py)"),
    Check("fit_moving", "fit, moving", "dB PSNR", 22.0, 19.0, "frames of the video, rendered, inside the masks",
          "the moving part does not fit: train longer, --use_motion_mask, a larger --num_extra_sample"),
    Check("warps", "warps", "dB PSNR", 20.0, 15.0, "moving pixels, rendered from the times of both neighbours",
          "scene flow does not explain the video: a larger --w_optical_flow, a smaller --w_sm, more training"),
    Check("flow", "flow", "% of the width", 0.3, 1.5, "scene flow against optical flow in the masks, median distance",
          "motion is not learnt: train longer, a larger --w_optical_flow; --bd_factor 0.6 if things come close"),
    Check("static_in_moving", "static field in moving pixels", "%", 15.0, 40.0,
          "weight of the static field inside the masks",
          "ghosts: moving things are baked into the static field; --background_rays 1024 keeps them out"),
    Check("dynamic_in_static", "dynamic field in static pixels", "%", 5.0, 20.0,
          "weight of the dynamic field outside the masks",
          "the dynamic field explains the static scene as well, new views will smear: --w_split 0.01, "
          "--background_rays 1024"),
    Check("undecided", "undecided pixels", "%", 10.0, 30.0, "entropy of the blend, 100 % if both fields weigh the same",
          "the fields are not clearly split: --w_split 0.01, or --variant wild with --w_entropy"),
    Check("depth", "depth", "rank correlation", 0.85, 0.5, "rendered depth against the given disparity",
          "the geometry does not follow the given depth: look at disp/, --w_depth, or other depth (--depth)"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class HealthRow:
    """A row of the health report; its fields are the keys in `health.json`."""

    name: str
    value: float | None
    unit: str
    verdict: Verdict
    meaning: str
    advice: str


def make_row(check: Check, value: float | None, config: Config, frames: tuple[int, ...] = ()) -> HealthRow:
    """Judge a figure; where it is not good, add the advice and the options of it that are changed already.

    Args:
        check: of the figure.
        value: the figure.
        config: whose options the advice is compared with.
        frames: frames that the figure does not trust; the advice names them.
    """
    verdict = check.verdict(value)
    advice = check.unknown if value is None else check.advice if verdict in ("fair", "poor") else ""
    defaults = {option.name: option.default for option in dataclasses.fields(Config)}
    options = [name for name in re.findall(r"--(\w+)", advice) if name in defaults]
    if changed := [f"{name} {getattr(config, name)}" for name in options if getattr(config, name) != defaults[name]]:
        advice += f" (set already: {', '.join(changed)}; train longer)"
    if frames:
        names = ", ".join(map(str, frames[:MAX_NAMES])) + (", ..." if len(frames) > MAX_NAMES else "")
        advice += f"{'; ' if advice else ''}frames: {names}"
    return HealthRow(check.name, value, check.unit, verdict, check.meaning, advice)


def format_health(rows: list[HealthRow]) -> str:
    """One line per figure, with its advice on a line below."""
    lines = []
    for row in rows:
        value = "-" if row.value is None else f"{row.value:.2f}"
        lines.append(f"{row.verdict:5} {row.name:30} {value:>8} {row.unit:17} {row.meaning}")
        if row.advice:
            lines.append(f"      -> {row.advice}")
    return "\n".join(lines)
