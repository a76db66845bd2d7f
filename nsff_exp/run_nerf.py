"""Train a scene, or render it (--render_bt, --render_lockcam_slowmo, --render_slowmo_bt); resumes where it stopped.

python run_nerf.py --config configs/config_kid-running.txt
python run_nerf.py --config configs/config_kid-running.txt --render_bt --target_idx 10
python run_nerf.py --config configs/config_kid-running.txt --gpus all
"""

from functools import partial

from nsff.cli import run_script
from nsff.config_loader import load_config


def main(argv: list[str]) -> None:
    """Train, or render the videos that the options ask for."""
    config = load_config(argv, "run_nerf.py", __doc__)
    # Heavy imports follow the command line: `--help` and its errors do not wait for them.
    from nsff.cuda import render_memory_advice, scene_memory_advice
    from nsff.data.scene import load_scene
    from nsff.distributed import open_session
    from nsff.evaluation.validation import Validation
    from nsff.launcher import launch_processes
    from nsff.novel_views.render_plan import wants_videos
    from nsff.novel_views.render_videos import render_videos
    from nsff.training.loop import train
    from nsff.training.trainer import Trainer
    from nsff.viewer.export import refresh_viewer

    if launch_processes(config, __file__, argv):
        return
    with open_session(config) as (device, group):
        if wants_videos(config):
            with render_memory_advice(config):
                render_videos(config, device, group)
            return
        with scene_memory_advice():
            trainer = Trainer(config, load_scene(config, device), device, group)
        validate = Validation.of(config).score if config.i_val and group.is_main else None
        show = partial(refresh_viewer, config, trainer.scene.cameras) if config.viewer_every and group.is_main else None
        train(trainer, validate, show)


if __name__ == "__main__":
    run_script(main)
