"""Train a scene, or render it (--render_bt, --render_lockcam_slowmo, --render_slowmo_bt); goes on where it stopped.

python run_nerf.py --config configs/config_kid-running.txt
python run_nerf.py --config configs/config_kid-running.txt --render_bt --target_idx 10
python run_nerf.py --config configs/config_kid-running.txt --gpus all
"""

from nsff.config import load_config
from nsff.launcher import launch_processes
from nsff.novel_views import render_videos
from nsff.scene import load_scene
from nsff.script import memory_advice, pick_device, run_script
from nsff.trainer import Trainer, train
from nsff.views import wants_videos
from nsff.workers import join_workers


def main(argv: list[str]) -> None:
    config = load_config(argv, "run_nerf.py", __doc__)
    if launch_processes(config, __file__, argv):
        return
    device = pick_device(config)
    with memory_advice(config), join_workers() as workers:
        if wants_videos(config):
            render_videos(config, device, workers)
        else:
            train(Trainer(config, load_scene(config, device), device, workers))


if __name__ == "__main__":
    run_script(main)
