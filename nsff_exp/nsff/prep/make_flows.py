"""The stage that makes optical flow, its consistency and the motion masks."""

import dataclasses
import logging
from pathlib import Path

import cv2
import numpy as np
import torch

from nsff.cli import progress_bar
from nsff.errors import InputError
from nsff.io import Image, Mask, list_images, read_arrays, read_frames, read_image, write_arrays, write_image
from nsff.prep.flow import DisFlow, FlowMethod, consistent, resize_flow
from nsff.prep.masks import read_own_masks
from nsff.prep.motion_masks import (
    LEAST_SHARE,
    MOST_SHARE,
    common_mask,
    epipolar_distance,
    epipolar_mask,
    fundamental,
    motion_mask,
    parse_threshold,
)
from nsff.prep.network_sizes import NO_LIMITS, Limits, network_size, resize_image
from nsff.prep.poses_bounds import Cameras, load_cameras
from nsff.prep.previews import chosen, flow_picture, mask_picture, write_contact_sheet
from nsff.prep.raft import RaftFlow
from nsff.prep.semantic_masks import MaskRcnn
from nsff.prep.weights import MASK_RCNN, RAFT, RAFT_SMALL, find_weights, has_weights
from nsff.scene_folder import SceneFolder

log = logging.getLogger("nsff")

LONG_SIDE = 768  # pixels of the images that flow is computed on, where the user gives no width; as published
METHODS = ("raft", "dis")
SEMANTIC = ("auto", "maskrcnn", "multiview", "none")


@dataclasses.dataclass(frozen=True)
class FlowSettings:
    """Settings of flow and motion masks.

    `model`: weights of RAFT; None = the usual ones. `threshold`: pixels at training size, or `0.002w`. `flow_width`:
    width of the images that flow is computed on, pixels; None = their long side is fixed. `semantic`: one of SEMANTIC,
    or a folder of masks. `semantic_limits`: widest and highest input of Mask R-CNN, pixels; without any, its long side
    is fixed. `small`, `mixed_precision`: as in `RaftFlow`.
    """

    method: str = "raft"
    model: str | None = None
    threshold: str = "1.0"
    flow_width: int | None = None
    semantic: str = "auto"
    semantic_limits: Limits = NO_LIMITS
    height: int | None = None
    small: bool = False
    mixed_precision: bool = False


def make_flows(folder: SceneFolder, settings: FlowSettings, device: torch.device) -> str:
    """Write `flow_i1/`, `motion_masks/` and picture sheets; returns a line about what was made.

    Raises:
        InputError: frames, poses or weights are missing.
    """
    sources, paths = folder.list_images(), folder.list_frames(settings.height)
    if len(sources) != len(paths):
        raise InputError(
            f"{paths[0].parent} has {len(paths)} frames, {folder.images} has {len(sources)}; "
            f"run run_midas.py --data_path {folder.root}"
        )
    cameras = load_cameras(folder)
    measured = folder.moving(0).is_file()
    settings = dataclasses.replace(settings, semantic=chosen_semantic(settings.semantic, measured))
    movable = _semantic(folder, settings, len(paths), device)  # before the slow part: bad masks are refused at once
    method = _flow_method(settings, device)
    _write_flows(folder, sources, read_image(paths[0]).shape[1::-1], method, settings.flow_width)
    masks = _write_masks(folder, paths, cameras, settings, movable)
    _write_sheets(folder, paths)
    return _summary(masks, settings.method)


def find_raft(settings: FlowSettings) -> Path:
    """Find the weights of RAFT: those that were typed, or the usual ones of the large or the small network.

    Raises:
        InputError: they are not there.
    """
    if settings.small:
        return find_weights(settings.model or RAFT_SMALL, "run download_models.py --only raft_small")
    return find_weights(settings.model or RAFT)


def _flow_method(settings: FlowSettings, device: torch.device) -> FlowMethod:
    if settings.method == "dis":
        return DisFlow()
    return RaftFlow(find_raft(settings), device, settings.small, settings.mixed_precision)


def _write_flows(
    folder: SceneFolder, sources: list[Path], size: tuple[int, int], method: FlowMethod, flow_width: int | None
) -> None:
    """Write flow between neighbours, computed at the size for networks, at `size`; one pair in memory at a time."""
    before: Image | None = None
    for index, image in enumerate(progress_bar(read_frames(sources), total=len(sources), desc="flow", unit="frame")):
        height, width = image.shape[:2]
        frame = resize_image(image, network_size(width, height, (flow_width, None), LONG_SIDE))
        if before is not None:
            fwd, bwd = (resize_flow(method(*pair), size) for pair in ((before, frame), (frame, before)))
            write_arrays(folder.flow(index - 1, 1), flow=fwd, mask=consistent(fwd, bwd))
            write_arrays(folder.flow(index, -1), flow=bwd, mask=consistent(bwd, fwd))
        before = frame


