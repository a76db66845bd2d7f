"""Health report of a trained scene, from its own video: what is good, what is not, and what to change.

python diagnose.py --config configs/config_video.txt --datadir SCENE/dense --expname NAME
"""

from nsff.config import load_config
from nsff.diagnosis import diagnose
from nsff.script import memory_advice, pick_device, run_script


def main(argv: list[str]) -> None:
    config = load_config(argv, "diagnose.py", __doc__)
    with memory_advice(config):
        diagnose(config, pick_device(config))


if __name__ == "__main__":
    run_script(main)
