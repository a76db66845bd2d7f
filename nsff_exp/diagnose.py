"""Report the health of a trained scene, measured on its own video, and what to change.

python diagnose.py --config configs/config_video.txt --datadir SCENE/dense --expname NAME
"""

from nsff.cli import run_script
from nsff.config_loader import load_config


def main(argv: list[str]) -> None:
    """Measure, print the verdicts, and write the page."""
    config = load_config(argv, "diagnose.py", __doc__)
    # Heavy imports follow the command line: `--help` and its errors do not wait for them.
    from nsff.cuda import render_memory_advice
    from nsff.distributed import pick_device
    from nsff.evaluation.diagnostics import diagnose
    from nsff.report.evaluation_page import write_health_page

    with render_memory_advice(config):
        diagnose(config, pick_device(config), write_health_page)


if __name__ == "__main__":
    run_script(main)
