"""Co-visibility masks of the held-out views for evaluation.py --protocol dycheck: covisible/.

python make_covisibility.py --data_path SCENE/dense/
"""

from pathlib import Path

import _nsff_path  # noqa: F401  (before nsff: makes it importable)
from nsff.cli import Parser, log, run_script
from nsff.prep.covisibility import make_covisibility
from nsff.prep.flow import DisFlow
from nsff.scene_folder import SceneFolder


def main(argv: list[str]) -> None:
    """Make missing masks."""
    parser = Parser(__doc__)
    parser.add_argument("--data_path", type=Path, required=True, help="the `dense` folder")
    parser.add_argument("--resize_height", type=int, help="height H of images_<W>x<H>, where several exist")
    args = parser.parse_args(argv)
    log.info("%s", make_covisibility(SceneFolder(args.data_path), DisFlow(), args.resize_height))


if __name__ == "__main__":
    run_script(main)
