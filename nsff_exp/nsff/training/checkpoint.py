"""Checkpoints: the published keys and parameter names, written atomically, read without executing anything."""

import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nsff.config import Config
from nsff.errors import InputError
from nsff.fields import Fields

log = logging.getLogger("nsff")

MOST_NAMED = 6  # experiments in a message
PREFIX = "module."  # the published networks were wrapped for several GPUs


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The content of a file. `optimizer` and `rng` are None where the file has none."""

    path: Path
    step: int
    static: dict[str, torch.Tensor]
    dynamic: dict[str, torch.Tensor]
    optimizer: dict[str, Any] | None
    rng: dict[str, Any] | None
    seconds: float  # of training so far
    described: dict[str, Any] | None
    variant: str | None  # that it was trained as
    n_frames: int | None  # of the sequence that it was trained on

    def fingerprint(self) -> str:
        """The same for the same weights, whatever their file is called and when it was copied."""
        return digest([self.static, self.dynamic])[:16]

    def architecture(self) -> dict[str, Any]:
        """Sizes of the fields: as the file describes them, else (published ones) from the shapes of the weights."""
        if self.described is not None:
            return self.described
        width, size = self.dynamic["pts_linears.0.weight"].shape
        depth = sum(name.startswith("pts_linears.") and name.endswith("weight") for name in self.dynamic)
        view_size = self.dynamic["views_linears.0.weight"].shape[1] - width
        frequencies = {"multires": (size // 4 - 1) // 2, "multires_views": (view_size // 3 - 1) // 2}
        return {"field": "mlp", "netdepth": depth, "netwidth": width} | frequencies


class BrokenCheckpoint(InputError):
    """The file cannot be read to its end or lacks a part."""


def digest(value: Any) -> str:
    """SHA-256 of tensors and plain values in dicts and lists, in their order."""
    found = hashlib.sha256()
    for part in _parts(value):
        found.update(part)
    return found.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """What `digest` reads of a value, and of all that is in it."""
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().numpy().tobytes()
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield f"{name!r}:".encode()
            yield from _parts(inner)
    elif isinstance(value, list | tuple):
        yield f"{len(value)}".encode()
        for inner in value:
            yield from _parts(inner)
    else:
        yield repr(value).encode()


def configured_architecture(config: Config) -> dict[str, Any]:
    """Kind and sizes of the fields that the config describes."""
    if config.field == "mlp":
        names = ["netdepth", "netwidth", "multires", "multires_views"]
    else:
        sizes = ("levels", "log2_rows", "features", "finest", "dynamic_finest", "time", "width")
        names = [*(f"hash_{size}" for size in sizes), "multires_views", "n_frames"]
    return {name: getattr(config, name) for name in ("field", *names)}


def checkpoint_path(folder: Path, step: int) -> Path:
    """`<folder>/<step>.tar`, six digits or more."""
    return folder / f"{step:06d}.tar"


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of an experiment, largest step first, whatever their names' lengths."""
    return sorted((p for p in folder.glob("*.tar") if p.stem.isdigit()), key=lambda p: int(p.stem), reverse=True)


