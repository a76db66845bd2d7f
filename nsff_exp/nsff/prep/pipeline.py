"""All stages in order; each is skipped when what it made is there, whole, and newer than what it was made from."""

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsff.errors import InputError, UsageError
from nsff.io import read_image, write_text
from nsff.prep import capture
from nsff.prep import make_flows as flows
from nsff.prep.depth import disparity as depth
from nsff.prep.heldout_views import forget_views, list_views, undistort_views
from nsff.prep.poses_bounds import load_cameras, save_poses
from nsff.prep.scene_page import write_page
from nsff.prep.weights import MASK_RCNN, MIDAS, RAFT, find_weights, has_weights
from nsff.scene_folder import SceneFolder

log = logging.getLogger("nsff")

STAGES = ("cameras", "poses", "depth", "flow", "views")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step. `makes` must be there; `settings` must be those of the run that made it."""

    name: str
    settings: dict[str, Any]
    run: Callable[[], str]
    makes: Callable[[], list[Path]]


def prepare(
    scene: Path,
    captured: capture.CaptureSettings,
    depths: depth.DepthSettings,
    flow: flows.FlowSettings,
    views: Path | None,
    force: str | None,
    device: torch.device,
) -> tuple[Path, list[str]]:
    """Run what is missing; returns the page with pictures and figures, and its lines.

    Args:
        scene: its folder; all is written below.
        captured: frames and cameras.
        depths: disparity.
        flow: flow and motion masks.
        views: folder of held-out views, if there are any.
        force: run from this stage on, whatever is there.
        device: for networks.
    """
    folder = SceneFolder(scene / "dense")
    source = captured.source.path
    if force == "views" and views is None:
        raise UsageError("--force views needs --views DIR")
    if not source.exists():
        raise InputError(f"{source} is missing; give --video FILE or --images DIR")
    newest = max(_changed(path) for path in (source, captured.masks, _folder_of(flow.semantic)) if path is not None)
    forced, lines = False, []
    stages = _stages(scene, folder, captured, depths, flow, device)
    if views is not None:
        stages.append(_views_stage(views, folder, captured))
    for stage in stages:
        forced = forced or stage.name == force
        stamp = folder.root / ".prepared" / f"{stage.name}.json"
        said = None if forced else _done(stage, stamp, newest)
        if said is None:
            log.info("== %s", stage.name)
            log.debug("%s", stage.settings)
            stamp.unlink(missing_ok=True)
            if stage.name == "cameras" and (views_stamp := stamp.with_name("views.json")).exists():
                forget_views(folder)  # they were undistorted as the old frames
                views_stamp.unlink()
            with _warnings() as found:
                line = stage.run()
            said = [line, *(f"warning: {text}" for text in found)]
            write_text(stamp, json.dumps({"settings": stage.settings, "said": said}) + "\n")
        else:
            log.info("== %s is done", stage.name)
        newest = max(path.stat().st_mtime for path in stage.makes())
        lines += said
    lines += _ranges(folder)
    return write_page(folder, lines), lines


def _stages(
    scene: Path,
    folder: SceneFolder,
    captured: capture.CaptureSettings,
    depths: depth.DepthSettings,
    flow: flows.FlowSettings,
    device: torch.device,
) -> list[Stage]:
    def frames() -> list[Path]:
        return [*folder.list_images(), folder.root / "sfm.json"]

    def per_frame(name: Callable[[int], Path]) -> list[Path]:
        return [name(index) for index in range(len(folder.list_images()))]

    def moving() -> list[Path]:
        return per_frame(folder.moving) if depths.method == "multiview" else []

    def flow_files() -> list[Path]:
        last = len(folder.list_images()) - 1
        return [folder.flow(k, 1) for k in range(last)] + [folder.flow(k + 1, -1) for k in range(last)]

    def poses() -> str:
        model = save_poses(folder)
        return f"poses: {len(model.names)} frames, {len(model.points)} points"

    def settings(value: Any) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(value), default=lambda path: str(Path(path).resolve())))

    return [
        Stage("cameras", settings(captured), lambda: capture.make_cameras(scene, captured), frames),
        Stage("poses", {}, poses, lambda: [folder.poses_bounds, folder.root / "scene.json"]),
        Stage(
            "depth", settings(depths), lambda: depth.make_disparity(folder, depths, device),
            lambda: folder.list_frames(depths.height) + per_frame(folder.disparity) + moving(),
        ),
        Stage(
            "flow", settings(flow), lambda: flows.make_flows(folder, flow, device),
            lambda: flow_files() + per_frame(folder.motion_mask),
        ),
    ]  # fmt: skip


def _views_stage(views: Path, folder: SceneFolder, captured: capture.CaptureSettings) -> Stage:
    if views.resolve() == folder.root.resolve():
        raise InputError(f"--views {views} is where the views go, undistorted; keep the given ones elsewhere")
    paths = list_views(views)
    facts = [(str(path), (views / path).stat().st_size, (views / path).stat().st_mtime_ns) for path in paths]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return Stage(
        "views", {"from": str(views.resolve()), "files": digest},
        lambda: undistort_views(views, folder, captured.source.longest),
        lambda: [folder.root / path for path in paths],
    )  # fmt: skip


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """The warnings that are given meanwhile, for the summary."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    try:
        yield found
    finally:
        log.removeHandler(handler)


