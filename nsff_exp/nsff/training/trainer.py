"""Training: one step, and the loop around it that saves, resumes and can be interrupted; by one process or several."""

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from nsff.config import Config
from nsff.config_loader import format_args
from nsff.data.pixel_sampler import TrainBatch, draw_background, draw_batch
from nsff.data.scene import Scene
from nsff.distributed import SINGLE_PROCESS, ProcessGroup
from nsff.errors import InputError, UsageError
from nsff.fields import Fields, build_fields, build_optimizer
from nsff.geometry.rays import make_rays
from nsff.lock import holding
from nsff.rendering.ray_sampling import DepthSampling, choose_depths, density_noise
from nsff.rendering.train_render import NoiseSource, TrainRender, render_background, render_train
from nsff.rendering.volume_rendering import Noise
from nsff.training.checkpoint import (
    Checkpoint,
    check_sequence,
    checkpoint_path,
    list_checkpoints,
    load_weights,
    read_checkpoint,
    read_newest,
    save_checkpoint,
)
from nsff.training.logger import StepReport, TrainingLogger, Validate
from nsff.training.losses import VARIANT_RULES, LossTerms, NeighbourCameras, compute_losses
from nsff.training.progress_bar import interruptible
from nsff.training.schedules import StepPlan, learning_rate, plan_step, share_done

log = logging.getLogger("nsff")

AFTER_DIVERGING = "nothing was saved since the last checkpoint; lower --lrate and run again"
DIVERGED_ABOVE = 1e6  # a loss above this comes back from nowhere
SEED_STRIDE = 1_000_003  # between the seeds of processes that train together


class Diverged(InputError):
    """A loss term is no longer a number, or beyond all bounds."""


