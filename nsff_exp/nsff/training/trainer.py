"""The state of a training run, and one step of it; `loop` repeats the step."""

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nsff import cuda
from nsff.config import Config
from nsff.data.pixel_sampler import TrainBatch, draw_background, draw_pixels, gather_batch
from nsff.data.priors import Priors
from nsff.data.scene import Frame, Scene
from nsff.distributed import SINGLE_PROCESS, ProcessGroup
from nsff.errors import InputError, UsageError
from nsff.fields import Fields, build_fields, build_optimizer
from nsff.geometry.camera_fit import CameraFit
from nsff.rendering.ray_sampling import DepthSampling, add_prior_depths, choose_depths, density_noise
from nsff.rendering.train_render import SampledRays, TrainRender, render_background, render_train
from nsff.rendering.volume_rendering import Noise
from nsff.training.checkpoint import (
    Checkpoint,
    TrainingState,
    checkpoint_path,
    list_checkpoints,
    load_weights,
    save_checkpoint,
)
from nsff.training.checkpoint_choice import choose_to_resume
from nsff.training.losses import BackgroundRender, DepthPrior, LossTerms, NeighbourCameras, compute_losses
from nsff.training.schedules import StepPlan, learning_rate, plan_step, run_progress
from nsff.training.step_graphs import StepGraphs
from nsff.training.variant_rules import VARIANT_RULES
from nsff.training.warm_start import (
    WARM_FRAMES,
    WARM_PIXELS,
    WarmTerms,
    compute_warm_losses,
    draw_points,
    lift_points,
    warm_share,
)

log = logging.getLogger("nsff")

DIVERGENCE_ADVICE = "nothing was saved since the last checkpoint; lower --lrate and run again"
MIN_CONFIDENCE = 0.1  # the samples around a depth prior spread inversely to its confidence, down to this one
SIGHT_MARGIN = 1.5  # margin of the line-of-sight loss, in standard deviations of the samples around the prior
SEED_STRIDE = 1_000_003  # difference between the seeds of processes that train together


class Diverged(InputError):
    """A loss term or a weight is not finite, or a loss term is absurdly large."""


@dataclasses.dataclass(frozen=True)
class StepOutcome:
    """Scalars of one step on the device: reading one waits for the device, so callers choose when.

    On CUDA, later steps overwrite them.
    """

    terms: LossTerms | WarmTerms
    loss: Tensor
    colour_error: Tensor  # mean squared error of the blended render on the uniform rays, or on lifted points


@dataclasses.dataclass(frozen=True)
class StepReport(StepOutcome):
    """Figures of one step."""

    frame: int
    learning_rate: float

    @property
    def psnr(self) -> float:
        """PSNR of the blended render on the uniform rays, or of the dynamic field on lifted points, in dB."""
        return -10.0 * math.log10(max(float(self.colour_error), 1e-12))


