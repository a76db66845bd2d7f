"""Compare a trained scene with what other cameras saw: PSNR, SSIM, LPIPS, whole and in the moving part.

python evaluation.py --config configs/config_balloon1-2.txt
python evaluation.py --config configs/config_balloon1_view0.txt --protocol view0 --heldout DIR
"""

from nsff.config import load_config
from nsff.evaluator import evaluate
from nsff.script import memory_advice, pick_device, run_script
from nsff.workers import join_workers


def main(argv: list[str]) -> None:
    config = load_config(argv, "evaluation.py", __doc__)
    with memory_advice(config), join_workers() as workers:
        evaluate(config, pick_device(config), workers)


if __name__ == "__main__":
    run_script(main)
