"""Choose the checkpoint that a run goes on from, and the one that is rendered or evaluated."""

import dataclasses
import logging
from pathlib import Path

from nsff.config import Config
from nsff.data.cameras import camera_digest
from nsff.errors import InputError
from nsff.fields import Fields
from nsff.scene_folder import SceneFolder
from nsff.training.checkpoint import Checkpoint, list_checkpoints, load_weights, read_checkpoint, read_newest

log = logging.getLogger("nsff")

MAX_LISTED = 6  # experiments named in a message; the others are counted


def choose_to_resume(config: Config) -> Checkpoint | None:
    """Choose the checkpoint that training goes on from: the newest of the experiment, else `ft_path`, else None.

    Minutes of training count from zero after `ft_path`: the time limit is that of this experiment.

    Raises:
        InputError: the newest was trained as another variant or with other cameras.
    """
    newest = read_newest(config.experiment_dir)
    if newest is None:
        return dataclasses.replace(read_checkpoint(Path(config.ft_path)), seconds=0.0) if config.ft_path else None
    if config.ft_path:
        log.info("ft_path is ignored: the experiment has checkpoints of its own")
    if newest.variant not in (None, config.variant):
        raise InputError(
            f"{newest.path} was trained as variant {newest.variant}, {config.variant} is asked for; "
            "choose another --expname, or give --variant"
        )
    _check_scene(newest, config)
    return newest


def choose_to_render(config: Config) -> Checkpoint:
    """Choose the checkpoint to render or evaluate: `ft_path` if given, else the newest of the experiment.

    Raises:
        InputError: the experiment has none, or it was trained with other cameras.
    """
    checkpoint = read_checkpoint(Path(config.ft_path)) if config.ft_path else read_newest(config.experiment_dir)
    if checkpoint is None:
        raise InputError(
            f"no checkpoint in {config.experiment_dir.absolute()}; {_suggest_experiments(Path(config.basedir))}"
            f"train first: run_nerf.py --config {config.config}"
        )
    _check_scene(checkpoint, config)
    return checkpoint


def restore_fields(fields: Fields, config: Config) -> Checkpoint:
    """Load the weights of the checkpoint that `choose_to_render` chooses into `fields`.

    Raises:
        InputError: see `choose_to_render` and `load_weights`.
    """
    checkpoint = choose_to_render(config)
    load_weights(fields, checkpoint, config)
    return checkpoint


def _check_scene(checkpoint: Checkpoint, config: Config) -> None:
    """Check that a checkpoint was trained with the cameras in use: elsewhere, every ray would miss what was learnt.

    The time of a frame is relative to the length of the sequence. Published checkpoints store none of this and pass,
    so do those of a scene whose `poses_bounds.npy` does not exist, which ends any run later.

    Raises:
        InputError: the number of frames, the scale of the scene or the cameras differ.
    """
    if checkpoint.n_frames not in (None, config.n_frames):
        raise InputError(
            f"{checkpoint.path} was trained on {checkpoint.n_frames} frames, {config.n_frames} are in use: "
            "give the --start_frame and --end_frame that it was trained with"
        )
    if checkpoint.bd_factor not in (None, config.bd_factor):
        raise InputError(
            f"{checkpoint.path} was trained with --bd_factor {checkpoint.bd_factor:g}, the scale of its scene; "
            f"{config.bd_factor:g} is asked for: give the former, or choose another --expname"
        )
    poses_bounds = SceneFolder(Path(config.datadir)).poses_bounds
    if checkpoint.cameras and poses_bounds.is_file() and checkpoint.cameras != camera_digest(config):
        raise InputError(
            f"{checkpoint.path} was trained with other cameras than those in {poses_bounds.absolute()}: put back that "
            "file, give the --datadir and --start_frame that it was trained with, or train under another --expname"
        )


def _suggest_experiments(folder: Path) -> str:
    """Name the experiments of a folder that have checkpoints, as a part of a message; empty if none has."""
    names = sorted(path.name for path in folder.iterdir() if list_checkpoints(path)) if folder.is_dir() else []
    if not names:
        return ""
    listed = ", ".join(names[:MAX_LISTED]) + (f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else "")
    return f"{listed} {'have some' if len(names) > 1 else 'has one'}: give --expname, --end_frame or --ft_path; or "
