"""Render videos of a trained scene.

python render.py --config configs/config_kid-running.txt --render_bt --target_idx 10 --render_factor 2
"""

from nsff.config import UsageError, load_config
from nsff.novel_views import render_videos, wants_videos
from nsff.script import pick_device, run_script


def main(argv: list[str]) -> None:
    config = load_config(argv, "render.py", __doc__)
    if not wants_videos(config):
        raise UsageError("nothing to render: give --render_bt, --render_lockcam_slowmo or --render_slowmo_bt")
    render_videos(config, pick_device(config))


if __name__ == "__main__":
    run_script(main)
