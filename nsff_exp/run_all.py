"""Run all stages, from a video file to a page with videos and figures; run again, it resumes where it stopped.

    python run_all.py --video clip.mp4

Each stage is a script of its own; its command is printed, ready to be used alone.
"""

import argparse
from pathlib import Path

from nsff.cli import Parser, run_script
from nsff.config_loader import find_config
from nsff.errors import UsageError
from nsff.pipeline import DEFAULT_FRAMES, run_stages


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse and check the options."""
    parser = Parser(__doc__, prog="run_all.py")
    given = parser.add_argument_group("input and output")
    given.add_argument("--video", type=Path, required=True, help="a video file")
    given.add_argument("--out", type=Path, help="output folder (default: out/<name of the video>)")
    given.add_argument("--views", type=Path, help="held-out views, as for prepare_video.py: they are evaluated too")
    sizes = parser.add_argument_group("size and time")
    sizes.add_argument(
        "--max_frames", type=int, help=f"most frames taken, evenly spaced (default: {DEFAULT_FRAMES}; not with --views)"
    )
    sizes.add_argument("--height", type=int, default=288, help="training height, pixels (default: 288)")
    sizes.add_argument("--minutes", type=float, default=20.0, help="minutes of training (default: 20)")
    sizes.add_argument(
        "--render_factor", type=int, help="divide the size of the videos by this (default: 1 on a GPU, else 2)"
    )
    sizes.add_argument(
        "--config",
        default="configs/config_video.txt",
        help="config of the training (default: configs/config_video.txt)",
    )
    sizes.add_argument("--every", type=int, default=1, help="evaluate every n-th held-out view (default: 1)")
    args = parser.parse_args(argv)
    limits = {"max_frames": (10, 100_000), "height": (16, 4096), "minutes": (0.01, 1e5), "render_factor": (1, 64)}
    for name, (least, most) in (limits | {"every": (1, 100_000)}).items():
        if (value := getattr(args, name)) is not None and not least <= value <= most:
            raise UsageError(f"--{name} {value:g} is not {least:g} to {most:g}")
    if args.views and args.max_frames:
        raise UsageError("--views are matched to frames by number: not with --max_frames")
    args.config = str(find_config(args.config))
    args.out = args.out or Path("out") / args.video.stem
    return args


def main(argv: list[str]) -> None:
    run_stages(parse(argv))


if __name__ == "__main__":
    run_script(main)
