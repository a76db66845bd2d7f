"""Compare a trained scene with what other cameras saw: PSNR, SSIM, LPIPS, whole and in the moving part.

python evaluation.py --config configs/config_balloon1-2.txt
python evaluation.py --config configs/config_balloon1_view0.txt --protocol dynamicnerf --heldout DIR

The means are printed under their published names, `mean_psnr` to `mean_lpips dy`; all else is written into files.
"""

import json

from nsff.config import load_config
from nsff.evaluator import evaluate, require_all_views
from nsff.launcher import launch_processes
from nsff.report import mean_lines
from nsff.script import memory_advice, pick_device, run_script
from nsff.workers import join_workers


def main(argv: list[str]) -> None:
    config = load_config(argv, "evaluation.py", __doc__)
    if launch_processes(config, __file__, argv):
        return
    with memory_advice(config), join_workers() as workers:
        report = json.loads(evaluate(config, pick_device(config), workers).read_text())
        if workers.first:
            print(mean_lines(report["mean"]), end="", flush=True)
        require_all_views(report, config)


if __name__ == "__main__":
    run_script(main)
