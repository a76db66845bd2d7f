"""Schedules: the stages of the method, the decay of the priors' weights, the learning rate."""

import dataclasses

from torch import Tensor

from nsff.config import Config
from nsff.rendering.train_render import TwoStepWarp
from nsff.training.losses import LossWeights

PRIOR_DECAY = 10.0  # weights of depth and flow are divided by this at every multiple of D
MAX_DECAYS = 300  # beyond, the divisor leaves the range of a float
MAX_WILD_STAGE = 250  # thousand steps; longer videos do not lengthen a stage of variant wild any further
# The scaled schedule, whatever the length of the run: stages of equal length, and the learning rate at its end as a
# fraction of the one at its start.
SCALED_STAGES = 3
SCALED_LAST_RATE = 0.1
MAX_WARM_PROGRESS = 0.6  # fraction of the run after which the warm start ends, however few its steps
PRIOR_STD, PRIOR_NARROWING = 0.02, 0.7  # of the samples around a depth prior; the latter fraction narrower at the end
HASH_RATE = 10.0  # learning rate of hash grids relative to that of the published networks


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """The plan of one training step.

    Attributes:
        warm_start: fit lifted points instead of rendering rays.
        n_hard: rays drawn from the motion mask, beside the uniform ones.
        two_step: the warp over two frames; its direction alternates.
        static_everywhere: evaluate the static field on the hard-mined rays too.
        prior_std: standard deviation of the samples around a certain depth prior (depth 0..1).
        weights: of the loss terms.
    """

    warm_start: bool
    n_hard: int
    two_step: TwoStepWarp
    static_everywhere: bool
    prior_std: float | Tensor
    weights: LossWeights


def stage_length(config: Config, n_frames: int) -> int:
    """Length D of a stage in steps: 1000 `decay_iteration`; variant wild adapts it to the length of the video."""
    if config.variant == "paper":
        return 1000 * config.decay_iteration
    return 1000 * min(max(config.decay_iteration, n_frames), MAX_WILD_STAGE)


def run_progress(config: Config, step: int, seconds: float) -> float:
    """Fraction of the run that is done, 0..1: of its steps or of its time limit, whichever is larger."""
    by_time = seconds / (60.0 * config.max_minutes) if config.max_minutes else 0.0
    return min(1.0, max(step / config.N_iters, by_time))


def _stage_index(config: Config, step: int, n_frames: int, progress: float) -> int:
    """Index of the stage, from 0; the published schedule has no last one."""
    if config.schedule == "scaled":
        return min(int(progress * SCALED_STAGES), SCALED_STAGES - 1)
    return step // stage_length(config, n_frames)


def _is_past(n_stages: int, config: Config, step: int, n_frames: int, progress: float) -> bool:
    """Compare as variant wild does: `step > n_stages * D`, so its stages begin one step later than those of paper."""
    if config.schedule == "scaled":
        return _stage_index(config, step, n_frames, progress) >= n_stages
    return step > n_stages * stage_length(config, n_frames)


def plan_step(config: Config, step: int, n_frames: int, progress: float = 0.0, warm_share: float = 1.0) -> StepPlan:
    """Plan a training step: the rays to draw, the renders to make, the weights of the losses.

    Args:
        config: variant, schedule and weights.
        step: number of the step; the first is 0.
        n_frames: length of the sequence.
        progress: fraction of the run that is done, 0..1; the scaled schedule follows it.
        warm_share: fraction of the warm start to make, 0..1.
    """
    stage, wild = _stage_index(config, step, n_frames, progress), config.variant == "wild"
    decay = PRIOR_DECAY ** min(stage, MAX_DECAYS)
    return StepPlan(
        warm_start=step < warm_share * config.max_warm_steps and progress < warm_share * MAX_WARM_PROGRESS,
        n_hard=config.num_extra_sample if config.use_motion_mask and (stage == 0 or config.lifts_priors) else 0,
        two_step=TwoStepWarp(
            backward=step % 2 == 0,
            rendered=config.chain_sf and _is_past(2, config, step, n_frames, progress) if wild else stage >= 1,
        ),
        static_everywhere=wild or config.lifts_priors,
        prior_std=PRIOR_STD * (1.0 - PRIOR_NARROWING * progress),
        weights=LossWeights(
            depth=config.w_depth / (decay if config.decay_depth_w else 1.0),
            flow=config.w_optical_flow / (decay if config.decay_optical_flow_w else 1.0),
            smooth=config.w_sm,
            sf_reg=config.w_sf_reg,
            cycle=config.w_cycle,
            prob=config.w_prob_reg,
            entropy=config.w_entropy,
            distortion=config.w_distortion,
            split=config.w_split,
            line_of_sight=config.w_line_of_sight if config.lifts_priors else 0.0,
            colour_where_dynamic=wild and _is_past(1, config, step, n_frames, progress),
            blended_on_hard=config.lifts_priors,
        ),
    )


def learning_rate(config: Config, step: int, progress: float = 0.0) -> float:
    """Learning rate of a step: lrate * 0.1^(step / (1000 lrate_decay)), or lrate * 0.1^progress if scaled.

    Note:
        Hash grids get `HASH_RATE` times that, so that one `lrate` serves both kinds of fields.
    """
    start = config.lrate * (HASH_RATE if config.field == "hash" else 1.0)
    if config.schedule == "scaled":
        return start * SCALED_LAST_RATE**progress
    return start * 0.1 ** (step / (1000.0 * config.lrate_decay))