class Trainer:
    """The state of a training run: fields, optimiser, random generators, step number, seconds spent in all runs.

    Frames are drawn from a generator on the CPU, everything else from one on the device. Of several processes each
    draws its portion of the rays from a frame of its own, and gradients are averaged.

    Note:
        Losses are means over a batch, some normalised by it (depth: median and deviation; warps: sum of confidences).
        Those of several processes are each over its own rays, then averaged: means of means, as of smaller batches.
    """

    def __init__(self, config: Config, scene: Scene, device: torch.device, group: ProcessGroup = SINGLE_PROCESS):
        if config.N_rand < group.size:
            raise UsageError(f"N_rand = {config.N_rand} is shared by {group.size} processes: give more")
        self.config, self.scene, self.device, self.group = config, scene, device, group
        self.step, self.seconds = 0, 0.0
        torch.manual_seed(config.seed)
        self.fields: Fields = build_fields(config).to(device)
        self.optimizer = build_optimizer(self.fields, config)
        self.frames, self.samples = torch.Generator(), torch.Generator(device)
        self._seed(config.seed)

    def _seed(self, seed: int) -> None:
        for generator in (self.frames, self.samples):
            generator.manual_seed(seed + SEED_STRIDE * self.group.rank)

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
            n_static=len(rays) if plan.static_everywhere else batch.n_uniform,
            two_step=plan.two_step,
            two_step_backward=plan.two_step_backward,
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
        still = draw_background(self.scene, self.group.split(self.config.background_rays), self.samples)
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
        portion = self.group.split
        batch = draw_batch(self.scene, frame, portion(config.N_rand), portion(plan.n_hard), self.samples)
        rate = learning_rate(config, self.step, share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        render, terms = self.render_and_score(batch, plan)
        loss = terms.total()
        self.optimizer.zero_grad(set_to_none=False)  # tables are large: their gradient keeps its memory
        loss.backward()
        self._average_gradients()
        self.optimizer.step()
        self.step += 1
        self.scene.forget()  # rays from all over a long clip bring in pages of it by the thousand
        n = batch.n_uniform
        error = ((render.ref.blended.rgb.detach()[:n] - batch.rgb[:n]) ** 2).mean()
        return StepReport(frame, terms.detach(), loss.detach(), error, rate)

    def _average_gradients(self) -> None:
        """Over the processes; what the rays of one did not touch counts as 0, so that all speak of the same tensors."""
        if self.group.size == 1:
            return
        for parameter in self.fields.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.group.all_reduce_mean(
            [parameter.grad for parameter in self.fields.parameters() if parameter.grad is not None]
        )

    def save(self) -> Path:
        """Write a checkpoint of this moment (the first process does, with the random states of all); returns its path.

        Raises:
            Diverged: a weight is no number; nothing is written.
            InputError: the file cannot be written.
        """
        bad = [name for name, value in self.fields.named_parameters() if not torch.isfinite(value).all()]
        if bad:
            raise Diverged(f"step {self.step}: weights {bad[0]} are not finite; {AFTER_DIVERGING}")
        path = checkpoint_path(self.config.experiment_dir, self.step)
        states = self.group.all_gather({"frames": self.frames.get_state(), "samples": self.samples.get_state()})
        if self.group.is_main:
            rng = {"device": self.device.type, **states[0], "others": states[1:]}
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
        checkpoint = self.group.broadcast(read_newest(folder) if self.group.is_main else None)
        if checkpoint is None and self.config.ft_path:
            checkpoint = read_checkpoint(Path(self.config.ft_path))
        elif self.config.ft_path:
            log.info("ft_path is not read: the experiment has checkpoints of its own")
        if checkpoint is None:
            return
        own = checkpoint.path.parent == folder
        if own and checkpoint.variant not in (None, self.config.variant):
            raise InputError(
                f"{checkpoint.path} was trained as variant {checkpoint.variant}, {self.config.variant} is asked for; "
                "choose another --expname, or give --variant"
            )
        if own:
            check_sequence(checkpoint, self.config)
        self._restore(checkpoint)
        if not own:
            self.seconds = 0.0  # the minutes of another experiment do not count here

    def _restore(self, checkpoint: Checkpoint) -> None:
        load_weights(self.fields, checkpoint, self.config)
        self.step, self.seconds = checkpoint.step, checkpoint.seconds
        if checkpoint.optimizer and checkpoint.optimizer["state"]:
            self.optimizer.load_state_dict(checkpoint.optimizer)
        rng = checkpoint.rng or {}
        states = [rng, *rng.get("others", [])]
        if rng.get("device") == self.device.type and len(states) == self.group.size:
            self.frames.set_state(states[self.group.rank]["frames"].cpu())
            self.samples.set_state(states[self.group.rank]["samples"].cpu())
        else:  # a published checkpoint, another kind of device or number of processes: go on with fresh draws
            self._seed(self.config.seed + checkpoint.step)
        log.info("resumed from %s (step %d)", checkpoint.path, checkpoint.step)


def train(trainer: Trainer, validate: Validate | None = None) -> None:
    """Run to `N_iters` or `max_minutes`; Ctrl-C or SIGTERM ends after the step at hand. Ends with a checkpoint.

    Raises:
        InputError: another run is at it, the folder cannot be written, or the loss exploded (`Diverged`).
    """
    first = trainer.group.is_main
    with holding(trainer.config.experiment_dir) if first else contextlib.nullcontext():
        if first:
            _write_settings(trainer.config)
        trainer.resume()
        if (reason := _finished(trainer)) is not None:
            log.info("%s", reason)
            return
        _run(trainer, validate)


def _run(trainer: Trainer, validate: Validate | None) -> None:
    config, before, begun = trainer.config, trainer.seconds, time.monotonic()
    start, kept = (trainer.step, trainer.share), trainer.group.is_main
    with (
        interruptible() as interrupted,
        TrainingLogger(config, trainer.fields, trainer.scene, kept, start, validate) as logger,
    ):
        while _finished(trainer) is None:
            with _memory_advice(config):
                report = trainer.train_step()
            if (
                logger.should_log(trainer.step) or trainer.device.type == "cpu"
            ):  # elsewhere reading waits for the device
                check_loss(report, trainer.step)
            begun += logger.log_step(trainer.step, trainer.share, report)
            trainer.seconds, stop = trainer.group.all_reduce_flags(before + time.monotonic() - begun, bool(interrupted))
            if trainer.step % config.i_weights == 0:
                trainer.save()
            if stop:
                break
        check_loss(report, trainer.step)
        path = trainer.save()
    log.info("saved %s; %s", path, _finished(trainer) or "to go on, run the same command again")


@contextlib.contextmanager
def _memory_advice(config: Config) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        names = ("N_rand", "num_extra_sample", "background_rays")
        halves = " ".join(f"--{name} {getattr(config, name) // 2}" for name in names if getattr(config, name) > 1)
        raise InputError(
            f"the GPU has not enough memory for a step; half the rays take about half of it: {halves}"
        ) from error


def _finished(trainer: Trainer) -> str | None:
    """Why there is nothing left to do, and what to do about it; None if there is."""
    config = trainer.config
    if trainer.step >= config.N_iters:
        return f"all {config.N_iters} steps are done; raise --N_iters to go on"
    if config.max_minutes and trainer.seconds >= 60.0 * config.max_minutes:
        return f"the {config.max_minutes:g} minutes are over at step {trainer.step}; raise --max_minutes to go on"
    return None


def check_loss(report: StepReport, step: int) -> None:
    """Stop a run that has lost its way.

    Raises:
        Diverged: a term is NaN, infinite or above `DIVERGED_ABOVE`; it and the frame are named.
    """
    for name, value in vars(report.terms).items():
        if not abs(float(value)) < DIVERGED_ABOVE:
            raise Diverged(
                f"step {step}, frame {report.frame}: loss term {name} is {float(value):g}; {AFTER_DIVERGING}"
            )


def _write_settings(config: Config) -> None:
    folder = config.experiment_dir
    try:
        (folder / "args.txt").write_text(format_args(config))
        if config.config:
            (folder / "config.txt").write_text(Path(config.config).read_text())
    except OSError as error:
        raise InputError(f"cannot write to {folder.absolute()} ({error.strerror}); set --basedir") from error
