"""What a person at the terminal sees of a long run, and how they stop it."""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

EVERY, EVERY_IN_A_FILE = 1.0, 30.0  # seconds between readings


class ProgressBar:
    """Share of the run with step, loss, PSNR and time left."""

    def __init__(self, step: int, share: float):
        self.first_step, self.first_share, self.begun, self.next_reading = step, share, time.monotonic(), 0.0
        self.held_out: float | None = None  # PSNR of held-out views, once it is known
        self.bar = tqdm(total=1.0, initial=share, bar_format="{percentage:3.0f}% |{bar}| [{elapsed}{postfix}]")

    def due(self) -> bool:
        """Once a second, on a terminal: reading figures waits for the device, so it is not done every step."""
        return time.monotonic() >= self.next_reading

    def show(self, step: int, share: float, loss: float, psnr: float) -> None:
        """Bring the line up to date; `share` of the run (0..1) is behind."""
        elapsed = time.monotonic() - self.begun
        self.next_reading = self.begun + elapsed + (EVERY if sys.stderr.isatty() else EVERY_IN_A_FILE)
        done, speed = share - self.first_share, (step - self.first_step) / elapsed
        left = f", left {tqdm.format_interval(int(elapsed * (1.0 - share) / done))}" if done > 0.0 else ""
        held_out = "" if self.held_out is None else f", held-out {self.held_out:.2f}"
        self.bar.n = share
        self.bar.set_postfix_str(f"step {step}, {speed:.2f}/s, loss {loss:.4f}, psnr {psnr:.2f}{held_out}{left}")

    def close(self) -> None:
        """Leave the last state on the screen."""
        self.bar.refresh()
        self.bar.close()


@contextlib.contextmanager
def interruptible() -> Iterator[list[int]]:
    """A list that fills on Ctrl-C or SIGTERM; the second Ctrl-C acts at once."""
    seen: list[int] = []

    def note(number: int, _: Any) -> None:
        seen.append(number)
        tqdm.write("stopping after this step; Ctrl-C again stops at once, without saving", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
