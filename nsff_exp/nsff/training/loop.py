"""The training loop: steps, checks, logging and checkpoints until the run ends or is interrupted."""

import contextlib
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nsff.config import Config
from nsff.config_loader import format_args
from nsff.cuda import step_memory_advice
from nsff.fields import Fields
from nsff.io import read_or_raise, read_text, write_text
from nsff.lock import lock_folder
from nsff.training.checkpoint import remove_unfinished
from nsff.training.logger import TrainingLogger, Validate
from nsff.training.trainer import DIVERGENCE_ADVICE, Diverged, StepReport, Trainer

log = logging.getLogger("nsff")

MAX_STEPS_ALONE = 100  # steps between two agreements of the processes of a group
Show = Callable[[Fields, int], None]

MAX_LOSS = 1e6  # treat a loss term above this as divergence


def train(trainer: Trainer, validate: Validate | None = None, show: Show | None = None) -> None:
    """Train to `N_iters` steps or `max_minutes`, and end with a checkpoint.

    Ctrl-C or SIGTERM ends the run after the current step. In a process group, the main process writes all files.

    Args:
        trainer: the run; resumed from its newest checkpoint if any.
        validate: scorer of held-out views, called every `i_val` steps; its time does not count as training.
        show: shows the fields of a step to the user, called every `viewer_every` steps; its time does not count either.

    Raises:
        InputError: another run uses the folder, or the folder cannot be written.
        Diverged: a loss or a weight exploded.
    """
    config, group = trainer.config, trainer.group
    with lock_folder(config.experiment_dir) if group.is_main else contextlib.nullcontext():
        if group.is_main:
            _write_settings(config)
            remove_unfinished(config.experiment_dir)
        trainer.resume()
        if (reason := trainer.stop_reason()) is not None:
            log.info("%s", reason)
            return
        with deferred_interrupts() as signals, TrainingLogger(trainer, validate) as logger:
            clock, saved_at, interrupted = Clock(trainer.seconds), trainer.seconds, False
            agreement = Agreement(config, group.size, trainer.step, trainer.seconds)
            while trainer.stop_reason() is None and not interrupted:
                with step_memory_advice(config):
                    report = trainer.train_step()
                # Reading the loss waits for a GPU, so there it is checked only where it is read anyway.
                if trainer.device.type == "cpu" or logger.should_log():
                    check_loss(report, trainer.step)
                logger.log_step(report)
                with clock.pause():
                    logger.log_images(report.frame)
                    logger.log_validation()
                    if show is not None and trainer.step % config.viewer_every == 0:
                        show(trainer.fields, trainer.step)
                if agreement.is_due(trainer.step):
                    trainer.seconds, interrupted = group.all_reduce_flags(clock.seconds, bool(signals))
                    agreement.plan_next(trainer.step, trainer.seconds)
                if _save_is_due(config, trainer, saved_at):
                    check_loss(report, trainer.step)
                    trainer.save()
                    saved_at = trainer.seconds
            check_loss(report, trainer.step)
            path = trainer.save()
    log.info("saved %s; %s", path, trainer.stop_reason() or "to go on, run the same command again")


def _save_is_due(config: Config, trainer: Trainer, saved_at: float) -> bool:
    """Whether `i_weights` or `save_minutes` ask for a checkpoint, the same in all processes of a group."""
    minutes = (trainer.seconds - saved_at) / 60.0
    return trainer.step % config.i_weights == 0 or 0.0 < config.save_minutes <= minutes


class Agreement:
    """The steps after which the processes of a group agree on the time and on stopping: about one a second.

    Every agreement waits for the slowest process. Each process plans them from what was agreed, so that all plan the
    same. A process by itself agrees with itself after every step.
    """

    def __init__(self, config: Config, size: int, step: int, seconds: float):
        self.config, self.alone = config, size == 1
        self.step, self.seconds, self.next_step = step, seconds, step + 1

    def is_due(self, step: int) -> bool:
        """Whether to agree after a step; also where the main process may have been busy, while the others would wait
        in a collective between GPUs, which has a short timeout."""
        pauses = (self.config.i_img, self.config.i_val, self.config.viewer_every)
        return self.alone or step >= self.next_step or any(every and step % every == 0 for every in pauses)

    def plan_next(self, step: int, seconds: float) -> None:
        """Plan the next agreement from the pace since the last one, given the step and the seconds agreed on."""
        pace = (step - self.step) / max(seconds - self.seconds, 1e-3)  # steps per second
        self.step, self.seconds = step, seconds
        self.next_step = step + max(1, min(MAX_STEPS_ALONE, round(pace)))


class Clock:
    """Counts seconds of training, continuing from those of earlier runs."""

    def __init__(self, seconds: float = 0.0):
        self._start = time.monotonic() - seconds

    @property
    def seconds(self) -> float:
        """Seconds since the start, pauses left out."""
        return time.monotonic() - self._start

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave out the time of the context."""
        paused = time.monotonic()
        yield
        self._start += time.monotonic() - paused


def check_loss(report: StepReport, step: int) -> None:
    """Check that all loss terms are in range.

    Raises:
        Diverged: a term is NaN, infinite or above `MAX_LOSS`; the message names it and the frame.
    """
    for name, value in vars(report.terms).items():
        if not abs(float(value)) < MAX_LOSS:
            raise Diverged(
                f"step {step}, frame {report.frame}: loss term {name} is {float(value):g}; {DIVERGENCE_ADVICE}"
            )


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM in the list that is yielded; a second Ctrl-C raises KeyboardInterrupt at once."""
    signals: list[int] = []

    def defer(number: int, _: Any) -> None:
        signals.append(number)
        tqdm.write("stopping after this step; Ctrl-C again stops at once, without saving", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, defer) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _write_settings(config: Config) -> None:
    """Write `args.txt`, and a copy of the config file if any, into the experiment folder."""
    write_text(config.experiment_dir / "args.txt", format_args(config))
    if config.config:
        source = Path(config.config)
        write_text(config.experiment_dir / "config.txt", read_or_raise(source, lambda: read_text(source)))
