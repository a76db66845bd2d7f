"""Training: one step, and the loop around it that saves, resumes, reports and can be interrupted."""

import dataclasses
import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.tensorboard import SummaryWriter

from nsff.batches import TrainBatch, draw_background, draw_batch
from nsff.checkpoint import (
    Checkpoint,
    checkpoint_path,
    list_checkpoints,
    load_weights,
    read_checkpoint,
    read_newest,
    save_checkpoint,
)
from nsff.compositing import Noise
from nsff.config import Config, InputError, format_args
from nsff.fields import Fields, build_fields, build_optimizer
from nsff.losses import VARIANT_RULES, LossTerms, NeighbourCameras, compute_losses
from nsff.progress import ProgressBar, interruptible
from nsff.rays import Camera, make_rays
from nsff.renderer import NoiseSource, TrainRender, choose_depths, render_background, render_frame, render_train
from nsff.sampling import DepthSampling, density_noise
from nsff.scene import Scene
from nsff.schedules import StepPlan, learning_rate, plan_step, share_done

if TYPE_CHECKING:
    from nsff.validation import Validation

log = logging.getLogger("nsff")

IMAGE_LOG_FACTOR = 4  # TensorBoard images are rendered so many times smaller


AFTER_DIVERGING = "nothing was saved since the last checkpoint; lower --lrate and run again"


class Diverged(InputError):
    """A loss term is no longer a number."""


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


