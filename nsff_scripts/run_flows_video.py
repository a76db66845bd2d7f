"""Optical flow, its consistency, and motion masks: flow_i1/, motion_masks/, sheets/flow_and_masks.jpg.

    python run_flows_video.py --model models/raft-things.pth --data_path SCENE/dense/ --epi_threhold 1.0 \\
        --input_flow_w 768 --input_semantic_w 1024 --input_semantic_h 576
    python run_flows_video.py --data_path SCENE/dense/ --flow dis           # no weights
"""

from pathlib import Path

import _nsff_path  # noqa: F401  (before nsff: makes it importable)
from nsff.cli import Parser, run_script
from nsff.prep.flow_stage import make_flows
from nsff.prep.options import add_device, add_flow, flow_settings, pick_device
from nsff.scene_folder import SceneFolder


def main(argv: list[str]) -> None:
    """Make flow and motion masks."""
    parser = Parser(__doc__)
    parser.add_argument("--data_path", type=Path, required=True, help="the `dense` folder")
    add_flow(parser)
    add_device(parser)
    parser.add_argument("--resize_height", type=int, help="height H of images_<W>x<H>, where several exist")
    args = parser.parse_args(argv)
    make_flows(SceneFolder(args.data_path), flow_settings(args, args.resize_height), pick_device(args.device))


if __name__ == "__main__":
    run_script(main)
