"""Views rendered and compared with the truth; figures written as tables and a page. An evaluation goes on where it
stopped, and several processes share the views."""

import hashlib
import json
import logging
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsff.cli import progress_bar
from nsff.config import Config
from nsff.data.cameras import Cameras, load_cameras
from nsff.distributed import SINGLE_PROCESS, ProcessGroup
from nsff.errors import InputError
from nsff.evaluation.keypoint_transfer import percentage_of_correct_keypoints
from nsff.evaluation.metrics import Lpips, compare, eight_bits, load_lpips
from nsff.evaluation.protocols import PROTOCOLS, Protocol, View, Views, find_views
from nsff.evaluation.tables import write_tables
from nsff.fields import Fields, build_fields
from nsff.geometry.rays import Camera
from nsff.io import atomic_write, claim_folder, read_pixels, write_image, writing_to
from nsff.rendering.frame_render import FrameRender, render_frame
from nsff.rendering.ray_sampling import DepthSampling
from nsff.rendering.visualize import Ranges, draw
from nsff.training.checkpoint import Checkpoint, restore_fields

log = logging.getLogger("nsff")

Row = dict[str, Any]
SETTINGS = "evaluation.json"
PageWriter = Callable[[Path, Row, list[View], Path], None]
KEEP = ".keep"  # in a folder of renders: they were asked for


def evaluate(
    config: Config, device: torch.device, group: ProcessGroup = SINGLE_PROCESS, write_page: PageWriter | None = None
) -> Path:
    """Render every view of the protocol and write `metrics_<protocol>.json` (and .csv .md .tex, and a page).

    Args:
        config: of the experiment.
        device: to render on.
        group: the processes that share the views.
        write_page: makes a page of (its path, the report, the views, the folder of their renders).

    Returns:
        The path of the json file.

    Raises:
        InputError: no checkpoint, or no view has its files. Views that lack theirs are left out and named in the
            report; see `require_all_views`.
    """
    protocol, cameras = PROTOCOLS[config.protocol], load_cameras(config)
    views = find_views(config, cameras)
    fields = build_fields(config).to(device)
    checkpoint = restore_fields(fields, config)
    perceptual = load_lpips(config.lpips_trunk, protocol.rules, device)
    folder = config.experiment_dir / f"renders_{config.protocol}"
    names = [view.name for view in views.there]
    with writing_to(folder):
        if group.is_main:
            claim_folder(folder, SETTINGS, _settings(config, cameras, checkpoint, perceptual is not None))
            if config.save_renders:
                (folder / KEEP).touch()
        group.barrier()
        missing = [index for index, name in enumerate(names) if not _row_path(folder, name).is_file()]
        group.barrier()
        todo = group.shard(missing)
        bar = progress_bar(todo, f"protocol {config.protocol}", unit="view", disable=not group.is_main)
        scorer = Scorer(fields, config, protocol, cameras, perceptual)
        for index in bar:
            scorer.keep(views.there[index], folder)
        group.barrier()
        path = config.experiment_dir / f"metrics_{config.protocol}.json"
        if group.is_main:
            _report(path, folder, checkpoint, scorer, views, write_page)
        group.barrier()  # for the report: torchrun ends all processes when one fails
    return path


def require_all_views(report: Row, config: Config) -> None:
    """Refuse a report over fewer views than the protocol has, unless `allow_missing`.

    Raises:
        InputError: files of some views are missing.
    """
    if (missing := report["missing"]) and not config.allow_missing:
        raise InputError(
            f"{len(missing)} files are missing, the first is {missing[0]}; the figures are over the views "
            "that are there; --allow_missing makes that no error"
        )


