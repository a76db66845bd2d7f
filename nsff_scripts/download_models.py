"""Download the weights of RAFT, MiDaS, Mask R-CNN and LPIPS into models/.

python download_models.py
python download_models.py --only raft,midas
"""

from pathlib import Path

import _nsff_path  # noqa: F401  (before nsff: makes it importable)
from nsff.cli import Parser, run_script
from nsff.prep.downloads import DOWNLOADS, download, installed_folder, select_downloads
from nsff.prep.weights import MODELS


def main(argv: list[str]) -> None:
    """Download missing files, or list all."""
    parser = Parser(__doc__)
    parser.add_argument("--list", action="store_true", help="list the files and whether they exist; download nothing")
    parser.add_argument("--only", help="comma-separated names from --list (default: all but raft_small and midas21)")
    parser.add_argument("--folder", type=Path, default=MODELS, help="target (default: models/ beside this script)")
    args = parser.parse_args(argv)
    if args.list:
        for item in DOWNLOADS:
            state = "exists" if installed_folder(item, args.folder) else "-"
            print(f"{item.name:10} {item.mebibytes:6.0f} MiB  {state:6} {item.file:38} {item.purpose}")
        return
    for item in select_downloads(args.only):
        download(item, installed_folder(item, args.folder) or args.folder)


if __name__ == "__main__":
    run_script(main)
