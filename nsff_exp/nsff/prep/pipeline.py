"""All stages of the preparation in order; a stage is skipped if its files are complete and newer than its inputs."""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsff.errors import InputError, UsageError
from nsff.images import read_image
from nsff.io import digest_of_files, read_text, write_text
from nsff.prep.capture import REPORT, CaptureSettings, make_cameras
from nsff.prep.colmap import tame_pycolmap
from nsff.prep.depth_stage import DepthSettings, make_disparity
from nsff.prep.flow_stage import SEMANTIC_METHODS, FlowSettings, find_raft, make_flows, resolve_semantic
from nsff.prep.heldout_views import list_views, remove_views, undistort_views, undistorted
from nsff.prep.poses_bounds import load_cameras, save_poses
from nsff.prep.scene_page import write_page
from nsff.prep.weights import MASK_RCNN, MIDAS, RAFT, find_weights, has_weights
from nsff.scene_folder import SceneFolder

log = logging.getLogger("nsff")

# Of depth and flow: scenes of an earlier revision are prepared again. 2: at a working size, depth from tracks.
REVISION = {"revision": 2}

STAGES = ("cameras", "poses", "depth", "flow", "views")


@dataclasses.dataclass(frozen=True)
class PrepareSettings:
    """Settings of all stages.

    Attributes:
        capture: frames and cameras.
        depth: disparity.
        flow: flow and motion masks.
        views: folder of held-out views; None without any.
    """

    capture: CaptureSettings
    depth: DepthSettings
    flow: FlowSettings
    views: Path | None = None


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of the preparation.

    Attributes:
        name: one of `STAGES`.
        settings: options that decide its result; a stage made with other settings is outdated.
        run: makes the files and returns a summary line.
        outputs: lists the files that the stage makes.
    """

    name: str
    settings: dict[str, Any]
    run: Callable[[], str]
    outputs: Callable[[], list[Path]]


def prepare(
    scene: Path, settings: PrepareSettings, device: torch.device, force: str | None = None
) -> tuple[Path, list[str]]:
    """Run all stages that are missing or outdated.

    Args:
        scene: folder of the scene, which receives all files.
        settings: settings of all stages.
        device: device of the networks.
        force: name of the first stage to run again in any case.

    Returns:
        The path of the page with pictures, and its summary lines.

    Raises:
        InputError: an input is missing or a stage fails.
    """
    tame_pycolmap()
    folder = SceneFolder(scene / "dense")
    given = _given_files(settings, force)
    given_digest, newest_input = digest_of_files(given), max(path.stat().st_mtime for path in given)
    stages = _stages(scene, folder, settings, device)
    forced, lines = False, []
    for stage in stages:
        forced = forced or stage.name == force
        stamp = folder.root / ".prepared" / f"{stage.name}.json"
        summary = None if forced else summary_if_current(stage, stamp, given_digest, newest_input)
        if summary is None:
            summary = _run_stage(stage, stamp, given_digest, folder)
        else:
            log.info("== %s is up to date", stage.name)
        newest_input = max(path.stat().st_mtime for path in stage.outputs())
        lines += summary
    lines += _statistics(folder)
    return write_page(folder, lines), lines


def resolve_methods(depth: DepthSettings, flow: FlowSettings) -> tuple[DepthSettings, FlowSettings]:
    """Replace default methods whose weights are not installed by methods without weights, with a warning.

    Raises:
        InputError: weights that the user asked for are missing.
        UsageError: the source of semantic masks does not exist.
    """
    if depth.method == "midas" and depth.model is None and not has_weights(MIDAS):
        log.warning("no MiDaS weights: depth from neighbouring frames; download_models.py gets the weights")
        depth = dataclasses.replace(depth, method="multiview")
    if flow.small:
        find_raft(flow)
    elif flow.method == "raft" and flow.model in (None, RAFT) and not has_weights(RAFT):
        log.warning("no RAFT weights: flow from OpenCV's DIS; download_models.py gets the weights")
        flow = dataclasses.replace(flow, method="dis")
    semantic = resolve_semantic(flow.semantic, depth.method == "multiview")
    if semantic == "multiview" and depth.method != "multiview":
        raise UsageError("--semantic multiview needs --depth multiview")
    if semantic == "maskrcnn":
        find_weights(MASK_RCNN)
    elif semantic not in SEMANTIC_METHODS and not Path(semantic).is_dir():
        raise UsageError(f"--semantic {semantic} is neither {', '.join(SEMANTIC_METHODS)} nor a folder")
    return depth, dataclasses.replace(flow, semantic=semantic)


def _stages(scene: Path, folder: SceneFolder, settings: PrepareSettings, device: torch.device) -> list[Stage]:
    def per_frame(path_of: Callable[[int], Path]) -> list[Path]:
        return [path_of(index) for index in range(len(folder.list_images()))]

    def moving_files() -> list[Path]:
        return per_frame(folder.moving) if settings.depth.method == "multiview" else []

    def flow_files() -> list[Path]:
        last = len(folder.list_images()) - 1
        return [folder.flow(k, 1) for k in range(last)] + [folder.flow(k + 1, -1) for k in range(last)]

    def make_poses() -> str:
        model = save_poses(folder)
        return f"poses: {len(model.names)} frames, {len(model.points)} points"

    stages = [
        Stage(
            "cameras", _as_json(settings.capture), lambda: make_cameras(scene, settings.capture, device),
            lambda: [*folder.list_images(), folder.root / REPORT],
        ),
        Stage("poses", {}, make_poses, lambda: [folder.poses_bounds, folder.root / "scene.json"]),
        Stage(
            "depth", _as_json(settings.depth) | REVISION, lambda: make_disparity(folder, settings.depth, device),
            lambda: folder.list_frames(settings.depth.height) + per_frame(folder.disparity) + moving_files(),
        ),
        Stage(
            "flow", _as_json(settings.flow) | REVISION, lambda: make_flows(folder, settings.flow, device),
            lambda: flow_files() + per_frame(folder.motion_mask),
        ),
    ]  # fmt: skip
    if settings.views is not None:
        stages.append(_views_stage(settings.views, folder, settings.capture.source.max_side))
    return stages


def _views_stage(views: Path, folder: SceneFolder, max_side: int) -> Stage:
    if views.resolve() == folder.root.resolve():
        raise InputError(f"--views {views} is where undistorted views are written; keep the given ones elsewhere")
    paths = list_views(views)
    digest = digest_of_files(views / path for path in paths)
    return Stage(
        "views", {"from": str(views.resolve()), "files": digest},
        lambda: undistort_views(views, folder, max_side), lambda: [folder.root / undistorted(path) for path in paths],
    )  # fmt: skip


def _as_json(settings: Any) -> dict[str, Any]:
    """Convert a settings dataclass to plain JSON values, with absolute paths."""
    return json.loads(json.dumps(dataclasses.asdict(settings), default=lambda path: str(Path(path).resolve())))


def _given_files(settings: PrepareSettings, force: str | None) -> list[Path]:
    """The files and folders that the user gives, with the files of the latter.

    Raises:
        InputError: the source of the frames is missing.
        UsageError: the stage of held-out views is forced without any.
    """
    source, semantic = settings.capture.source.path, Path(settings.flow.semantic)
    if force == "views" and settings.views is None:
        raise UsageError("--force views needs --views DIR")
    if not source.exists():
        raise InputError(f"{source} is missing; give --video FILE or --images DIR")
    weights = [Path(path) for path in (settings.depth.model, settings.flow.model) if path and Path(path).is_file()]
    given = [source, settings.capture.masks, semantic if semantic.is_dir() else None, *weights]
    paths = [path.resolve() for path in given if path is not None]
    return [entry for path in paths for entry in (path, *(path.iterdir() if path.is_dir() else ()))]


def _run_stage(stage: Stage, stamp: Path, given_digest: str, folder: SceneFolder) -> list[str]:
    """Run a stage, and write a stamp with its settings and summary lines (warnings included)."""
    log.info("== %s", stage.name)
    log.debug("%s", stage.settings)
    stamp.unlink(missing_ok=True)
    views_stamp = stamp.with_name("views.json")
    if stage.name == "cameras" and views_stamp.exists():
        remove_views(folder)  # they were undistorted by the old camera
        views_stamp.unlink()
    with _collect_warnings() as warnings:
        line = stage.run()
    summary = [line, *(f"warning: {text}" for text in warnings)]
    write_text(stamp, json.dumps({"settings": stage.settings, "given": given_digest, "summary": summary}) + "\n")
    return summary


@contextlib.contextmanager
def _collect_warnings() -> Iterator[list[str]]:
    """Collect the messages of the warnings that are logged meanwhile."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    try:
        yield messages
    finally:
        log.removeHandler(handler)