class Scorer:
    """Renders views and compares them with the truth."""

    def __init__(
        self, fields: Fields, config: Config, protocol: Protocol, cameras: Cameras, perceptual: Lpips | None = None
    ):
        self.fields, self.config, self.protocol, self.cameras = fields, config, protocol, cameras
        self.perceptual, self.timeline = perceptual, cameras.timeline
        self.device = next(fields.parameters()).device

    def score(self, view: View) -> tuple[Row, FrameRender]:
        """A row of figures of a view, and the render."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        begun = time.perf_counter()
        frame = self.render(view)
        render = frame.rgb.cpu().numpy()
        seconds = time.perf_counter() - begun
        visible = view.visible() if view.visible else None
        peak = self._peak() / 1e9
        figures = compare(view.truth(), render, view.mask(), self.protocol.rules, self.perceptual, visible)
        return {"name": view.name, **figures, "seconds": seconds, "peak_memory_gb": peak}, frame

    def render(self, view: View) -> FrameRender:
        sampling, time_ = DepthSampling.of(self.config), self.timeline.time_of(view.frame)
        return render_frame(self.fields, self.camera(view), time_, sampling, self.config.rays_per_chunk)

    def camera(self, view: View) -> Camera:
        return self.cameras.camera(view.camera, self.device)

    def keep(self, view: View, folder: Path) -> None:
        """Score a view; its render, its depth and, last, its row go into files."""
        row, frame = self.score(view)
        _row_path(folder, view.name).parent.mkdir(parents=True, exist_ok=True)
        camera = self.camera(view)
        depth = draw(("depth",), frame, None, camera, self._ranges())["depth"]
        picture = eight_bits(frame.rgb.cpu().numpy(), self.protocol.rules.quantise)
        write_image(folder / f"{view.name}.png", picture)
        write_image(folder / f"{view.name}_depth.png", depth)
        with atomic_write(_row_path(folder, view.name)) as partial:
            partial.write_text(json.dumps(row))

    def _ranges(self) -> Ranges:
        """The ends of the colour map: the bounds of the scene, so that all views have the same."""
        bounds = self.cameras.bounds
        return Ranges(float(1.0 / bounds.max()), float(1.0 / (self.config.bd_factor * bounds.min())), 1.0)

    def _peak(self) -> float:
        """Bytes: on CUDA of the tensors of this view, else the most that the process ever had."""
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def mean_of(rows: list[Row]) -> dict[str, float | None]:
    """Mean of each figure over the views; None where no view has it."""
    means = {}
    for name in [name for name in rows[0] if name != "name"]:
        values = [row[name] for row in rows if row[name] is not None]
        means[name] = float(np.mean(values)) if values else None
    return means


def flicker(views: Iterable[View], folder: Path) -> dict[str, float | None]:
    """What a render changes from one time to the next that the truth does not, by the name of the later view.

    Mean of |(R(t) - R(t')) - (G(t) - G(t'))| in grey levels (0..255) over pixels and channels, for two times that one
    camera was scored at, one after the other; None for its first.
    """
    before: dict[int, np.ndarray] = {}
    result: dict[str, float | None] = {}
    for view in views:
        error = read_pixels(folder / f"{view.name}.png").astype(np.float32) - 255.0 * view.truth()
        last, visible = before.get(view.camera), slice(None) if view.visible is None else view.visible()
        change = None if last is None else np.abs(error - last)[visible]
        result[view.name] = None if change is None or not change.size else float(change.mean())
        before[view.camera] = error
    return result


def _report(
    path: Path,
    folder: Path,
    checkpoint: Checkpoint,
    scorer: Scorer,
    views: Views,
    write_page: PageWriter | None,
) -> None:
    """Put the rows of all views together, and write every kind of report."""
    rows = [json.loads(_row_path(folder, view.name).read_text()) for view in views.there]
    flickers = flicker(views.there, folder)
    for row in rows:
        row["flicker"] = flickers[row["name"]]
    mean = mean_of(rows)
    if scorer.protocol.keypoints:
        mean["pck_t"] = percentage_of_correct_keypoints(scorer.fields, scorer.config, scorer.cameras)
    report = {
        "protocol": scorer.config.protocol,
        "mean": mean,
        "views": rows,
        "missing": [str(file) for file in views.missing],
        "views_of_protocol": views.n_all,
        "checkpoint": {"path": str(checkpoint.path), "step": checkpoint.step},
        "command": " ".join(sys.argv),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(_strict(report), indent=1, allow_nan=False) + "\n")
    write_tables(path, report)
    if write_page is not None:
        write_page(path.with_suffix(".html"), report, views.there, folder)
    if not (folder / KEEP).exists():
        _remove(folder, views.there)
    log.info("%s", "  ".join(f"{name} {'-' if value is None else f'{value:.4f}'}" for name, value in mean.items()))
    log.info("wrote %s and its tables beside it", path)


def _settings(config: Config, cameras: Cameras, checkpoint: Checkpoint, with_lpips: bool) -> Row:
    """All that a row depends on."""
    truths = [Path(config.datadir) / name for name in ("mv_images", "mv_masks", "covisible")]
    return {
        "weights": [checkpoint.step, checkpoint.fingerprint()],
        "cameras": [cameras.intrinsics.width, cameras.intrinsics.height, cameras.c2w.round(5).tolist()],
        "truths": [_stamp(folder) for folder in [*truths, *([Path(config.heldout)] if config.heldout else [])]],
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


def _stamp(folder: Path) -> str:
    """Changes when a file of a folder does."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _remove(folder: Path, views: list[View]) -> None:
    """The files of views that have been reported; those of a larger evaluation that was stopped stay."""
    for view in views:
        for suffix in (".png", "_depth.png", ".json"):
            (folder / f"{view.name}{suffix}").unlink(missing_ok=True)
    if not [path for path in folder.rglob("*") if path.is_file() and path.name != SETTINGS]:
        shutil.rmtree(folder)


def _row_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _strict(value: Any) -> Any:
    """JSON has no infinity (the PSNR of equal images): null instead."""
    if isinstance(value, dict):
        return {name: _strict(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
