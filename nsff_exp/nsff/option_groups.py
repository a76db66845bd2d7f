"""Groups of options: each declares the metadata that the command line, its help and its checks are made from."""

import dataclasses
import functools
from typing import Any


def option(default: Any, text: str, group: str, **extra: Any) -> Any:
    """Declare an option.

    Args:
        default: Default value.
        text: Help text.
        group: Title of its section in `--help`.
        extra: `choices`; for a number, its range `least` to `most` (0 to infinity if omitted) and `why` it has limits.
    """
    return dataclasses.field(default=default, metadata={"help": text, "group": group, **extra})


scene = functools.partial(option, group="scene")
field = functools.partial(option, group="fields")
train = functools.partial(option, group="training")
loss = functools.partial(option, group="losses")
log = functools.partial(option, group="logging and saving")
render = functools.partial(option, group="rendering")
viewer = functools.partial(option, group="viewer")
evaluate = functools.partial(option, group="evaluation")
bench = functools.partial(option, group="benchmark")
# Accepted so that published configs and commands work; a log line names those that are set.
unused = functools.partial(option, group="accepted, without effect", unused=True)
# Only the published value is supported: any other is an error instead of being ignored.
fixed = functools.partial(option, group="accepted, one value only", fixed=True)
