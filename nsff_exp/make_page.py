"""Put everything made of a video on one page: frames, masks, depth, videos, curves, figures.

python make_page.py --config configs/config_video.txt --datadir SCENE/dense --expname NAME
"""

from nsff.cli import run_script
from nsff.config_loader import load_config


def main(argv: list[str]) -> None:
    config = load_config(argv, "make_page.py", __doc__)
    # Heavy imports follow the command line: `--help` and its errors do not wait for them.
    from nsff.report.experiment_page import write_summary

    print(write_summary(config).absolute())


if __name__ == "__main__":
    run_script(main)
