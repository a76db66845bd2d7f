"""Frames and cameras of a video, or of a folder of images: SCENE/dense/{images,sparse}.

    python run_colmap.py --video clip.mp4 --data_path SCENE
    python run_colmap.py --images DIR --data_path SCENE

The camera must move sideways. Moving things are detected and kept out of the reconstruction.
"""

from pathlib import Path

import _nsff_path  # noqa: F401  (before nsff: makes it importable)
from nsff.cli import Parser, run_script
from nsff.prep.capture import make_cameras
from nsff.prep.options import add_capture, add_device, capture_settings, pick_device


def main(argv: list[str]) -> None:
    """Make frames and cameras."""
    parser = Parser(__doc__)
    parser.add_argument("--data_path", type=Path, required=True, help="folder of the scene; SCENE/dense is written")
    add_capture(parser)
    add_device(parser)
    args = parser.parse_args(argv)
    make_cameras(args.data_path, capture_settings(args), pick_device(args.device))


if __name__ == "__main__":
    run_script(main)
