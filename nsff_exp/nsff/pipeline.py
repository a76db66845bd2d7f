"""The stages from a video file to a page, as commands of the scripts."""

import argparse
import hashlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import torch

from nsff.config import Config
from nsff.errors import InputError, UsageError
from nsff.io import claim_folder, writing_to

HERE = Path(__file__).resolve().parents[1]
SCRIPTS = HERE.parent / "nsff_scripts"
EXPNAME = "video"
MOST_FRAMES = 48


def run_stages(args: argparse.Namespace) -> None:
    """Run them one after the other, with the options of `run_all.py`.

    Raises:
        InputError: a stage failed; it has said why.
    """
    told = [f"--{name}" for name in ("quiet", "verbose") if getattr(args, name)]
    for folder, command in stages(args):
        if not args.quiet:
            print(f"\n$ cd {shlex.quote(str(folder))} && python {shlex.join(command)}", flush=True)
        if status := run([*command, *told], folder):
            text = f"{command[0]} ended with status {status}; when that is mended, run the same command again"
            raise UsageError(text) if status == 2 else InputError(text)


def stages(args: argparse.Namespace) -> Iterator[tuple[Path, list[str]]]:
    """(folder, command) of each stage; what follows from an earlier one is looked up when it is due."""
    scene, logs = args.out.resolve() / "scene", args.out.resolve() / "logs"
    prepare = ["prepare_video.py", "--video", str(args.video.resolve()), "--data_path", str(scene)]
    prepare += ["--resize_height", str(args.height)]
    if args.views:
        prepare += ["--views", str(args.views.resolve())]
    else:
        prepare += ["--max_frames", str(args.max_frames or MOST_FRAMES)]
    yield SCRIPTS, prepare
    with writing_to(logs):
        claim_folder(logs, "made_of.json", made_of(args, scene / "dense"))
    n_frames = len(np.load(scene / "dense" / "poses_bounds.npy"))
    target = n_frames // 2
    about = ["--config", args.config, "--datadir", str(scene / "dense"), "--basedir", str(logs), "--expname", EXPNAME]
    about += ["--end_frame", str(n_frames), "--final_height", str(args.height), "--target_idx", str(target)]
    yield HERE, ["run_nerf.py", *about, "--max_minutes", f"{args.minutes:g}"]
    factor = args.render_factor or (1 if torch.cuda.is_available() else 2)
    clips = ["--render_bt", "--render_lockcam_slowmo", "--render_slowmo_bt", "--slowmo_factor", "6"]
    clips += ["--times", f"{max(0, target - 2)}:{min(n_frames - 1, target + 2)}", "--render_factor", str(factor)]
    clips += ["--path_radius", f"{min(Config.path_radius, args.height / 6):g}"]  # as published at height 288
    yield HERE, ["render.py", *about, *clips]
    if args.views:
        options = ["--protocol", "nsff-fixed", "--every", str(args.every), "--save_renders", "--allow_missing"]
        yield HERE, ["evaluation.py", *about, *options]
    else:
        yield HERE, ["diagnose.py", *about]
    yield HERE, ["make_page.py", *about]


def made_of(args: argparse.Namespace, dense: Path) -> dict[str, object]:
    """What a training follows from: with another scene or config an older one is kept aside, not gone on with."""
    priors = [path for name in ("disp", "flow_i1", "motion_masks") for path in sorted((dense / name).iterdir())]
    facts = "".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}\n" for path in priors)
    parts = facts.encode(), (dense / "poses_bounds.npy").read_bytes(), Path(args.config).read_bytes()
    return {"height": args.height, "scene and config": [hashlib.sha256(part).hexdigest() for part in parts]}


def run(command: list[str], folder: Path) -> int:
    """Run a script to its end; returns its exit status.

    Ctrl-C and SIGTERM are passed on, once, and the script has time to save; then they end this one as well.
    """
    process = subprocess.Popen([sys.executable, *command], cwd=folder, start_new_session=True)

    def pass_on(number: int, _: FrameType | None) -> None:
        process.send_signal(number)
        heard.append(number)

    heard: list[int] = []
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if heard:
        raise KeyboardInterrupt
    return status
