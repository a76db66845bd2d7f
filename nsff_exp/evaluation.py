"""Evaluate a trained scene on held-out views: PSNR, SSIM and LPIPS of the whole image and of the moving region.

python evaluation.py --config configs/config_balloon1-2.txt
python evaluation.py --config configs/config_balloon1_view0.txt --protocol dynamicnerf --heldout DIR

The means are printed under their published names, `mean_psnr` to `mean_lpips dy`; everything else goes to files.
"""

from nsff.cli import run_script
from nsff.config_loader import load_config


def main(argv: list[str]) -> None:
    """Evaluate, print the means, and refuse a report that lacks views."""
    config = load_config(argv, "evaluation.py", __doc__)
    # Heavy imports follow the command line: `--help` and its errors do not wait for them.
    from nsff.distributed import open_session
    from nsff.evaluation.evaluator import evaluate, require_all_views
    from nsff.evaluation.scores import read_report
    from nsff.evaluation.tables import mean_lines
    from nsff.launcher import launch_processes
    from nsff.report.evaluation_page import write_page

    if launch_processes(config, __file__, argv):
        return
    with open_session(config) as (device, group):
        report = read_report(evaluate(config, device, group, write_page))
        if group.is_main:
            print(mean_lines(report.mean), end="", flush=True)
        require_all_views(report, config)


if __name__ == "__main__":
    run_script(main)
