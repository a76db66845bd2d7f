"""Make a small synthetic moving scene with all the files that training and evaluation read.

python make_demo_scene.py --data_path SCENE/dense
python make_demo_scene.py --data_path TRUTH --video clip.mp4     # for prepare_video.py
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import _nsff_path  # noqa: F401  (before nsff: makes it importable)
from nsff.cli import Parser, run_script
from nsff.demo.scene import PATHS, DemoSettings, write_demo_scene, write_video
from nsff.scene_folder import N_CAMERAS, SceneFolder

SIDES = range(16, 1025)  # pixels; making a frame of 1024x1024 takes over 1 GB of memory
FRAMES = range(3, 1000)


def _frame_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", text)
    width, height = map(int, match.groups()) if match else (0, 0)
    if width not in SIDES or height not in SIDES or height > width:  # the walls do not fill an upright frame
        limits = f"sides of {SIDES[0]} to {SIDES[-1]} pixels, not taller than wide"
        raise argparse.ArgumentTypeError(f"'{text}' is not WIDTHxHEIGHT ({limits})")
    return width, height


def _integer_in(allowed: range) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) not in allowed:
            raise argparse.ArgumentTypeError(f"'{text}' is not an integer of {allowed[0]} to {allowed[-1]}")
        return int(text)

    return convert


def main(argv: list[str]) -> None:
    """Write the scene that the options describe."""
    parser = Parser(__doc__)
    parser.add_argument("--data_path", type=Path, required=True, help="the `dense` folder to write")
    parser.add_argument(
        "--size", type=_frame_size, default=(128, 72), help="training size WIDTHxHEIGHT (default: 128x72)"
    )
    parser.add_argument("--frames", type=_integer_in(FRAMES), default=24, help="frames of the video (default: 24)")
    parser.add_argument("--seed", type=_integer_in(range(2**32)), default=0, help="seed of the textures (default: 0)")
    parser.add_argument(
        "--path",
        choices=PATHS,
        default=PATHS[0],
        help="a row of 12 cameras in turn, one hand-held camera, or one that goes 120 degrees around what moves and "
        "back in 24 frames (default: cameras)",
    )
    parser.add_argument("--video", type=Path, help="also write the frames as this mp4 file, twice the training size")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists and is not empty")
    args = parser.parse_args(argv)
    settings = DemoSettings(*args.size, n_frames=args.frames, seed=args.seed, path=args.path)
    write_demo_scene(args.data_path, settings, args.overwrite)
    if args.video is not None:
        write_video(args.video, SceneFolder(args.data_path).list_images())
    views = f" and {N_CAMERAS} held-out cameras" if args.path != "smooth" else "; no held-out cameras (path smooth)"
    print(f"wrote {args.data_path}: {args.frames} frames {args.size[0]}x{args.size[1]}{views}")


if __name__ == "__main__":
    run_script(main)
