"""Logging of a training run: the progress bar, TensorBoard, scores of held-out views."""

from collections.abc import Callable

from torch.utils.tensorboard import SummaryWriter

from nsff.fields import Fields
from nsff.training.images import training_images
from nsff.training.progress_bar import ProgressBar
from nsff.training.trainer import StepReport, Trainer

Validate = Callable[[Fields], dict[str, float]]  # scores held-out views; mean of each metric by its name


class TrainingLogger:
    """Logs the steps of a trainer in the main process; in any other process all methods do nothing."""

    def __init__(self, trainer: Trainer, validate: Validate | None = None):
        """Args: the run to log, and the scorer that is called every `i_val` steps."""
        self.trainer, self.validate, self.enabled = trainer, validate, trainer.group.is_main

    def __enter__(self) -> "TrainingLogger":
        if self.enabled:
            self.writer = SummaryWriter(str(self.trainer.config.experiment_dir))
            self.bar = ProgressBar(self.trainer.step, self.trainer.progress)
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self.bar.close()
            self.writer.close()

    def _every(self, interval: int) -> bool:
        return self.enabled and interval > 0 and self.trainer.step % interval == 0

    def should_log(self) -> bool:
        """Whether the figures of the latest step are due: on the bar, or, in every process, each `i_print` steps."""
        return self.trainer.step % self.trainer.config.i_print == 0 or (self.enabled and self.bar.is_due())

    def log_step(self, report: StepReport) -> None:
        """Update the progress bar, and every `i_print` steps the curves."""
        if self.enabled and self.bar.is_due():
            self.bar.update(self.trainer.step, self.trainer.progress, float(report.loss), report.psnr)
        if self._every(self.trainer.config.i_print):
            scalars = {f"loss/{name}": float(value) for name, value in vars(report.terms).items()}
            scalars |= {"loss/total": float(report.loss), "train/psnr": report.psnr}
            self._write_scalars(scalars | {"train/learning_rate": report.learning_rate})

    def log_images(self, frame: int) -> None:
        """Write renders and priors of a frame every `i_img` steps."""
        trainer = self.trainer
        if self._every(trainer.config.i_img):
            for tag, image in training_images(trainer.fields, trainer.scene, frame, trainer.config).items():
                self.writer.add_image(tag, image, trainer.step, dataformats="HWC" if image.ndim == 3 else "HW")

    def log_validation(self) -> None:
        """Score held-out views every `i_val` steps."""
        if self.validate is not None and self._every(self.trainer.config.i_val):
            scores = self.validate(self.trainer.fields)
            self._write_scalars({f"held-out/{name}": value for name, value in scores.items()})
            self.bar.heldout_psnr = scores.get("psnr")

    def _write_scalars(self, scalars: dict[str, float]) -> None:
        for tag, value in scalars.items():
            self.writer.add_scalar(tag, value, self.trainer.step)
