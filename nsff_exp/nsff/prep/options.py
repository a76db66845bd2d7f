"""Command-line options that several scripts share, and the settings made from them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nsff.cli import Parser
from nsff.errors import InputError, UsageError
from nsff.prep.capture import CaptureSettings
from nsff.prep.depth.midas import MIDAS_LONG_SIDE
from nsff.prep.depth_stage import DEPTH_METHODS, DepthSettings
from nsff.prep.flow_stage import FLOW_LONG_SIDE, FLOW_METHODS, SEMANTIC_METHODS, FlowSettings
from nsff.prep.frame_choice import MIN_FRAMES
from nsff.prep.motion_masks import parse_threshold
from nsff.prep.network_sizes import WORKING_LONG_SIDE
from nsff.prep.semantic_masks import MASK_RCNN_LONG_SIDE
from nsff.prep.video import FrameSource
from nsff.prep.weights import MIDAS, RAFT, RAFT_SMALL

CAMERA_MODELS = ("SIMPLE_RADIAL", "SIMPLE_PINHOLE", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")


def number_in(low: float, high: float, number_type: Callable[[str], Any] = float) -> Callable[[str], Any]:
    """Make an argparse converter for numbers within a range."""

    def convert(text: str) -> Any:
        try:
            value = number_type(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"'{text}' is not {low:g} to {high:g}")
        return value

    return convert


def add_capture(parser: Parser) -> None:
    """Add the options of frames and cameras."""
    group = parser.add_argument_group("frames and cameras")
    group.add_argument("--video", type=Path, help="a video file")
    group.add_argument("--images", type=Path, help="or a folder of frames, in the order of their names")
    group.add_argument("--fps", type=number_in(0.01, 1000), help="frames to take per second (default: all)")
    group.add_argument(
        "--max_frames",
        type=number_in(MIN_FRAMES, 100_000, int),
        help="most frames to take: every second, third ... one",
    )
    group.add_argument(
        "--start", type=number_in(0, 1e6), default=0.0, help="seconds after the first frame (default: 0)"
    )
    group.add_argument("--end", type=number_in(0, 1e6), help="seconds after the first frame (default: the end)")
    group.add_argument(
        "--masks",
        type=Path,
        help="folder of motion masks, white = moving, one per frame of the video or per frame taken",
    )
    group.add_argument(
        "--camera_model",
        choices=CAMERA_MODELS,
        default="SIMPLE_RADIAL",
        help="COLMAP's camera model, shared by all frames (default: SIMPLE_RADIAL)",
    )
    group.add_argument(
        "--max_size",
        type=number_in(64, 8192, int),
        default=1024,
        help="longer side of the frames at most, pixels (default: 1024)",
    )


def capture_settings(args: argparse.Namespace) -> CaptureSettings:
    """Make the settings from parsed options.

    Raises:
        UsageError: no source of frames, two of them, or options of videos with a folder.
    """
    if (args.video is None) == (args.images is None):
        raise UsageError("give either --video FILE or --images DIR")
    if args.images is not None and (args.fps or args.start or args.end is not None):
        raise UsageError("--fps, --start and --end choose frames of a --video; use --max_frames with --images")
    source = FrameSource(args.video, args.images, args.fps, args.max_frames, args.start, args.end, args.max_size)
    return CaptureSettings(source, args.masks, args.camera_model)


def add_depth(parser: Parser, model_option: bool = True) -> None:
    """Add the options of the disparity.

    Args:
        parser: parser of the script.
        model_option: accept `--model`, too, for `--depth_model`; False where it names the weights of RAFT.
    """
    group = parser.add_argument_group("disparity")
    group.add_argument("--depth", choices=DEPTH_METHODS, default="midas", help="method (default: midas)")
    names = ("--depth_model", "--model") if model_option else ("--depth_model",)
    group.add_argument(
        *names, dest="depth_model", help=f"weights of midas (default: {MIDAS}), or folder or name for transformers"
    )
    default = f"{MIDAS_LONG_SIDE} for the long side, unless --input_w or --input_h is given"
    group.add_argument(
        "--input_w", type=number_in(32, 4096, int), help=f"largest input width of MiDaS, pixels (default: {default})"
    )
    group.add_argument(
        "--input_h", type=number_in(32, 4096, int), help=f"largest input height of MiDaS, pixels (default: {default})"
    )
    group.add_argument(
        "--resize_height", type=number_in(16, 4096, int), default=288, help="training height, pixels (default: 288)"
    )


def depth_settings(args: argparse.Namespace) -> DepthSettings:
    """Make the settings from parsed options."""
    return DepthSettings(args.depth, args.depth_model, (args.input_w, args.input_h), args.resize_height)


def add_flow(parser: Parser) -> None:
    """Add the options of flow and motion masks."""
    group = parser.add_argument_group("flow and motion masks")
    group.add_argument("--flow", choices=FLOW_METHODS, default="raft", help="method (default: raft)")
    group.add_argument("--model", help=f"weights of RAFT (default: {RAFT}; with --small {RAFT_SMALL})")
    group.add_argument("--small", action="store_true", help="use RAFT's small network")
    group.add_argument("--mixed_precision", action="store_true", help="run RAFT in float16 (CUDA only)")
    group.add_argument(
        "--epi_threshold", "--epi_threhold", default="1.0",
        help="epipolar distance above which a pixel moves: pixels at training size (if its longer side has under "
        f"{WORKING_LONG_SIDE} pixels, at that size), or a fraction of the width such as 0.002w (default: 1.0)",
    )  # fmt: skip
    group.add_argument(
        "--input_flow_w", type=number_in(64, 4096, int),
        help=f"width of the images for the flow, pixels (default: {FLOW_LONG_SIDE} for the long side)",
    )  # fmt: skip
    group.add_argument(
        "--semantic",
        default="auto",
        help=f"source of further moving pixels: {', '.join(SEMANTIC_METHODS)}, or a folder of masks (default: auto)",
    )
    default = f"{MASK_RCNN_LONG_SIDE} for the long side, unless --input_semantic_w or --input_semantic_h is given"
    group.add_argument(
        "--input_semantic_w", type=number_in(64, 4096, int),
        help=f"largest input width of Mask R-CNN, pixels (default: {default})",
    )  # fmt: skip
    group.add_argument(
        "--input_semantic_h", type=number_in(64, 4096, int),
        help=f"largest input height of Mask R-CNN, pixels (default: {default})",
    )  # fmt: skip


def flow_settings(args: argparse.Namespace, height: int | None) -> FlowSettings:
    """Make the settings from parsed options.

    Args:
        args: parsed options.
        height: training height, where the scene has frames of several sizes.

    Raises:
        UsageError: options that contradict each other.
    """
    parse_threshold(args.epi_threshold, 1)  # refuse a malformed one before flow is computed
    if args.flow != "raft" and (args.small or args.mixed_precision):
        raise UsageError(f"--small and --mixed_precision are options of RAFT: not with --flow {args.flow}")
    return FlowSettings(
        args.flow, args.model, args.epi_threshold, args.input_flow_w, args.semantic,
        (args.input_semantic_w, args.input_semantic_h), height, args.small, args.mixed_precision,
    )  # fmt: skip


def add_device(parser: Parser) -> None:
    """Add the option of the device."""
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="device of the networks (default: auto)"
    )


def pick_device(name: str) -> torch.device:
    """Pick the device that is named; `auto` takes CUDA where it is available.

    Raises:
        InputError: CUDA is named but not available.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA device; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
