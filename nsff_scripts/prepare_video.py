"""From a video file to all files of a scene, stage by stage; the same command resumes where it stopped.

    python prepare_video.py --video clip.mp4 --data_path SCENE

Networks are used where their weights are installed (download_models.py), else methods that need none.
"""

from pathlib import Path

import _nsff_path  # noqa: F401  (before nsff: makes it importable)
from nsff.cli import Parser, run_script
from nsff.errors import UsageError
from nsff.prep.options import (
    add_capture,
    add_depth,
    add_device,
    add_flow,
    capture_settings,
    depth_settings,
    flow_settings,
    pick_device,
)
from nsff.prep.pipeline import STAGES, PrepareSettings, prepare, resolve_methods


def main(argv: list[str]) -> None:
    """Run all stages and print their summary and the path of the page."""
    parser = Parser(__doc__)
    parser.add_argument("--data_path", type=Path, required=True, help="folder of the scene, which receives all files")
    parser.add_argument(
        "--views",
        type=Path,
        help="folder of mv_images/ and mv_masks/ for an evaluation: 12 cameras that filmed the video in turn",
    )
    parser.add_argument("--force", choices=STAGES, help="run this stage and those after it again")
    add_capture(parser)
    add_depth(parser, model_option=False)
    add_flow(parser)
    add_device(parser)
    args = parser.parse_args(argv)
    depth, flow = resolve_methods(depth_settings(args), flow_settings(args, args.resize_height))
    capture = capture_settings(args)
    if args.views is not None and (capture.source.fps or capture.source.max_frames or capture.source.start):
        raise UsageError("--views are matched by frame number: not with --fps, --max_frames or --start")
    settings = PrepareSettings(capture, depth, flow, args.views)
    page, lines = prepare(args.data_path, settings, pick_device(args.device), args.force)
    print("\n".join(lines))
    print(f"prepared: {args.data_path / 'dense'}; check the pictures in {page}")


if __name__ == "__main__":
    run_script(main)