class Trainer:
    """The state of a training run: fields, optimiser, random generators, step number, seconds spent in all runs.

    Frames are drawn from a generator on the CPU, everything else from one on the device.
    """

    def __init__(self, config: Config, scene: Scene, device: torch.device):
        self.config, self.scene, self.device = config, scene, device
        self.step, self.seconds = 0, 0.0
        torch.manual_seed(config.seed)
        self.fields: Fields = build_fields(config).to(device)
        self.optimizer = build_optimizer(self.fields, config)
        self.frames = torch.Generator().manual_seed(config.seed)
        self.samples = torch.Generator(device).manual_seed(config.seed)

    @property
    def share(self) -> float:
        """How much of the run is behind, 0..1."""
        return share_done(self.config, self.step, self.seconds)

    def render_and_score(self, batch: TrainBatch, plan: StepPlan) -> tuple[TrainRender, LossTerms]:
        """Forward pass of one step on given pixels."""
        scene, frame, config = self.scene, batch.frame, self.config
        rays = make_rays(batch.uv, scene.c2w[frame], scene.intrinsics)
        sampling = DepthSampling.of(config)

        def noise(n_rays: int) -> Noise:
            shape = (n_rays, sampling.n_samples)
            return density_noise(shape, config.raw_noise_std, self.samples, self.device)

        depths = choose_depths(self.fields, rays, scene.timeline.time_of(frame), sampling, self.samples)
        render = render_train(
            self.fields,
            rays,
            depths,
            scene.timeline,
            frame,
            n_static=len(rays) if plan.union_everywhere else batch.n_uniform,
            chain=plan.chain,
            chain_backward=plan.chain_backward,
            noise=noise,
        )
        cameras = NeighbourCameras(
            scene.c2w[frame],
            None if scene.timeline.is_first(frame) else scene.c2w[frame - 1],
            None if scene.timeline.is_last(frame) else scene.c2w[frame + 1],
        )
        rules = VARIANT_RULES[config.variant]
        background = self._render_background(sampling, noise) if config.background_rays else None
        return render, compute_losses(render, batch, cameras, scene.intrinsics, plan.weights, rules, background)

    def _render_background(
        self, sampling: DepthSampling, noise: NoiseSource
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Colours of the static field alone on pixels of the background, and the true ones; None if all moves."""
        still = draw_background(self.scene, self.config.background_rays, self.samples)
        if not len(still.rgb):
            return None
        rays = make_rays(still.uv, self.scene.c2w[still.frames], self.scene.intrinsics)
        return render_background(self.fields.static, rays, sampling, self.samples, noise), still.rgb

    def train_step(self) -> StepReport:
        """Draw a frame and rays, render, score, and move the fields."""
        config, n_frames = self.config, self.scene.timeline.n_frames
        share = self.share
        plan = plan_step(config, self.step, n_frames, share)
        frame = int(torch.randint(n_frames, (1,), generator=self.frames))
        batch = draw_batch(self.scene, frame, config.N_rand, plan.n_hard, self.samples)
        rate = learning_rate(config, self.step, share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        render, terms = self.render_and_score(batch, plan)
        loss = terms.total()
        self.optimizer.zero_grad(set_to_none=False)  # tables are large: their gradient keeps its memory
        loss.backward()
        self.optimizer.step()
        self.step += 1
        n = batch.n_uniform
        error = ((render.ref.union.rgb.detach()[:n] - batch.rgb[:n]) ** 2).mean()
        return StepReport(frame, terms.detach(), loss.detach(), error, rate)

    def save(self) -> Path:
        """Write a checkpoint of this moment; returns its path.

        Raises:
            Diverged: a weight is no number; nothing is written.
            InputError: the file cannot be written.
        """
        bad = [name for name, value in self.fields.named_parameters() if not torch.isfinite(value).all()]
        if bad:
            raise Diverged(f"step {self.step}: weights {bad[0]} are not finite; {AFTER_DIVERGING}")
        path = checkpoint_path(self.config.experiment_dir, self.step)
        rng = {
            "device": self.device.type,
            "frames": self.frames.get_state(),
            "samples": self.samples.get_state(),
        }
        save_checkpoint(path, self.step, self.seconds, self.fields, self.optimizer, rng, self.config)
        return path

    def resume(self) -> None:
        """Go on from the newest checkpoint of the experiment, or start from `ft_path`, or from nothing."""
        folder = self.config.experiment_dir
        if self.config.no_reload and (old := list_checkpoints(folder)):
            raise InputError(
                f"--no_reload: {folder.absolute()} has checkpoints up to {old[0].name}; "
                "move them away or choose another --expname"
            )
        checkpoint = read_newest(folder)
        if checkpoint is None and self.config.ft_path:
            checkpoint = read_checkpoint(Path(self.config.ft_path))
        elif self.config.ft_path:
            log.info("ft_path is not read: the experiment has checkpoints of its own")
        if checkpoint is not None:
            self._restore(checkpoint)
            if checkpoint.path.parent != folder:
                self.seconds = 0.0  # the minutes of another experiment do not count here

    def _restore(self, checkpoint: Checkpoint) -> None:
        load_weights(self.fields, checkpoint, self.config)
        self.step, self.seconds = checkpoint.step, checkpoint.seconds
        if checkpoint.optimizer and checkpoint.optimizer["state"]:
            self.optimizer.load_state_dict(checkpoint.optimizer)
        if checkpoint.rng and checkpoint.rng["device"] == self.device.type:
            self.frames.set_state(checkpoint.rng["frames"].cpu())
            self.samples.set_state(checkpoint.rng["samples"].cpu())
        else:  # a published checkpoint, or one from another kind of device: go on with fresh draws
            self.frames.manual_seed(self.config.seed + checkpoint.step)
            self.samples.manual_seed(self.config.seed + checkpoint.step)
        log.info("resumed from %s (step %d)", checkpoint.path, checkpoint.step)


def train(trainer: Trainer) -> None:
    """Run to `N_iters` or `max_minutes`; Ctrl-C ends after the step at hand. Always ends with a checkpoint."""
    config = trainer.config
    trainer.resume()
    if (reason := _finished(trainer)) is not None:
        log.info("%s", reason)
        return
    _write_settings(config)
    validation = _validation(config)
    begun, before = time.monotonic(), trainer.seconds
    with SummaryWriter(str(config.experiment_dir)) as board, interruptible() as interrupted:
        bar = ProgressBar(trainer.step, trainer.share)
        while not _finished(trainer) and not interrupted:
            report = trainer.train_step()
            if bar.due():
                check_finite(report, trainer.step)
                bar.show(trainer.step, trainer.share, float(report.loss), report.psnr)
            if trainer.step % config.i_print == 0:
                _log_scalars(board, trainer.step, report)
            if config.i_img and trainer.step % config.i_img == 0:
                _log_images(board, trainer, report.frame)
            if validation and trainer.step % config.i_val == 0:
                paused = time.monotonic()
                figures = validation.score(trainer.fields)
                for name, value in figures.items():
                    board.add_scalar(f"held-out/{name}", value, trainer.step)
                bar.held_out = figures.get("psnr")
                begun += time.monotonic() - paused  # no minutes of training
            trainer.seconds = before + time.monotonic() - begun
            if trainer.step % config.i_weights == 0:
                trainer.save()
        bar.close(trainer.share)
        path = trainer.save()
    log.info("saved %s; %s", path, _finished(trainer) or "to go on, run the same command again")


def _validation(config: Config) -> "Validation | None":
    """Held-out views, if they are to be scored while training."""
    if not config.i_val:
        return None
    from nsff.validation import Validation  # here: the libraries of the metrics would take memory of every run

    return Validation.of(config)


def _finished(trainer: Trainer) -> str | None:
    """Why there is nothing left to do, and what to do about it; None if there is."""
    config = trainer.config
    assert config.N_iters is not None  # resolved by load_config
    if trainer.step >= config.N_iters:
        return f"all {config.N_iters} steps are done; raise --N_iters to go on"
    if config.max_minutes and trainer.seconds >= 60.0 * config.max_minutes:
        return f"the {config.max_minutes:g} minutes are over at step {trainer.step}; raise --max_minutes to go on"
    return None


def check_finite(report: StepReport, step: int) -> None:
    """Stop a run that has lost its way.

    Raises:
        Diverged: a term is NaN or infinite; it and the frame are named.
    """
    bad = [name for name, value in vars(report.terms).items() if not torch.isfinite(value)]
    if bad:
        raise Diverged(
            f"step {step}, frame {report.frame}: loss term {', '.join(bad)} is not finite; {AFTER_DIVERGING}"
        )


def _write_settings(config: Config) -> None:
    folder = config.experiment_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "args.txt").write_text(format_args(config))
        if config.config:
            (folder / "config.txt").write_text(Path(config.config).read_text())
    except OSError as error:
        raise InputError(f"cannot write to {folder.absolute()} ({error.strerror}); set --basedir") from error


def _log_scalars(board: SummaryWriter, step: int, report: StepReport) -> None:
    for name, value in vars(report.terms).items():
        board.add_scalar(f"loss/{name}", float(value), step)
    board.add_scalar("loss/total", float(report.loss), step)
    board.add_scalar("train/psnr", report.psnr, step)
    board.add_scalar("train/learning_rate", report.learning_rate, step)


def _log_images(board: SummaryWriter, trainer: Trainer, frame: int) -> None:
    scene, config = trainer.scene, trainer.config
    camera = Camera(scene.c2w[frame], scene.intrinsics.divided_by(IMAGE_LOG_FACTOR), scene.intrinsics)
    time_ = scene.timeline.time_of(frame)
    image = render_frame(trainer.fields, camera, time_, DepthSampling.of(config), config.rays_at_once)
    board.add_image("render/rgb", image.rgb.clamp(0, 1), trainer.step, dataformats="HWC")
    board.add_image("render/depth", image.depth.clamp(0, 1), trainer.step, dataformats="HW")
    board.add_image("render/dynamic_weight", image.dynamic_weight.clamp(0, 1), trainer.step, dataformats="HW")
    board.add_image("truth/rgb", scene.images[frame], trainer.step, dataformats="HWC")
