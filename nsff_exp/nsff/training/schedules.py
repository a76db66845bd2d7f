"""What is on at which step: stages of the method, decay of the priors, learning rate."""

import dataclasses

from nsff.config import Config
from nsff.training.losses import LossWeights

PRIOR_DECAY = 10.0  # weights of depth and flow are divided by this at every multiple of D
LONGEST_WILD_STAGE = 250  # thousand steps
# The scaled schedule: however long the run is, this many stages of equal length, and this learning rate at its end.
SCALED_STAGES = 3
SCALED_LAST_RATE = 0.1
HASH_RATE = 10.0


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """One training step. `static_everywhere`: the static field is wanted on hard-mined rays too."""

    n_hard: int
    two_step: bool
    two_step_backward: bool
    static_everywhere: bool
    weights: LossWeights


def stage_length(config: Config, n_frames: int) -> int:
    """D, in steps: 1000 decay_iteration; `wild` makes it follow the length of the video."""
    if config.variant == "paper":
        return 1000 * config.decay_iteration
    return 1000 * min(max(config.decay_iteration, n_frames), LONGEST_WILD_STAGE)


def share_done(config: Config, step: int, seconds: float) -> float:
    """How much of the run is behind, 0..1: of its steps or of its time, whichever is more."""
    by_time = seconds / (60.0 * config.max_minutes) if config.max_minutes else 0.0
    return min(1.0, max(step / config.N_iters, by_time))


def _stage(config: Config, step: int, n_frames: int, share: float) -> int:
    if config.schedule == "scaled":
        return min(int(share * SCALED_STAGES), SCALED_STAGES - 1)
    return step // stage_length(config, n_frames)


def _beyond(config: Config, step: int, n_frames: int, share: float, stages: int) -> bool:
    """Whether a step lies beyond the end of so many stages: `i > stages D`, as variant wild compares."""
    if config.schedule == "scaled":
        return _stage(config, step, n_frames, share) >= stages
    return step > stages * stage_length(config, n_frames)


def plan_step(config: Config, step: int, n_frames: int, share: float = 0.0) -> StepPlan:
    """What step number `step` (the first is 0) draws, renders and weighs; `share` of the run is behind."""
    stage, wild = _stage(config, step, n_frames, share), config.variant == "wild"
    decay = PRIOR_DECAY**stage
    return StepPlan(
        n_hard=config.num_extra_sample if config.use_motion_mask and stage == 0 else 0,
        two_step=config.chain_sf and _beyond(config, step, n_frames, share, 2) if wild else stage >= 1,
        two_step_backward=step % 2 == 0,
        static_everywhere=wild,
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
            colour_where_dynamic=wild and _beyond(config, step, n_frames, share, 1),
        ),
    )


def learning_rate(config: Config, step: int, share: float = 0.0) -> float:
    """lrate * 0.1^(step / (1000 lrate_decay)); in the scaled schedule down to a tenth over the run.

    Note:
        Hash grids get `HASH_RATE` times as much, so that one `lrate` serves both kinds of fields.
    """
    start = config.lrate * (HASH_RATE if config.field == "hash" else 1.0)
    if config.schedule == "scaled":
        return start * SCALED_LAST_RATE**share
    return start * 0.1 ** (step / (1000.0 * config.lrate_decay))
