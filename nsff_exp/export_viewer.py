"""Export a trained scene as one page, to look around in with any browser: viewer.html in the experiment's folder.

python export_viewer.py --config configs/config_balloon1_view0.txt
python export_viewer.py --config configs/config_video.txt --datadir SCENE/dense --expname NAME --slowmo_factor 4
python export_viewer.py --config ... --planes 24 --times 3:8 --render_factor 2 --gpus all
"""

from nsff.cli import run_script
from nsff.config_loader import load_config


def main(argv: list[str]) -> None:
    """Bake the layers and write the page."""
    config = load_config(argv, "export_viewer.py", __doc__)
    # Heavy imports follow the command line: `--help` and its errors do not wait for them.
    from nsff.cuda import render_memory_advice
    from nsff.distributed import open_session
    from nsff.launcher import launch_processes
    from nsff.viewer.export import export_viewer

    if launch_processes(config, __file__, argv):
        return
    with open_session(config) as (device, group), render_memory_advice(config):
        path = export_viewer(config, device, group)
        if group.is_main:
            print(path.absolute())


if __name__ == "__main__":
    run_script(main)
