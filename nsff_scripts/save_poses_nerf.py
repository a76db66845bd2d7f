"""Cameras of a COLMAP model, or of nerfstudio's transforms.json, as poses_bounds.npy and scene.json.

python save_poses_nerf.py --data_path SCENE/dense/
"""

from pathlib import Path

import _nsff_path  # noqa: F401  (before nsff: makes it importable)
from nsff.cli import Parser, log, run_script
from nsff.prep.poses_bounds import save_poses
from nsff.scene_folder import SceneFolder


def main(argv: list[str]) -> None:
    """Write poses_bounds.npy and scene.json."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--data_path", type=Path, required=True, help="the `dense` folder: images/ and sparse/, or transforms.json"
    )
    folder = SceneFolder(parser.parse_args(argv).data_path)
    model = save_poses(folder)
    log.info("wrote %s: %d frames, %d points", folder.poses_bounds, len(model.names), len(model.points))


if __name__ == "__main__":
    run_script(main)
