"""Render held-out views, score them, and write the report with its tables and page.

An evaluation resumes where it stopped, and several processes share its views.
"""

import contextlib
import dataclasses
import json
import logging
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsff.cli import progress_bar
from nsff.config import Config
from nsff.cuda import render_memory_advice
from nsff.data.cameras import Cameras, load_cameras
from nsff.distributed import SINGLE_PROCESS, ProcessGroup
from nsff.errors import InputError
from nsff.evaluation.cost import peak_memory_bytes
from nsff.evaluation.keypoint_transfer import percentage_of_correct_keypoints
from nsff.evaluation.metrics import Lpips, compare, eight_bits, load_lpips
from nsff.evaluation.protocols import PROTOCOLS, HeldOutView, HeldOutViews, Protocol, find_heldout_views
from nsff.evaluation.scores import (
    CheckpointSource,
    EvaluationReport,
    KeypointScore,
    MeanScore,
    ViewScore,
    finite_or_null,
    mean_of_views,
)
from nsff.evaluation.tables import write_tables
from nsff.fields import Fields, build_fields
from nsff.geometry.rays import Camera
from nsff.images import read_pixels
from nsff.io import claim_folder, digest_of_files, files_below, read_text, write_image, write_text, writing_to
from nsff.lock import lock_results
from nsff.rendering.frame_render import FrameRender, render_frame
from nsff.rendering.ray_sampling import DepthSampling
from nsff.rendering.visualize import Ranges, draw
from nsff.training.checkpoint import Checkpoint
from nsff.training.checkpoint_choice import restore_fields
from nsff.write_queue import WriteQueue

log = logging.getLogger("nsff")

SETTINGS = "evaluation.json"
PageWriter = Callable[[Path, EvaluationReport, list[HeldOutView], Path], None]
KEEP = ".keep"  # marks a folder of renders that --save_renders asked for; others are deleted after the report


def evaluate(
    config: Config, device: torch.device, group: ProcessGroup = SINGLE_PROCESS, write_page: PageWriter | None = None
) -> Path:
    """Render every view of the protocol and write `metrics_<protocol>.json` (and .csv .md .tex, and a page).

    Args:
        config: of the experiment.
        device: to render on.
        group: processes that share the views.
        write_page: writes a page from (its path, the report, the views, the folder of their renders).

    Returns:
        The path of the JSON file.

    Raises:
        InputError: the experiment has no checkpoint, no view has its files, or another run writes the same scores.
            Single views without their files are left out and named in the report; see `require_all_views`. All
            processes raise it together.
    """
    folder = config.experiment_dir / f"renders_{config.protocol}"
    with contextlib.ExitStack() as locks:
        with _step(config, group), writing_to(folder):
            if group.is_main:
                locks.enter_context(lock_results(folder))
        return _evaluate(config, device, group, folder, write_page)


def _evaluate(
    config: Config, device: torch.device, group: ProcessGroup, folder: Path, write_page: PageWriter | None
) -> Path:
    path = config.experiment_dir / f"metrics_{config.protocol}.json"
    with _step(config, group):
        protocol, cameras = PROTOCOLS[config.protocol], load_cameras(config)
        views = find_heldout_views(config, cameras)
        fields = build_fields(config).to(device)
        checkpoint = restore_fields(fields, config)
        perceptual = load_lpips(config.lpips_trunk, protocol.rules, device)
        scorer = Scorer(fields, config, protocol, cameras, perceptual)
        if group.is_main:
            with writing_to(folder):
                claim_folder(folder, SETTINGS, _settings(config, cameras, checkpoint, perceptual is not None))
                if config.save_renders:
                    (folder / KEEP).touch()
    with _step(config, group), writing_to(folder):  # all list the same missing views before any process writes one
        missing = [index for index, view in enumerate(views.complete) if not _score_path(folder, view).is_file()]
    with _step(config, group), writing_to(folder):
        bar = progress_bar(group.shard(missing), f"protocol {config.protocol}", unit="view", disable=not group.is_main)
        with WriteQueue() as queue:
            for index in bar:
                scorer.score_to_files(views.complete[index], folder, queue)
    with _step(config, group), writing_to(folder):
        if group.is_main:
            report = _assemble_report(scorer, checkpoint, views, folder)
            _write_report(path, report, views.complete, folder, write_page)
    return path