def _done(stage: Stage, stamp: Path, newest: float) -> list[str] | None:
    """What an earlier run said, if its work stands; None if the stage must run.

    Files that were made anew by the stage's own script count as done, and all after them is made again.
    """
    try:
        content = json.loads(stamp.read_text())
        oldest = min(path.stat().st_mtime for path in stage.makes())
        return content["said"] if content["settings"] == stage.settings and oldest >= newest else None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        InputError,
    ):  # no stamp, a broken one, or files that are not there
        return None


def _changed(path: Path) -> float:
    """When a file, or the latest one of a folder, was written."""
    return max(each.stat().st_mtime for each in [path, *(path.iterdir() if path.is_dir() else [])])


def _folder_of(semantic: str) -> Path | None:
    return Path(semantic) if Path(semantic).is_dir() else None


def resolve_methods(
    depths: depth.DepthSettings, flow: flows.FlowSettings
) -> tuple[depth.DepthSettings, flows.FlowSettings]:
    """Choose methods that need no weights where the usual weights are not there, with a warning.

    Raises:
        InputError: masks that nothing will make, or weights that were asked for and are not there.
    """
    if depths.method == "midas" and depths.model is None and not has_weights(MIDAS):
        log.warning("no MiDaS weights: depth from neighbouring frames; download_models.py gets the weights")
        depths = dataclasses.replace(depths, method="multiview")
    if flow.small:
        flows.find_raft(flow)
    elif flow.method == "raft" and flow.model in (None, RAFT) and not has_weights(RAFT):
        log.warning("no RAFT weights: flow from OpenCV's DIS; download_models.py gets the weights")
        flow = dataclasses.replace(flow, method="dis")
    semantic = flows.chosen_semantic(flow.semantic, depths.method == "multiview")
    if semantic == "multiview" and depths.method != "multiview":
        raise UsageError("--semantic multiview needs --depth multiview")
    if semantic == "maskrcnn":
        find_weights(MASK_RCNN)
    elif semantic not in flows.SEMANTIC and not Path(semantic).is_dir():
        raise UsageError(f"--semantic {semantic} is neither {', '.join(flows.SEMANTIC)} nor a folder")
    return depths, dataclasses.replace(flow, semantic=semantic)


def _ranges(folder: SceneFolder) -> list[str]:
    cameras = load_cameras(folder)
    moving = [(read_image(folder.motion_mask(k))[..., 0] > 0).mean() for k in range(len(cameras.w2c))]
    return [
        f"{len(cameras.w2c)} frames of {cameras.size[0]}x{cameras.size[1]}, focal length {cameras.focal:.1f} px",
        f"depth {np.min(cameras.bounds[:, 0]):.2f} to {np.max(cameras.bounds[:, 1]):.2f} (units of the cameras)",
        f"moving: {np.mean(moving):.1%} of the pixels, {np.min(moving):.1%} to {np.max(moving):.1%} a frame",
    ]