def _write_masks(
    folder: SceneFolder,
    paths: list[Path],
    cameras: Cameras,
    settings: FlowSettings,
    movable: MaskRcnn | list[Mask] | None,
) -> list[Mask]:
    """Motion masks of all frames, from the flow on the disk."""
    n_frames, (height, width) = len(paths), read_image(paths[0]).shape[:2]
    intrinsics, threshold = cameras.intrinsics(width, height), parse_threshold(settings.threshold, width)
    masks = []
    for index, image in enumerate(progress_bar(folder.list_images(), desc="masks", unit="frame")):
        distances, agree = [], []
        for step in (1, -1):
            if 0 <= index + step < n_frames:
                content = read_arrays(folder.flow(index, step), f"run run_flows_video.py --data_path {folder.root}")
                matrix = fundamental(cameras.w2c[index], cameras.w2c[index + step], intrinsics)
                distances.append(epipolar_distance(content["flow"], matrix))
                agree.append(content["mask"])
        epipolar, semantic = epipolar_mask(distances, agree, threshold), None
        if isinstance(movable, list):
            semantic = cv2.resize(movable[index].astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
        elif movable is not None:
            semantic = movable(read_image(image), (width, height))
        if semantic is not None and settings.semantic == "multiview":
            masks.append(common_mask(semantic, motion_mask(epipolar)))
        else:
            masks.append(motion_mask(epipolar, semantic))
        write_image(folder.motion_mask(index), masks[-1].astype(np.uint8) * 255)
    return masks


def chosen_semantic(wanted: str, measured: bool) -> str:
    """Resolve `auto`: Mask R-CNN if its weights are there, else `moving/` of depth from neighbours, else nothing.

    Args:
        wanted: as typed.
        measured: the depth is from neighbours.
    """
    if wanted != "auto":
        return wanted
    if has_weights(MASK_RCNN):
        return "maskrcnn"
    log.warning(
        "no Mask R-CNN weights: motion masks from %s; download_models.py gets the weights",
        "depth and epipolar geometry" if measured else "epipolar geometry alone",
    )
    return "multiview" if measured else "none"


def _semantic(
    folder: SceneFolder, settings: FlowSettings, n_frames: int, device: torch.device
) -> MaskRcnn | list[Mask] | None:
    if settings.semantic == "none":
        return None
    if settings.semantic == "maskrcnn":
        return MaskRcnn(find_weights(MASK_RCNN), device, settings.semantic_limits)
    if settings.semantic != "multiview":
        return read_own_masks(Path(settings.semantic), n_frames)
    remedy = f"run run_midas.py --depth multiview --data_path {folder.root}"
    paths = list_images(folder.moving(0).parent, remedy)
    if len(paths) != n_frames:
        raise InputError(f"{paths[0].parent} has {len(paths)} masks for {n_frames} frames; {remedy}")
    return [read_image(path)[..., 0] > 0 for path in paths]


def _write_sheets(folder: SceneFolder, paths: list[Path]) -> None:
    rows = []
    for index in chosen(len(paths)):
        image, step = read_image(paths[index]), 1 if index + 1 < len(paths) else -1
        content = read_arrays(folder.flow(index, step), "run run_flows_video.py again")
        moving = read_image(folder.motion_mask(index))[..., 0] > 0
        doubtful = mask_picture(image, ~content["mask"])
        rows.append([image, flow_picture(content["flow"]), doubtful, mask_picture(image, moving)])
    write_contact_sheet(folder.root / "sheets" / "flow_and_masks.jpg", rows)


def _summary(masks: list[Mask], method: str) -> str:
    shares = np.array([mask.mean() for mask in masks])
    less = "a lower --epi_threshold, --semantic none, or masks of your own (--semantic DIR)"
    more = "a higher --epi_threshold; if it stays, the poses are wrong: run run_colmap.py with --masks"
    for odd, what, remedy in (
        (shares < LEAST_SHARE, f"cover under {LEAST_SHARE:.1%}", less),
        (shares > MOST_SHARE, f"cover over {MOST_SHARE:.0%}", more),
    ):
        if odd.any():
            names = ", ".join(f"{index:05d}" for index in np.flatnonzero(odd)[:8]) + (", ..." if odd.sum() > 8 else "")
            log.warning("the motion masks of %d frames %s of it (%s); try %s", odd.sum(), what, names, remedy)
    summary = f"flow: {method} on {len(masks)} frames; {shares.mean():.1%} of the pixels move"
    log.info("%s", summary)
    return summary
