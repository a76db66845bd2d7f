"""What is on at which step: stages of the method, decay of the priors, learning rate."""

import dataclasses

from nsff.config import Config
from nsff.losses import LossWeights

PRIOR_DECAY = 10.0  # weights of depth and flow are divided by this at every multiple of D
LONGEST_WILD_STAGE = 250  # thousand steps


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """One training step. `union_everywhere`: the static field is wanted on hard-mined rays too."""

    n_hard: int
    chain: bool
    chain_backward: bool
    union_everywhere: bool
    weights: LossWeights


def stage_length(config: Config, n_frames: int) -> int:
    """D, in steps: 1000 decay_iteration; `wild` makes it follow the length of the video."""
    if config.variant == "paper":
        return 1000 * config.decay_iteration
    return 1000 * min(max(config.decay_iteration, n_frames), LONGEST_WILD_STAGE)


def plan_step(config: Config, step: int, n_frames: int) -> StepPlan:
    """What step number `step` (the first is 0) draws, renders and weighs."""
    length = stage_length(config, n_frames)
    stage, wild = step // length, config.variant == "wild"
    decay = PRIOR_DECAY**stage
    assert config.w_sf_reg is not None  # resolved by load_config
    return StepPlan(
        n_hard=config.num_extra_sample if config.use_motion_mask and stage == 0 else 0,
        chain=config.chain_sf and stage >= 2 if wild else stage >= 1,
        chain_backward=step % 2 == 0,
        union_everywhere=wild,
        weights=LossWeights(
            depth=config.w_depth / (decay if config.decay_depth_w else 1.0),
            flow=config.w_optical_flow / (decay if config.decay_optical_flow_w else 1.0),
            smooth=config.w_sm,
            sf_reg=config.w_sf_reg,
            cycle=config.w_cycle,
            prob=config.w_prob_reg,
            entropy=config.w_entropy,
            colour_where_dynamic=wild and stage >= 1,
        ),
    )


def learning_rate(config: Config, step: int) -> float:
    """lrate * 0.1^(step / (1000 lrate_decay))."""
    assert config.lrate_decay is not None  # resolved by load_config
    return config.lrate * 0.1 ** (step / (1000.0 * config.lrate_decay))
