"""What a run tells while it trains: the progress bar, TensorBoard, held-out views."""

import dataclasses
import math
import time
from collections.abc import Callable

import torch
from torch.utils.tensorboard import SummaryWriter

from nsff.config import Config
from nsff.data.scene import Scene
from nsff.fields import Fields
from nsff.training.images import training_images
from nsff.training.losses import LossTerms
from nsff.training.progress_bar import ProgressBar

Validate = Callable[[Fields], dict[str, float]]  # scores some held-out views; the mean figures by name


@dataclasses.dataclass(frozen=True)
class StepReport:
    """What one step gave: scalars still on the device, so that reading them (and waiting) is the caller's choice."""

    frame: int
    terms: LossTerms
    loss: torch.Tensor
    colour_error: torch.Tensor  # mean squared error of the union on the uniform rays
    learning_rate: float

    @property
    def psnr(self) -> float:
        return -10.0 * math.log10(max(float(self.colour_error), 1e-12))


class TrainingLogger:
    """Of several processes that train together, the first one keeps it."""

    def __init__(
        self,
        config: Config,
        fields: Fields,
        scene: Scene,
        enabled: bool,
        start: tuple[int, float],
        validate: Validate | None = None,
    ):
        """`start`: the step and the fraction of the run at which it begins. `validate`: called every `i_val` steps."""
        self.config, self.fields, self.scene, self.enabled, self.start = config, fields, scene, enabled, start
        self.validate = validate

    def __enter__(self) -> "TrainingLogger":
        if self.enabled:
            self.board, self.bar = SummaryWriter(str(self.config.experiment_dir)), ProgressBar(*self.start)
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self.bar.close()
            self.board.close()

    def should_log(self, step: int) -> bool:
        """Whether figures of this step will be read, or saved."""
        shown = self.enabled and self.bar.due()
        return shown or step % self.config.i_print == 0 or step % self.config.i_weights == 0

    def log_step(self, step: int, share: float, report: StepReport) -> float:
        """Tell of a step; `share` of the run is behind. Returns seconds that were no training."""
        config = self.config
        if not self.enabled:
            return 0.0
        if self.bar.due():
            self.bar.show(step, share, float(report.loss), report.psnr)
        if step % config.i_print == 0:
            self._scalars(step, report)
        paused = time.monotonic()
        if config.i_img and step % config.i_img == 0:
            for tag, picture in training_images(self.fields, self.scene, report.frame, config).items():
                self.board.add_image(tag, picture, step, dataformats="HWC" if picture.ndim == 3 else "HW")
        if self.validate is not None and step % config.i_val == 0:
            figures = self.validate(self.fields)
            for name, value in figures.items():
                self.board.add_scalar(f"held-out/{name}", value, step)
            self.bar.held_out = figures.get("psnr")
        return time.monotonic() - paused

    def _scalars(self, step: int, report: StepReport) -> None:
        for name, value in vars(report.terms).items():
            self.board.add_scalar(f"loss/{name}", float(value), step)
        self.board.add_scalar("loss/total", float(report.loss), step)
        self.board.add_scalar("train/psnr", report.psnr, step)
        self.board.add_scalar("train/learning_rate", report.learning_rate, step)
