"""Render videos of a trained scene: the published modes, other paths and times, other layers.

python render.py --config configs/config_kid-running.txt --render_bt --target_idx 10 --render_factor 2
python render.py --config configs/config_kid-running.txt --path lemniscate --time slowmo --times 3:8 --layers rgb,depth
python render.py --config configs/config_kid-running.txt --render_lockcam_slowmo --gpus all
"""

from nsff.cli import run_script
from nsff.config_loader import load_config
from nsff.errors import UsageError


def main(argv: list[str]) -> None:
    """Render the videos that the options ask for."""
    config = load_config(argv, "render.py", __doc__)
    # Heavy imports follow the command line: `--help` and its errors do not wait for them.
    from nsff.cuda import render_memory_advice
    from nsff.distributed import open_session
    from nsff.launcher import launch_processes
    from nsff.novel_views.render_plan import wants_videos
    from nsff.novel_views.render_videos import render_videos

    if not wants_videos(config):
        raise UsageError(
            "nothing to render: give --render_bt, --render_lockcam_slowmo, --render_slowmo_bt, --path or --camera_path"
        )
    if launch_processes(config, __file__, argv):
        return
    with open_session(config) as (device, group), render_memory_advice(config):
        render_videos(config, device, group)


if __name__ == "__main__":
    run_script(main)
