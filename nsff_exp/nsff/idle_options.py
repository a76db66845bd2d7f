"""Options that are set but have no effect with the others: accepted, and named in the log."""

import argparse
from collections.abc import Callable, Collection

from nsff.config import OPTIONS, Config

MULTI_PROCESS_SCRIPTS = ("run_nerf.py", "render.py", "evaluation.py", "evaluate_all.py")
# Configs for several kinds of fields or scripts hold the options of all of them; that is no mistake, so these are named
# if they are on the command line only.
OF_KINDS: tuple[tuple[tuple[str, ...], Callable[[Config], bool], str], ...] = (
    (("netdepth", "netwidth", "multires"), lambda config: config.field == "mlp", "needs field mlp"),
    (("N_samples",), lambda config: not config.importance, "hash_samples takes its place"),
    (("decay_iteration", "lrate_decay"), lambda config: config.schedule == "published", "needs schedule published"),
    (
        tuple(option.name for option in OPTIONS if option.name.startswith("hash_")),
        lambda config: config.field == "hash",
        "needs field hash",
    ),
    (
        ("cuda_factor",),
        lambda config: config.field == "hash" or config.schedule == "scaled",
        "needs field hash or schedule scaled",
    ),
)
RULES: tuple[tuple[tuple[str, ...], Callable[[Config], bool], str], ...] = (
    (("chain_sf",), lambda config: config.variant != "paper", "always on in variant paper"),
    (("w_entropy",), lambda config: config.variant == "wild", "needs variant wild"),
    (("prior_samples", "w_line_of_sight"), lambda config: config.lifts_priors, "needs field hash and schedule scaled"),
    (
        ("num_extra_sample",),
        lambda config: config.use_motion_mask or config.lifts_priors,
        "needs use_motion_mask",
    ),
    (("force_ndc",), lambda config: not config.no_ndc, "no_ndc wins"),
)


def idle_options(config: Config, prog: str = "run_nerf.py", typed: Collection[str] = ()) -> list[str]:
    """Options that have no effect, each by its name and, if not obvious, the reason.

    `no_batching` is left out: it asks for rays of one frame per step, which is what training does.

    Args:
        config: all options.
        prog: the script.
        typed: names of the options that are set on the command line.
    """
    changed = [option for option in OPTIONS if getattr(config, option.name) != option.default]
    names = [option.name for option in changed if option.metadata.get("unused") and option.name != "no_batching"]
    for rules, candidates in ((RULES, {option.name for option in changed}), (OF_KINDS, set(typed))):
        for options, acts, reason in rules:
            names += [f"{name} ({reason})" for name in options if name in candidates and not acts(config)]
    if config.gpus and prog not in MULTI_PROCESS_SCRIPTS:
        names.append(f"gpus ({prog} is one process)")
    return names


def typed_options(command_line: argparse.Namespace) -> set[str]:
    """Names of the options that a command line, parsed without its config file, sets to other than their defaults."""
    return {option.name for option in OPTIONS if getattr(command_line, option.name) != option.default}
