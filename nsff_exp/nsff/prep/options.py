"""The options that several scripts share, and the settings that they make."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nsff.cli import Parser
from nsff.errors import InputError, UsageError
from nsff.prep import make_flows as flows
from nsff.prep import semantic_masks as semantic
from nsff.prep.capture import CaptureSettings
from nsff.prep.depth import disparity as depth
from nsff.prep.depth import midas
from nsff.prep.depth.disparity import DepthSettings
from nsff.prep.make_flows import FlowSettings
from nsff.prep.motion_masks import parse_threshold
from nsff.prep.video import LEAST_FRAMES, Source
from nsff.prep.weights import MIDAS, RAFT, RAFT_SMALL

CAMERA_MODELS = ("SIMPLE_RADIAL", "SIMPLE_PINHOLE", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")


def number(least: float, most: float, kind: Callable[[str], Any] = float) -> Callable[[str], Any]:
    """A converter for argparse that keeps to a range."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"'{text}' is not {least:g} to {most:g}")
        return value

    return convert


def add_capture(parser: Parser) -> None:
    """Options of frames and cameras."""
    group = parser.add_argument_group("frames and cameras")
    group.add_argument("--video", type=Path, help="a video file")
    group.add_argument("--images", type=Path, help="or a folder of frames, in the order of their names")
    group.add_argument("--fps", type=number(0.01, 1000), help="frames to take a second (default: all)")
    group.add_argument(
        "--max_frames", type=number(LEAST_FRAMES, 100_000, int), help="take at most so many, evenly spaced"
    )
    group.add_argument("--start", type=number(0, 1e6), default=0.0, help="seconds from the beginning (default: 0)")
    group.add_argument("--end", type=number(0, 1e6), help="seconds from the beginning (default: the end)")
    group.add_argument(
        "--masks", type=Path, help="masks of what moves, one a frame (of all or of those taken), white = moving"
    )
    group.add_argument(
        "--camera_model", choices=CAMERA_MODELS, default="SIMPLE_RADIAL", help="lens (default: SIMPLE_RADIAL)"
    )
    group.add_argument(
        "--max_size",
        type=number(64, 8192, int),
        default=1024,
        help="most pixels of a frame's longer side (default: 1024)",
    )


def capture_settings(args: argparse.Namespace) -> CaptureSettings:
    """Of parsed options.

    Raises:
        UsageError: no source, or two.
    """
    if (args.video is None) == (args.images is None):
        raise UsageError("give either --video FILE or --images DIR")
    if args.images is not None and (args.fps or args.start or args.end is not None):
        raise UsageError("--fps, --start and --end choose frames of a --video; with --images there is --max_frames")
    source = Source(args.video, args.images, args.fps, args.max_frames, args.start, args.end, args.max_size)
    return CaptureSettings(source, args.masks, args.camera_model)


def add_depth(parser: Parser, alone: bool = True) -> None:
    """Options of disparity; `alone`: `--model` is not taken by another network."""
    group = parser.add_argument_group("disparity")
    group.add_argument("--depth", choices=depth.METHODS, default="midas", help="method (default: midas)")
    names = ("--depth_model", "--model") if alone else ("--depth_model",)
    group.add_argument(
        *names, dest="depth_model", help=f"weights of midas (default: {MIDAS}), or folder or name for transformers"
    )
    rule = f"{midas.LONG_SIDE} for the long side, unless --input_w or --input_h is given"
    group.add_argument("--input_w", type=number(32, 4096, int), help=f"widest input of MiDaS, pixels (default: {rule})")
    group.add_argument(
        "--input_h", type=number(32, 4096, int), help=f"highest input of MiDaS, pixels (default: {rule})"
    )
    group.add_argument(
        "--resize_height", type=number(16, 4096, int), default=288, help="training height, pixels (default: 288)"
    )
    _add_device(parser)


def depth_settings(args: argparse.Namespace) -> DepthSettings:
    """Make the settings from parsed options."""
    return DepthSettings(args.depth, args.depth_model, (args.input_w, args.input_h), args.resize_height)


def add_flow(parser: Parser, device: bool = True) -> None:
    """Options of flow and motion masks."""
    group = parser.add_argument_group("flow and motion masks")
    group.add_argument("--flow", choices=flows.METHODS, default="raft", help="method (default: raft)")
    group.add_argument("--model", help=f"weights of RAFT (default: {RAFT}; with --small {RAFT_SMALL})")
    group.add_argument("--small", action="store_true", help="use RAFT's small network")
    group.add_argument("--mixed_precision", action="store_true", help="run RAFT in float16 (CUDA only)")
    group.add_argument(
        "--epi_threshold", "--epi_threhold", default="1.0",
        help="flow that misses the epipolar line by more moves: pixels, or 0.002w, a share of the width (default: 1.0)",
    )  # fmt: skip
    group.add_argument(
        "--input_flow_w", type=number(64, 4096, int),
        help=f"width of the images for the flow, pixels (default: {flows.LONG_SIDE} for the long side)",
    )  # fmt: skip
    kinds = ", ".join(flows.SEMANTIC)
    group.add_argument("--semantic", default="auto", help=f"what else moves: {kinds}, or a folder (default: auto)")
    rule = f"{semantic.LONG_SIDE} for the long side, unless --input_semantic_w or --input_semantic_h is given"
    group.add_argument(
        "--input_semantic_w", type=number(64, 4096, int), help=f"widest input of Mask R-CNN, pixels (default: {rule})"
    )
    group.add_argument(
        "--input_semantic_h", type=number(64, 4096, int), help=f"highest input of Mask R-CNN, pixels (default: {rule})"
    )
    if device:
        _add_device(parser)


def flow_settings(args: argparse.Namespace, height: int | None) -> FlowSettings:
    """Make the settings from parsed options; `height` chooses the frames where there are several sizes.

    Raises:
        UsageError: options that contradict each other.
    """
    parse_threshold(args.epi_threshold, 1)  # refused now rather than after the flow
    if args.flow != "raft" and (args.small or args.mixed_precision):
        raise UsageError(f"--small and --mixed_precision are options of RAFT: not with --flow {args.flow}")
    return FlowSettings(
        args.flow, args.model, args.epi_threshold, args.input_flow_w, args.semantic,
        (args.input_semantic_w, args.input_semantic_h), height, args.small, args.mixed_precision,
    )  # fmt: skip


def _add_device(parser: Parser) -> None:
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="for networks (default: auto)"
    )


def pick_device(wanted: str) -> torch.device:
    """CUDA where there is one, unless told otherwise.

    Raises:
        InputError: cuda was asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is available to this torch; use --device cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")
