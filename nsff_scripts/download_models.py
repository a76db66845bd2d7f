"""Get the weights of RAFT, MiDaS, Mask R-CNN and LPIPS into models/.

python download_models.py
python download_models.py --only raft,midas
"""

from pathlib import Path

import _nsff_path  # noqa: F401  (before nsff: makes it importable)
from nsff.cli import Parser, run_script
from nsff.prep.downloads import DOWNLOADS, choose, download, folder_of
from nsff.prep.weights import MODELS


def main(argv: list[str]) -> None:
    """Fetch what is missing, or list it."""
    parser = Parser(__doc__)
    parser.add_argument("--list", action="store_true", help="say what there is, and fetch nothing")
    parser.add_argument("--only", help="names with commas between them")
    parser.add_argument("--folder", type=Path, default=MODELS, help="where to (default: models/ beside this script)")
    args = parser.parse_args(argv)
    if args.list:
        for item in DOWNLOADS:
            there = "there" if folder_of(item, args.folder) else "-"
            print(f"{item.name:10} {item.mebibytes:6.0f} MiB  {there:6} {item.file:38} {item.what}")
        return
    for item in choose(args.only):
        download(item, folder_of(item, args.folder) or args.folder)


if __name__ == "__main__":
    run_script(main)
