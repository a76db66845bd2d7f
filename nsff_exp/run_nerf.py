"""Train a scene, or render it (--render_bt, --render_lockcam_slowmo, --render_slowmo_bt); resumes where it stopped.

python run_nerf.py --config configs/config_kid-running.txt
python run_nerf.py --config configs/config_kid-running.txt --render_bt --target_idx 10
python run_nerf.py --config configs/config_kid-running.txt --gpus all
"""

from nsff.cli import run_script
from nsff.config_loader import load_config


def main(argv: list[str]) -> None:
    """Train, or render the videos that the options ask for."""
    config = load_config(argv, "run_nerf.py", __doc__)
    # Heavy imports follow the command line: `--help` and its errors do not wait for them.
    from nsff.cuda import render_memory_advice
    from nsff.data.scene import load_scene
    from nsff.distributed import join_process_group, launch_processes, pick_device
    from nsff.evaluation.validation import Validation
    from nsff.novel_views.render_plan import wants_videos
    from nsff.novel_views.render_videos import render_videos
    from nsff.training.loop import train
    from nsff.training.trainer import Trainer

    if launch_processes(config, __file__, argv):
        return
    device = pick_device(config)
    with render_memory_advice(config), join_process_group() as group:
        if wants_videos(config):
            render_videos(config, device, group)
        else:
            validate = Validation.of(config).score if config.i_val and group.is_main else None
            train(Trainer(config, load_scene(config, device), device, group), validate)


if __name__ == "__main__":
    run_script(main)