@contextlib.contextmanager
def _step(config: Config, group: ProcessGroup) -> Iterator[None]:
    """Run a step of an evaluation: all processes reach its end, or all raise the error that one of them met."""
    with group.share_errors(), render_memory_advice(config):
        yield


def require_all_views(report: EvaluationReport, config: Config) -> None:
    """Refuse a report over fewer views than the protocol has, unless `allow_missing`.

    Raises:
        InputError: files of some views are missing.
    """
    if report.missing and not config.allow_missing:
        raise InputError(
            f"{len(report.missing)} files of held-out views are missing, the first is {report.missing[0]}; the scores "
            "are over the other views; --allow_missing accepts that"
        )


class Scorer:
    """Renders held-out views and scores them by the rules of a protocol."""

    def __init__(
        self, fields: Fields, config: Config, protocol: Protocol, cameras: Cameras, perceptual: Lpips | None = None
    ):
        self.fields, self.config, self.protocol, self.cameras = fields, config, protocol, cameras
        self.perceptual, self.timeline = perceptual, cameras.timeline
        self.device = next(fields.parameters()).device

    def score(self, view: HeldOutView) -> tuple[ViewScore, FrameRender]:
        """Render a view and score it; the render is returned as well."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        begun = time.perf_counter()
        frame = self.render(view)
        render = frame.rgb.cpu().numpy()
        seconds, peak = time.perf_counter() - begun, peak_memory_bytes(self.device) / 1e9
        visible = view.read_visible() if view.read_visible else None
        truth, moving = view.read_truth(), view.read_moving()
        scores = compare(truth, render, moving, self.protocol.rules, self.perceptual, visible)
        return ViewScore(view.name, scores, seconds, peak), frame

    def render(self, view: HeldOutView) -> FrameRender:
        sampling, time, camera = DepthSampling.of(self.config), self.timeline.time_of(view.frame), self.camera(view)
        return render_frame(self.fields, camera, time, sampling, self.config.rays_per_chunk(camera.device_type))

    def camera(self, view: HeldOutView) -> Camera:
        return self.cameras.camera(view.camera, self.device)

    def score_to_files(self, view: HeldOutView, folder: Path, queue: WriteQueue) -> None:
        """Score a view and write its render, its depth and, last, its scores: they mark the view as done."""
        score, frame = self.score(view)
        depth = draw(("depth",), frame, None, self.camera(view), self._ranges())["depth"]
        picture = eight_bits(frame.rgb.cpu().numpy(), self.protocol.rules.quantise)

        def write() -> None:
            write_image(folder / f"{view.name}.png", picture)
            write_image(folder / f"{view.name}_depth.png", depth)
            write_text(_score_path(folder, view), json.dumps(score.to_json()))

        queue.submit(write)

    def _ranges(self) -> Ranges:
        """Ends of the depth colour map: the bounds of the scene, the same for all views."""
        bounds = self.cameras.bounds
        return Ranges(float(1.0 / bounds.max()), float(1.0 / (self.config.bd_factor * bounds.min())), 1.0)


def flicker(views: Iterable[HeldOutView], folder: Path) -> dict[str, float | None]:
    """Temporal instability: mean |change of the render minus change of the truth|, by the name of the later view.

    Mean of |(R(t) - R(t')) - (G(t) - G(t'))| in grey levels (0..255) over pixels and channels, for two successive
    times at which the same camera was scored; None for the first time of a camera.
    """
    previous: dict[int, np.ndarray] = {}
    result: dict[str, float | None] = {}
    for view in views:
        error = read_pixels(folder / f"{view.name}.png").astype(np.float32) - 255.0 * view.read_truth()
        last, visible = previous.get(view.camera), slice(None) if view.read_visible is None else view.read_visible()
        change = None if last is None else np.abs(error - last)[visible]
        result[view.name] = None if change is None or not change.size else float(change.mean())
        previous[view.camera] = error
    return result


def _assemble_report(scorer: Scorer, checkpoint: Checkpoint, views: HeldOutViews, folder: Path) -> EvaluationReport:
    """Collect the scores of all views, whichever process wrote them, and take their means."""
    flickers = flicker(views.complete, folder)
    scores = [
        dataclasses.replace(
            ViewScore.from_json(json.loads(read_text(_score_path(folder, view)))), flicker=flickers[view.name]
        )
        for view in views.complete
    ]
    mean = mean_of_views(scores)
    if scorer.protocol.keypoints:
        pck_t = percentage_of_correct_keypoints(scorer.fields, scorer.config, scorer.cameras)
        mean = dataclasses.replace(mean, keypoints=KeypointScore(pck_t))
    return EvaluationReport(
        protocol=scorer.config.protocol,
        mean=mean,
        views=scores,
        missing=[str(file) for file in views.missing],
        views_of_protocol=views.n_of_protocol,
        checkpoint=CheckpointSource(str(checkpoint.path), checkpoint.step),
        command=" ".join(sys.argv),
        versions={"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    )


def _write_report(
    path: Path, report: EvaluationReport, views: list[HeldOutView], folder: Path, write_page: PageWriter | None
) -> None:
    """Write the report as JSON, tables and page; delete the renders unless they were asked for."""
    write_text(path, json.dumps(finite_or_null(report.to_json()), indent=1, allow_nan=False) + "\n")
    write_tables(path, report)
    if write_page is not None:
        write_page(path.with_suffix(".html"), report, views, folder)
    if not (folder / KEEP).exists():
        _delete_renders(folder, views)
    log.info("%s", _one_line(report.mean))
    log.info("wrote %s and its tables beside it", path)


def _one_line(mean: MeanScore) -> str:
    return "  ".join(f"{name} {'-' if value is None else f'{value:.4f}'}" for name, value in mean.to_json().items())


def _settings(config: Config, cameras: Cameras, checkpoint: Checkpoint, with_lpips: bool) -> dict[str, Any]:
    """Everything that the scores of a view depend on; with other settings an evaluation starts anew."""
    truths = [Path(config.datadir) / name for name in ("mv_images", "mv_masks", "covisible")]
    truths += [Path(config.heldout)] if config.heldout else []
    size = [cameras.intrinsics.width, cameras.intrinsics.height, cameras.intrinsics.focal]
    return {
        "weights": [checkpoint.step, checkpoint.fingerprint()],
        "cameras": [*size, cameras.c2w.round(5).tolist()],
        "truths": [digest_of_files(files_below(folder)) for folder in truths],
        "samples": [
            config.N_samples,
            config.hash_coarse_samples,
            config.hash_samples,
            config.amp,
            config.device,
        ],
        "lpips": [with_lpips, config.lpips_trunk],
        "rules": repr(PROTOCOLS[config.protocol].rules),
    }


def _delete_renders(folder: Path, views: list[HeldOutView]) -> None:
    """Delete the files of reported views; those of a larger evaluation that was stopped stay."""
    for view in views:
        for suffix in (".png", "_depth.png", ".json"):
            (folder / f"{view.name}{suffix}").unlink(missing_ok=True)
    if not [path for path in folder.rglob("*") if path.is_file() and path.name != SETTINGS]:
        shutil.rmtree(folder)


def _score_path(folder: Path, view: HeldOutView) -> Path:
    return folder / f"{view.name}.json"