class Trainer:
    """The state of a training run: fields, optimiser, random generators, steps and seconds done.

    Frames are drawn from a generator on the CPU, all else from one on the device. In a process group, every process
    draws its part of the rays from a frame of its own, and gradients are averaged.

    Note:
        Losses are means over a batch, some normalised by it (depth: median and deviation; warps: sum of confidences).
        A group averages the losses of its processes, each over its own rays: means of means, as of smaller batches.
    """

    def __init__(self, config: Config, scene: Scene, device: torch.device, group: ProcessGroup = SINGLE_PROCESS):
        if not config.force_ndc:
            CameraFit.of(scene.cameras.c2w, scene.intrinsics, scene.space).check(config.datadir)
        if config.N_rand < group.size:
            raise UsageError(f"N_rand = {config.N_rand} is split between {group.size} processes: choose a larger one")
        self.config, self.scene, self.device, self.group = config, scene, device, group
        # Published settings do not use aligned priors: no warning about them then.
        priors = Priors.of(scene) if config.lifts_priors or config.max_warm_steps else None
        # Samples around a depth that no frame believes would be missing where the surface is.
        self.priors = priors if priors is not None and priors.usable else None
        self.warm_share = warm_share(self.priors, config)
        self.step, self.seconds = 0, 0.0  # of training, over all runs of the experiment
        torch.manual_seed(config.seed)
        self.fields: Fields = build_fields(config).to(device)
        self.optimizer = build_optimizer(self.fields, config)
        self.frame_rng, self.sample_rng = torch.Generator(), torch.Generator(device)
        self._seed_generators(config.seed)
        self.graphs = StepGraphs(device, self.sample_rng) if self._can_use_graphs else None
        self.saved: list[Path] = []  # checkpoints of this process that are kept

    @property
    def _can_use_graphs(self) -> bool:
        """Whether no part of a step waits for the GPU; with several of them, graphs have never been tried."""
        on_gpu = self.device.type == "cuda" and self.scene.images.is_cuda
        has_kernels = self.config.field != "hash" or cuda.available()
        return on_gpu and has_kernels and self.group.size == 1 and not self.config.no_cuda_graphs

    def _seed_generators(self, seed: int) -> None:
        for generator in (self.frame_rng, self.sample_rng):
            generator.manual_seed(seed + SEED_STRIDE * self.group.rank)

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, 0..1."""
        return run_progress(self.config, self.step, self.seconds)

    def train_step(self) -> StepReport:
        """Draw a frame and rays, render them, and update the fields; in the warm start, fit lifted points."""
        config, n_frames, progress = self.config, self.scene.timeline.n_frames, self.progress
        plan = plan_step(config, self.step, n_frames, progress, self.warm_share)
        rate = learning_rate(config, self.step, progress)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        frame, outcome = self._warm_step() if plan.warm_start else self._ray_step(plan)
        self._average_gradients()
        self.optimizer.step()
        self.step += 1
        self.scene.release_pages()  # memory-mapped pages that this step has read; they would pile up
        return StepReport(**vars(outcome), frame=frame, learning_rate=rate)

    def _shard(self, total: int) -> int:
        """Part of a number of rays or points that falls to this process, more of them on CUDA."""
        return self.group.split(self.config.step_factor(self.device.type) * total)

    def _warm_step(self) -> tuple[int, StepOutcome]:
        """Draw and lift points of some frames, and compute gradients."""
        frames = torch.randint(self.scene.timeline.n_frames, (WARM_FRAMES,), generator=self.frame_rng).tolist()
        index = draw_points(self.scene, frames, self._shard(WARM_PIXELS), self.sample_rng)

        def step(index: Tensor) -> StepOutcome:
            assert self.priors is not None
            terms = compute_warm_losses(self.fields, lift_points(self.priors, index), self.sample_rng)
            return self._backward(terms, terms.dynamic_colour)

        return frames[0], step(index) if self.graphs is None else self.graphs.run("warm start", step, index)

    def _ray_step(self, plan: StepPlan) -> tuple[int, StepOutcome]:
        """Draw rays of a frame, render them, and compute gradients."""
        frame = int(torch.randint(self.scene.timeline.n_frames, (1,), generator=self.frame_rng))
        n_rays = self._shard(self.config.N_rand), self._shard(plan.n_hard)
        uniform, hard = draw_pixels(self.scene, frame, *n_rays, self.sample_rng, self.config.lifts_priors)
        pixels, n_uniform = torch.cat([uniform, hard]), len(uniform)

        def step(pixels: Tensor, frame: Frame, prior_std: float | Tensor) -> StepOutcome:
            batch = gather_batch(self.scene, frame, pixels, n_uniform)
            render, terms = self.forward(batch, dataclasses.replace(plan, prior_std=prior_std))
            return self._backward(terms, F.mse_loss(render.ref.blended.rgb[:n_uniform], batch.rgb[:n_uniform]))

        # Masks smaller than a batch give every frame a size of its own: too many kinds of steps to record.
        if self.graphs is None or len(hard) not in (0, n_rays[1]):
            return frame, step(pixels, frame, plan.prior_std)
        key = dataclasses.replace(plan, prior_std=0.0), n_uniform, len(pixels)
        frame_input = torch.full((), frame, device=self.device)
        std_input = torch.full((), float(plan.prior_std), device=self.device)
        return frame, self.graphs.run(key, step, pixels, frame_input, std_input)

    def _backward(self, terms: LossTerms | WarmTerms, colour_error: Tensor) -> StepOutcome:
        """Replace the gradients by those of the sum of all terms."""
        # Graphs write to gradients that stay where they are; elsewhere the tables' own are taken over without a copy.
        self.optimizer.zero_grad(set_to_none=self.graphs is None)
        loss = terms.total()
        loss.backward()
        return StepOutcome(terms.detach(), loss.detach(), colour_error.detach())

    def forward(self, batch: TrainBatch, plan: StepPlan) -> tuple[TrainRender, LossTerms]:
        """Render the pixels of a batch and compute the losses."""
        scene, frame = self.scene, batch.frame
        depths, prior = self._choose_depths(batch, plan)
        render = render_train(
            self.fields,
            SampledRays.at(batch.rays, depths),
            scene.timeline,
            frame,
            len(batch.rays) if plan.static_everywhere else batch.n_uniform,
            plan.two_step,
            self._density_noise,
        )
        cameras, rules = NeighbourCameras.of(scene, frame), VARIANT_RULES[self.config.variant]
        background = self._render_background()
        return render, compute_losses(render, batch, cameras, plan.weights, rules, background, prior)

    def _choose_depths(self, batch: TrainBatch, plan: StepPlan) -> tuple[Tensor, DepthPrior | None]:
        """Sample depths along the rays of a batch, some of them around the depth prior, wider where it is uncertain."""
        sampling, time = DepthSampling.of(self.config), self.scene.timeline.time_of(batch.frame)
        n_prior = self.config.n_prior_samples
        if self.priors is None or not (n_prior or plan.weights.line_of_sight):
            return choose_depths(self.fields, batch.rays, time, sampling, self.sample_rng), None
        sampling = dataclasses.replace(sampling, n_samples=sampling.n_samples - n_prior)
        depths = choose_depths(self.fields, batch.rays, time, sampling, self.sample_rng)
        z, confidence = self.priors.depth(batch.index)
        std = plan.prior_std / confidence.clamp(min=MIN_CONFIDENCE)
        depths = add_prior_depths(depths, z, std, n_prior, self.sample_rng)
        return depths, DepthPrior(z, confidence, depths, margin=SIGHT_MARGIN * plan.prior_std)

    def _density_noise(self, n_rays: int) -> Noise:
        shape = (n_rays, DepthSampling.of(self.config).n_samples)
        return density_noise(shape, self.config.raw_noise_std, self.sample_rng, self.device)

    def _render_background(self) -> BackgroundRender | None:
        """Render background pixels of all frames with the static field alone; None unless asked for."""
        if not self.config.background_rays:
            return None
        batch = draw_background(self.scene, self._shard(self.config.background_rays), self.sample_rng)
        sampling = DepthSampling.of(self.config)
        rgb = render_background(self.fields.static, batch.rays, sampling, self.sample_rng, self._density_noise)
        return BackgroundRender(rgb, batch.rgb, batch.background)

    def _average_gradients(self) -> None:
        """Average gradients over the processes; a parameter that no ray of a process reached counts as 0 there."""
        if self.group.size == 1:
            return
        parameters = list(self.fields.parameters())
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        self.group.all_reduce_mean([parameter.grad for parameter in parameters if parameter.grad is not None])

    def stop_reason(self) -> str | None:
        """Reason why no steps are left and the option to raise; None while steps are left."""
        if self.step >= self.config.N_iters:
            return f"all {self.config.N_iters} steps are done; raise --N_iters to go on"
        if self.config.max_minutes and self.seconds >= 60.0 * self.config.max_minutes:
            limit = f"the limit of {self.config.max_minutes:g} minutes"
            return f"{limit} is reached at step {self.step}; raise --max_minutes to go on"
        return None

    def save(self) -> Path:
        """Write a checkpoint and return its path; the main process writes it, with the random states of all.

        Raises:
            Diverged: a weight is not finite; nothing is written.
            InputError: the file cannot be written.
        """
        bad = [name for name, value in self.fields.named_parameters() if not torch.isfinite(value).all()]
        if bad:
            raise Diverged(f"step {self.step}: weights {bad[0]} are not finite; {DIVERGENCE_ADVICE}")
        path = checkpoint_path(self.config.experiment_dir, self.step)
        own_rng = {"frames": self.frame_rng.get_state(), "samples": self.sample_rng.get_state()}
        states = self.group.all_gather(own_rng)
        if self.group.is_main:
            rng = {"device": self.device.type, **states[0], "others": states[1:]}
            state = TrainingState(self.step, self.seconds, self.fields, self.optimizer, rng, self.scene.cameras.digest)
            save_checkpoint(path, state, self.config)
            self.saved += [] if path in self.saved else [path]
            while 0 < self.config.keep_checkpoints < len(self.saved):
                self.saved.pop(0).unlink(missing_ok=True)
        return path

    def resume(self) -> None:
        """Go on from the checkpoint of the experiment, else of `ft_path`, else from scratch.

        Raises:
            InputError: the checkpoint does not belong to this config, or `no_reload` is set and one exists.
        """
        folder = self.config.experiment_dir
        if self.config.no_reload and (old := list_checkpoints(folder)):
            raise InputError(
                f"--no_reload: {folder.absolute()} has checkpoints up to {old[0].name}; "
                "move them away or choose another --expname"
            )
        if checkpoint := self.group.broadcast(choose_to_resume(self.config) if self.group.is_main else None):
            self._restore(checkpoint)

    def _restore(self, checkpoint: Checkpoint) -> None:
        load_weights(self.fields, checkpoint, self.config)
        self.step, self.seconds = checkpoint.step, checkpoint.seconds
        if checkpoint.optimizer and checkpoint.optimizer["state"]:
            self.optimizer.load_state_dict(checkpoint.optimizer)
        rng: dict[str, Any] = checkpoint.rng or {}
        states = [rng, *rng.get("others", [])]
        if rng.get("device") == self.device.type and len(states) == self.group.size:
            self.frame_rng.set_state(states[self.group.rank]["frames"].cpu())
            self.sample_rng.set_state(states[self.group.rank]["samples"].cpu())
        else:  # a published checkpoint, or another kind of device or number of processes: no exact resume
            self._seed_generators(self.config.seed + checkpoint.step)
        log.info("resumed from %s (step %d)", checkpoint.path, checkpoint.step)
