"""Compare a trained scene with what other cameras saw: PSNR, SSIM, LPIPS, whole and in the moving part.

python evaluation.py --config configs/config_balloon1-2.txt
python evaluation.py --config configs/config_balloon1_view0.txt --protocol view0 --heldout DIR
"""

from nsff.config import load_config
from nsff.evaluator import evaluate
from nsff.script import pick_device, run_script


def main(argv: list[str]) -> None:
    config = load_config(argv, "evaluation.py", __doc__)
    evaluate(config, pick_device(config))


if __name__ == "__main__":
    run_script(main)
