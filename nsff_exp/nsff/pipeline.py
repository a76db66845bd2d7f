"""The stages from a video file to a page of results, as commands of the scripts."""

import argparse
import hashlib
import json
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
from nsff.io import claim_folder, read_or_raise, read_text, writing_to

HERE = Path(__file__).resolve().parents[1]
SCRIPTS = HERE.parent / "nsff_scripts"
EXPNAME = "video"  # of the experiment in OUT/logs
DEFAULT_FRAMES = 48  # longer videos need more minutes of training


def run_stages(args: argparse.Namespace) -> None:
    """Run all stages one after the other.

    Args:
        args: options of `run_all.py`.

    Raises:
        InputError: a stage failed; its own message above names the cause.
    """
    message_flags = [f"--{name}" for name in ("quiet", "verbose") if getattr(args, name)]
    for folder, command in stages(args):
        if not args.quiet:
            print(f"\n$ cd {shlex.quote(str(folder))} && python {shlex.join(command)}", flush=True)
        if status := run([*command, *message_flags], folder):
            text = f"{command[0]} ended with status {status}; once the cause is fixed, run the same command again"
            raise UsageError(text) if status == 2 else InputError(text)


def stages(args: argparse.Namespace) -> Iterator[tuple[Path, list[str]]]:
    """Yield (folder, command) per stage. A generator, because later commands depend on the files of earlier ones."""
    scene, logs = args.out.resolve() / "scene", args.out.resolve() / "logs"
    prepare = ["prepare_video.py", "--video", str(args.video.resolve()), "--data_path", str(scene)]
    prepare += ["--resize_height", str(args.height)]
    if args.views:
        prepare += ["--views", str(args.views.resolve())]
    else:
        prepare += ["--max_frames", str(args.max_frames or DEFAULT_FRAMES)]
    yield SCRIPTS, prepare
    with writing_to(logs):
        claim_folder(logs, "made_of.json", training_inputs(args, scene / "dense"))
    n_frames = len(np.load(scene / "dense" / "poses_bounds.npy"))
    target = n_frames // 2
    experiment = ["--config", args.config, "--datadir", str(scene / "dense")]
    experiment += ["--basedir", str(logs), "--expname", EXPNAME]
    contracted = fitting_space(scene / "dense") == "contracted"
    experiment += ["--no_ndc"] if contracted else []
    experiment += ["--end_frame", str(n_frames), "--final_height", str(args.height), "--target_idx", str(target)]
    yield HERE, ["run_nerf.py", *experiment, "--max_minutes", f"{args.minutes:g}"]
    factor = args.render_factor or (1 if torch.cuda.is_available() else 2)
    videos = ["--render_bt", "--render_lockcam_slowmo", "--render_slowmo_bt", "--slowmo_factor", "6"]
    videos += ["--times", f"{max(0, target - 2)}:{min(n_frames - 1, target + 2)}", "--render_factor", str(factor)]
    videos += ["--path", "orbit"] if contracted else []
    videos += ["--path_radius", f"{min(Config.path_radius, args.height / 6):g}"]  # as published at height 288
    yield HERE, ["render.py", *experiment, *videos]
    if args.views:
        options = ["--protocol", "nsff-fixed", "--every", str(args.every), "--save_renders", "--allow_missing"]
        yield HERE, ["evaluation.py", *experiment, *options]
    else:
        yield HERE, ["diagnose.py", *experiment]
    if not contracted:  # the viewer needs NDC
        yield HERE, ["export_viewer.py", *experiment, "--render_factor", str(factor)]
    yield HERE, ["make_page.py", *experiment]


def fitting_space(dense: Path) -> str:
    """The space of the fields that fits the cameras, as the preparation found: `ndc` or `contracted`."""
    path = dense / "scene.json"
    if not path.is_file():  # cameras of other programs
        return "ndc"
    remedy = f"run save_poses_nerf.py --data_path {dense}"
    return str(read_or_raise(path, lambda: json.loads(read_text(path)).get("cameras", {}).get("space", "ndc"), remedy))


def training_inputs(args: argparse.Namespace, dense: Path) -> dict[str, object]:
    """Hash the scene, height and config of a training: if they change, old results are moved aside, not resumed."""
    priors = [path for name in ("disp", "flow_i1", "motion_masks") for path in sorted((dense / name).iterdir())]
    facts = "".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}\n" for path in priors)
    parts = facts.encode(), (dense / "poses_bounds.npy").read_bytes(), Path(args.config).read_bytes()
    space = {"space": "contracted"} if fitting_space(dense) == "contracted" else {}
    return {"height": args.height, "scene and config": [hashlib.sha256(part).hexdigest() for part in parts]} | space


def run(command: list[str], folder: Path) -> int:
    """Run a script and return its exit status.

    Ctrl-C and SIGTERM are forwarded to the script, which saves and ends; then KeyboardInterrupt is raised here.
    """
    process = subprocess.Popen([sys.executable, *command], cwd=folder, start_new_session=True)

    def forward(number: int, _: FrameType | None) -> None:
        process.send_signal(number)
        received.append(number)

    received: list[int] = []
    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt
    return status
