"""Compare a trained scene with what other cameras saw: PSNR, SSIM, LPIPS, whole and in the moving part.

python evaluation.py --config configs/config_balloon1-2.txt
python evaluation.py --config configs/config_balloon1_view0.txt --protocol dynamicnerf --heldout DIR

The means are printed under their published names, `mean_psnr` to `mean_lpips dy`; all else is written into files.
"""

import json

from nsff.cli import run_script
from nsff.config_loader import load_config
from nsff.cuda import memory_advice
from nsff.distributed import join_process_group, launch_processes, pick_device
from nsff.evaluation.evaluator import evaluate, require_all_views
from nsff.evaluation.tables import mean_lines
from nsff.report.evaluation_page import write_page


def main(argv: list[str]) -> None:
    config = load_config(argv, "evaluation.py", __doc__)
    if launch_processes(config, __file__, argv):
        return
    with memory_advice(config), join_process_group() as group:
        report = json.loads(evaluate(config, pick_device(config), group, write_page).read_text())
        if group.is_main:
            print(mean_lines(report["mean"]), end="", flush=True)
        require_all_views(report, config)


if __name__ == "__main__":
    run_script(main)
