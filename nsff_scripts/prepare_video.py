"""From a video file to all files of a scene, stage by stage; run it again and it goes on where it stopped.

    python prepare_video.py --video clip.mp4 --data_path SCENE

Networks are used where their weights are there (download_models.py), else methods that need none.
"""

from pathlib import Path

import _nsff_path  # noqa: F401  (before nsff: makes it importable)
from nsff.cli import Parser, run_script
from nsff.errors import UsageError
from nsff.prep.options import (
    add_capture,
    add_depth,
    add_flow,
    capture_settings,
    depth_settings,
    flow_settings,
    pick_device,
)
from nsff.prep.pipeline import STAGES, prepare, resolve_methods


def main(argv: list[str]) -> None:
    """Run all stages and say where the page is."""
    parser = Parser(__doc__)
    parser.add_argument("--data_path", type=Path, required=True, help="folder of the scene; all is written below")
    parser.add_argument(
        "--views",
        type=Path,
        help="folder of mv_images/ and mv_masks/ for an evaluation: 12 cameras that filmed the video in turn",
    )
    parser.add_argument("--force", choices=STAGES, help="run this stage and those after it again")
    add_capture(parser)
    add_depth(parser, alone=False)
    add_flow(parser, device=False)
    args = parser.parse_args(argv)
    depths, flow = resolve_methods(depth_settings(args), flow_settings(args, args.resize_height))
    captured = capture_settings(args)
    if args.views is not None and (captured.source.fps or captured.source.max_frames or captured.source.start):
        raise UsageError("--views go by the number of the frame: not with --fps, --max_frames or --start")
    device = pick_device(args.device)
    page, lines = prepare(args.data_path, captured, depths, flow, args.views, args.force, device)
    print("\n".join(lines))
    print(f"prepared: {args.data_path / 'dense'}; look at {page}")


if __name__ == "__main__":
    run_script(main)