def summary_if_current(stage: Stage, stamp: Path, given_digest: str, newest_input: float) -> list[str] | None:
    """Summary lines of an earlier run whose results are complete and current; None if the stage must run.

    Outputs that were made again by the stage's own script count as current, while all later stages are outdated.
    """
    try:
        content = json.loads(read_text(stamp))
        oldest = min(path.stat().st_mtime for path in stage.outputs())
        # Scenes that were prepared before digests were stored are judged by the times of their files alone.
        same = content["settings"] == stage.settings and content.get("given", given_digest) == given_digest
        return content["summary"] if same and oldest >= newest_input else None
    except (OSError, ValueError, KeyError, TypeError, InputError):  # a missing or broken stamp, or missing outputs
        return None


def _statistics(folder: SceneFolder) -> list[str]:
    """Lines about the size, the depth range and the moving pixels of the scene."""
    cameras = load_cameras(folder)
    moving = [(read_image(folder.motion_mask(k))[..., 0] > 0).mean() for k in range(len(cameras.w2c))]
    return [
        f"{len(cameras.w2c)} frames of {cameras.size[0]}x{cameras.size[1]}, focal length {cameras.focal:.1f} px",
        f"depth {np.min(cameras.bounds[:, 0]):.2f} to {np.max(cameras.bounds[:, 1]):.2f} (units of the cameras)",
        f"moving: {np.mean(moving):.1%} of the pixels, {np.min(moving):.1%} to {np.max(moving):.1%} per frame",
    ]