def save_checkpoint(
    path: Path,
    step: int,
    seconds: float,
    fields: Fields,
    optimizer: torch.optim.Optimizer,
    rng: dict[str, Any],
    config: Config,
) -> None:
    """Write a file that is either whole or not there.

    Raises:
        InputError: it cannot be written, the disk is full for instance.
    """
    content = {
        "global_step": step,
        "seconds": seconds,
        "network_fn_state_dict": {PREFIX + name: value for name, value in fields.dynamic.state_dict().items()},
        "network_rigid": {PREFIX + name: value for name, value in fields.static.state_dict().items()},
        "optimizer_state_dict": optimizer.state_dict(),
        "architecture": configured_architecture(config),
        "config": dataclasses.asdict(config),
        "variant": config.variant,
        "n_frames": config.n_frames,
        "rng": rng,
    }
    content["checksum"] = digest(content)
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"cannot write checkpoint {path.absolute()} ({reason}); what was saved before is whole"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, ours or a published one, onto the CPU.

    Raises:
        InputError: there is no such file.
        BrokenCheckpoint: it cannot be read to its end or lacks a part.
    """
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        told = content.pop("checksum", None)  # published files have none
        if told is not None and told != digest(content):
            raise ValueError("its checksum is another")
        return Checkpoint(
            path,
            int(content["global_step"]),
            {name.removeprefix(PREFIX): value for name, value in content["network_rigid"].items()},
            {name.removeprefix(PREFIX): value for name, value in content["network_fn_state_dict"].items()},
            content.get("optimizer_state_dict"),
            content.get("rng"),
            float(content.get("seconds", 0.0)),
            content.get("architecture"),
            content.get("variant"),
            content.get("n_frames"),
        )
    except Exception as error:  # whatever a broken or hostile file gives
        reason = " ".join(str(error).split())[:120]
        raise BrokenCheckpoint(f"checkpoint {path} cannot be read, it may be cut off or damaged ({reason})") from error


def read_newest(folder: Path) -> Checkpoint | None:
    """The checkpoint with the largest step that can be read; None if the folder has none at all.

    A broken one is named in the log and the one before it is taken.

    Raises:
        InputError: there are checkpoints, and all are broken.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        try:
            return read_checkpoint(path)
        except BrokenCheckpoint as error:
            log.warning("%s; trying the one before it", error)
    if paths:
        raise InputError(
            f"none of the {len(paths)} checkpoints in {folder.absolute()} can be read; move them away to start again"
        )
    return None


def load_weights(fields: Fields, checkpoint: Checkpoint, config: Config) -> None:
    """Copy the weights into fields of the same architecture.

    Raises:
        InputError: the architectures differ; both are listed.
    """
    try:
        found, wanted = checkpoint.architecture(), configured_architecture(config)
        if found != wanted:
            raise InputError(
                f"checkpoint {checkpoint.path} has {_listed(found)}, the config asks for {_listed(wanted)}"
            )
        fields.static.load_state_dict(checkpoint.static)
        fields.dynamic.load_state_dict(checkpoint.dynamic)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"checkpoint {checkpoint.path} is not one of these networks ({reason})") from error


def _listed(architecture: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in architecture.items())


def restore_fields(fields: Fields, config: Config) -> Checkpoint:
    """Put trained weights into `fields`: those of `ft_path` if it is given, else the newest of the experiment.

    Raises:
        InputError: nothing was trained yet.
    """
    checkpoint = read_checkpoint(Path(config.ft_path)) if config.ft_path else read_newest(config.experiment_dir)
    if checkpoint is None:
        raise InputError(
            f"no checkpoint in {config.experiment_dir.absolute()}; {_experiments(Path(config.basedir))}"
            f"train first: run_nerf.py --config {config.config}"
        )
    check_sequence(checkpoint, config)
    load_weights(fields, checkpoint, config)
    return checkpoint


def check_sequence(checkpoint: Checkpoint, config: Config) -> None:
    """Refuse a checkpoint of a sequence of another length: the time of a frame is relative to it.

    Raises:
        InputError: the lengths differ; published checkpoints do not tell theirs.
    """
    if checkpoint.n_frames not in (None, config.n_frames):
        raise InputError(
            f"{checkpoint.path} was trained on {checkpoint.n_frames} frames, {config.n_frames} are in use: "
            "give the --start_frame and --end_frame that it was trained with"
        )


def _experiments(folder: Path) -> str:
    """The experiments of a folder that have checkpoints, for a message."""
    there = sorted(path.name for path in folder.iterdir() if list_checkpoints(path)) if folder.is_dir() else []
    if not there:
        return ""
    names = ", ".join(there[:MOST_NAMED]) + (f" and {len(there) - MOST_NAMED} more" if len(there) > MOST_NAMED else "")
    return f"{names} {'have some' if len(there) > 1 else 'has one'}: give --expname, --end_frame or --ft_path; or "
