"""Flow stage of the preparation: optical flow, its consistency, and motion masks."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float

from nsff.cli import progress_bar
from nsff.errors import InputError
from nsff.images import image_size, list_images, read_frames, read_image
from nsff.input_checks import check_aspect
from nsff.io import Flow, Image, Mask, read_arrays, write_arrays, write_image
from nsff.prep.flow import DisFlow, FlowMethod, consistent, resize_flow
from nsff.prep.motion_masks import (
    MAX_MOVING_FRACTION,
    MIN_MOVING_FRACTION,
    confirmed_regions,
    epipolar_distance,
    epipolar_mask,
    fundamental,
    motion_mask,
    parse_threshold,
)
from nsff.prep.network_sizes import NO_LIMITS, Limits, network_size, resize_image, shrink_mask, working_size
from nsff.prep.poses_bounds import Cameras, load_cameras
from nsff.prep.previews import flow_picture, mask_picture, preview_indices, write_contact_sheet
from nsff.prep.raft import RaftFlow
from nsff.prep.semantic_masks import MaskRcnn
from nsff.prep.user_masks import read_user_masks
from nsff.prep.weights import MASK_RCNN, RAFT, RAFT_SMALL, find_weights, has_weights
from nsff.scene_folder import SceneFolder

log = logging.getLogger("nsff")

FLOW_LONG_SIDE = 768  # Pixels of the images that flow is computed on, where the user gives no width; as published.
FLOW_METHODS = ("raft", "dis")
SEMANTIC_METHODS = ("auto", "maskrcnn", "multiview", "none")
MAX_NAMES = 8  # Frames named in a warning.

SemanticMasks = Callable[[int], Mask]  # The mask of movable things of a frame, at the working size.


@dataclasses.dataclass(frozen=True)
class FlowSettings:
    """Settings of flow and motion masks.

    Attributes:
        method: one of `FLOW_METHODS`.
        model: file of RAFT's weights; None = the usual one.
        threshold: epipolar distance above which a pixel moves: pixels at the working size, which is the training size
            where that is as large, or a fraction of the width (`0.002w`).
        flow_width: width of the images that flow is computed on, pixels; None = their long side is fixed.
        semantic: one of `SEMANTIC_METHODS`, or a folder of masks.
        semantic_limits: largest width and height of the input of Mask R-CNN, pixels; without any, its long side is
            fixed.
        height: training height, where the scene has frames of several sizes.
        small: use RAFT's small network.
        mixed_precision: run RAFT in float16 on CUDA.
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
    """Write `flow_i1/`, `motion_masks/` and a contact sheet.

    Returns:
        A summary line.

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
    size, source_size = ((image.shape[1], image.shape[0]) for image in map(read_image, (paths[0], sources[0])))
    at_work = working_size(source_size, size)
    has_multiview_depth = folder.moving(0).is_file()
    settings = dataclasses.replace(settings, semantic=resolve_semantic(settings.semantic, has_multiview_depth))
    # Load masks and networks before the slow part, so that bad ones are refused at once.
    semantic_masks = _load_semantic_masks(folder, settings, at_work, device)
    method = _load_flow_method(settings, device)
    threshold = parse_threshold(settings.threshold, at_work[0])
    finder = MaskFinder(cameras, at_work, threshold, settings.semantic, semantic_masks)
    masks = _write_flows_and_masks(folder, sources, size, method, settings.flow_width, finder)
    _write_preview(folder, paths)
    return _summarise(masks, settings.method)


def find_raft(settings: FlowSettings) -> Path:
    """Find the weights of RAFT: those that the user named, or the usual ones of the large or the small network.

    Raises:
        InputError: the file is missing.
    """
    if settings.small:
        return find_weights(settings.model or RAFT_SMALL, "run download_models.py --only raft_small")
    return find_weights(settings.model or RAFT)


def resolve_semantic(semantic: str, has_multiview_depth: bool) -> str:
    """Resolve `auto`: Mask R-CNN if its weights are installed, else the moving pixels of multi-view depth, else none.

    Args:
        semantic: method or folder as typed; all but `auto` are returned unchanged.
        has_multiview_depth: the depth is measured from neighbouring frames.
    """
    if semantic != "auto":
        return semantic
    if has_weights(MASK_RCNN):
        return "maskrcnn"
    log.warning(
        "no Mask R-CNN weights: motion masks from %s; download_models.py gets the weights",
        "depth and epipolar geometry" if has_multiview_depth else "epipolar geometry alone",
    )
    return "multiview" if has_multiview_depth else "none"


def _load_flow_method(settings: FlowSettings, device: torch.device) -> FlowMethod:
    if settings.method == "dis":
        return DisFlow()
    return RaftFlow(find_raft(settings), device, settings.small, settings.mixed_precision)


def _load_semantic_masks(
    folder: SceneFolder, settings: FlowSettings, size: tuple[int, int], device: torch.device
) -> SemanticMasks | None:
    """Load the source of masks of movable things, resized to `size`; None without one."""
    if settings.semantic == "none":
        return None
    sources = folder.list_images()
    if settings.semantic == "maskrcnn":
        detector = MaskRcnn(find_weights(MASK_RCNN), device, settings.semantic_limits)
        return lambda index: detector(read_image(sources[index]), size)
    if settings.semantic == "multiview":
        masks = _read_unexplained_masks(folder, len(sources))
    else:
        masks = read_user_masks(Path(settings.semantic), len(sources))
        remedy = "give masks of dense/images, upright and not cropped"
        for mask, source in zip(masks, sources, strict=True):
            name = f"--semantic {settings.semantic}: the mask of {source.name}"
            check_aspect(name, mask.shape[::-1], "the frame", image_size(source), remedy)
    return lambda index: cv2.resize(masks[index].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0


def _read_unexplained_masks(folder: SceneFolder, n_frames: int) -> list[Mask]:
    remedy = f"run run_midas.py --depth multiview --data_path {folder.root}"
    paths = list_images(folder.moving(0).parent, remedy)
    if len(paths) != n_frames:
        raise InputError(f"{paths[0].parent} has {len(paths)} masks for {n_frames} frames; {remedy}")
    return [read_image(path)[..., 0] > 0 for path in paths]


@dataclasses.dataclass(frozen=True)
class MaskFinder:
    """Finds motion masks from flow at the working size.

    Attributes:
        cameras: cameras of all frames.
        size: working size (width, height).
        threshold: epipolar distance above which a pixel moves, pixels at the working size.
        semantic: see `FlowSettings`; resolved.
        semantic_masks: source of masks of movable things at the working size.
    """

    cameras: Cameras
    size: tuple[int, int]
    threshold: float
    semantic: str
    semantic_masks: SemanticMasks | None

    def distance(self, flow: Flow, index: int, other: int) -> Float[np.ndarray, "H W"]:
        """Epipolar distance of the flow from frame `index` to frame `other`."""
        poses = self.cameras.w2c
        return epipolar_distance(flow, fundamental(poses[index], poses[other], self.cameras.intrinsics(*self.size)))

    def mask(self, index: int, distances: list[Float[np.ndarray, "H W"]], consistency: list[Mask]) -> Mask:
        """Mask of a frame from the distances of its flows to its neighbours."""
        epipolar = epipolar_mask(distances, consistency, self.threshold)
        semantic = None if self.semantic_masks is None else self.semantic_masks(index)
        if semantic is not None and self.semantic == "multiview":
            return confirmed_regions(semantic, motion_mask(epipolar))
        return motion_mask(epipolar, semantic)


def _write_flows_and_masks(
    folder: SceneFolder,
    sources: list[Path],
    size: tuple[int, int],
    method: FlowMethod,
    flow_width: int | None,
    finder: MaskFinder,
) -> list[Mask]:
    """Write flow between neighbours and motion masks at `size`; only one pair of frames is in memory.

    Flow is computed at the input size, and resampled to `size` for the file and to the working size for the masks.
    """
    previous: Image | None = None
    masks: list[Mask] = []
    distances: list[Float[np.ndarray, "H W"]] = []  # of the flows of the frame at hand
    consistency: list[Mask] = []

    def write_mask() -> None:
        mask = shrink_mask(finder.mask(len(masks), distances, consistency), size)
        write_image(folder.motion_mask(len(masks)), mask.astype(np.uint8) * 255)
        masks.append(mask)

    for index, image in enumerate(progress_bar(read_frames(sources), total=len(sources), desc="flow", unit="frame")):
        height, width = image.shape[:2]
        frame = resize_image(image, network_size(width, height, (flow_width, None), FLOW_LONG_SIDE))
        if previous is not None:
            flows = method(previous, frame), method(frame, previous)
            fwd, bwd = (resize_flow(flow, size) for flow in flows)
            write_arrays(folder.flow(index - 1, 1), flow=fwd, mask=consistent(fwd, bwd))
            write_arrays(folder.flow(index, -1), flow=bwd, mask=consistent(bwd, fwd))
            fwd, bwd = (resize_flow(flow, finder.size) for flow in flows)
            distances.append(finder.distance(fwd, index - 1, index))
            consistency.append(consistent(fwd, bwd))
            write_mask()
            distances, consistency = [finder.distance(bwd, index, index - 1)], [consistent(bwd, fwd)]
        previous = frame
    write_mask()
    return masks


def _write_preview(folder: SceneFolder, paths: list[Path]) -> None:
    rows = []
    for index in preview_indices(len(paths)):
        image, step = read_image(paths[index]), 1 if index + 1 < len(paths) else -1
        content = read_arrays(folder.flow(index, step), "run run_flows_video.py again")
        moving = read_image(folder.motion_mask(index))[..., 0] > 0
        inconsistent = mask_picture(image, ~content["mask"])
        rows.append([image, flow_picture(content["flow"]), inconsistent, mask_picture(image, moving)])
    write_contact_sheet(folder.root / "sheets" / "flow_and_masks.jpg", rows)


def _summarise(masks: list[Mask], method: str) -> str:
    """Warn about implausible masks, and return a summary line."""
    fractions = np.array([mask.mean() for mask in masks])
    grow = "a lower --epi_threshold, --semantic none, or masks of your own (--semantic DIR)"
    shrink = "a higher --epi_threshold; if it persists, the poses are wrong: run run_colmap.py with --masks"
    for implausible, finding, remedy in (
        (fractions < MIN_MOVING_FRACTION, f"under {MIN_MOVING_FRACTION:.1%}", grow),
        (fractions > MAX_MOVING_FRACTION, f"over {MAX_MOVING_FRACTION:.0%}", shrink),
    ):
        if implausible.any():
            indices = np.flatnonzero(implausible)
            names = ", ".join(f"{index:05d}" for index in indices[:MAX_NAMES])
            names += ", ..." if len(indices) > MAX_NAMES else ""
            log.warning("motion masks cover %s of %d frames (%s); try %s", finding, len(indices), names, remedy)
    summary = f"flow: {method} on {len(masks)} frames; {fractions.mean():.1%} of the pixels move"
    log.info("%s", summary)
    return summary
