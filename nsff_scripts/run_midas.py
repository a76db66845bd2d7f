"""Frames at training size and their disparity: images_<W>x<H>/, disp/, sheets/ (multiview: moving/).

python run_midas.py --data_path SCENE/dense/ --input_w 640 --input_h 360 --resize_height 288
python run_midas.py --data_path SCENE/dense/ --depth multiview          # no weights: from neighbours and poses
"""

from pathlib import Path

import _nsff_path  # noqa: F401  (before nsff: makes it importable)
from nsff.cli import Parser, run_script
from nsff.prep.depth_stage import make_disparity
from nsff.prep.options import add_depth, add_device, depth_settings, pick_device
from nsff.scene_folder import SceneFolder


def main(argv: list[str]) -> None:
    """Make frames at training size and their disparity."""
    parser = Parser(__doc__)
    parser.add_argument("--data_path", type=Path, required=True, help="the `dense` folder")
    add_depth(parser)
    add_device(parser)
    args = parser.parse_args(argv)
    make_disparity(SceneFolder(args.data_path), depth_settings(args), pick_device(args.device))


if __name__ == "__main__":
    run_script(main)
