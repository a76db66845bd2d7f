"""Progress bar of a training run."""

import sys
import time

from tqdm import tqdm

from nsff.cli import progress_bar

UPDATE_INTERVAL, FILE_UPDATE_INTERVAL = 1.0, 30.0  # seconds between updates on a terminal, and in a file

BAR_FORMAT = "{percentage:3.0f}% |{bar}| [{elapsed}{postfix}]"


class ProgressBar:
    """Fraction of the run that is done, with step, loss, PSNR and time left; hidden by `--quiet`."""

    def __init__(self, step: int, progress: float):
        """Start at a step and a fraction of the run, as a resumed run does."""
        self.first_step, self.first_progress = step, progress
        self.started, self.next_update = time.monotonic(), 0.0
        self.heldout_psnr: float | None = None  # dB, from the latest validation
        self.bar = progress_bar(
            total=1.0, initial=progress, bar_format="{percentage:3.0f}% |{bar}| [{elapsed}{postfix}]"
        )

    def is_due(self) -> bool:
        """Whether the next update is due: reading the loss waits for the device, too costly for every step."""
        return time.monotonic() >= self.next_update

    def update(self, step: int, progress: float, loss: float, psnr: float) -> None:
        """Show the state after a step; `progress`: fraction of the run, 0..1; `psnr` in dB."""
        now = time.monotonic()
        elapsed = now - self.started
        self.next_update = now + (UPDATE_INTERVAL if sys.stderr.isatty() else FILE_UPDATE_INTERVAL)
        done, speed = progress - self.first_progress, (step - self.first_step) / elapsed
        left = f", left {tqdm.format_interval(int(elapsed * (1.0 - progress) / done))}" if done > 0.0 else ""
        heldout = "" if self.heldout_psnr is None else f", held-out {self.heldout_psnr:.2f}"
        self.bar.n = progress
        self.bar.set_postfix_str(f"step {step}, {speed:.2f}/s, loss {loss:.4f}, psnr {psnr:.2f}{heldout}{left}")

    def close(self) -> None:
        """Leave the last state on the screen."""
        self.bar.refresh()
        self.bar.close()
