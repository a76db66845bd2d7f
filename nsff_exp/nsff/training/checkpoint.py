"""Checkpoints: the published keys and parameter names, written atomically, read without executing anything."""

import dataclasses
import hashlib
import logging
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from nsff.config import Config
from nsff.errors import InputError, reason_of
from nsff.fields import Fields
from nsff.geometry.space import space_kind
from nsff.io import TMP_PREFIX, atomic_write

log = logging.getLogger("nsff")

# Of hash fields: 2 has dynamic colour without view direction and flow that stays before infinity, 3 flow that at most
# doubles the depth, 4 frames on the nodes of the time axis.
HASH_REVISION = 4
REQUIRED_KEYS = ("global_step", "network_fn_state_dict", "network_rigid")  # as published
FOREIGN_KEYS = {  # keys that tell which program wrote a file
    "pytorch-lightning_version": "PyTorch Lightning", "state_dict": "PyTorch Lightning (as nsff_pl writes)",
    "pipeline": "nerfstudio", "network_fn_d_state_dict": "DynamicNeRF", "network_fine_state_dict": "NeRF",
}  # fmt: skip
MAX_NAMES = 5  # keys named in a message
REFUSED_TYPE = re.compile(r"GLOBAL ([\w.]+)")  # in torch's message about a file that holds other things than tensors
PREFIX = "module."  # the published networks were wrapped in DataParallel


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint file, on the CPU.

    Attributes:
        path: of the file.
        step: steps done.
        static: weights of the static field.
        dynamic: weights of the dynamic field.
        optimizer: its state; None if the file has none.
        rng: states of the random generators; None if the file has none.
        seconds: of training so far, over all runs.
        stored_architecture: kind and sizes of the fields; None in published files.
        variant: of the method that was trained; None in published files.
        n_frames: length of the training sequence; None in published files.
        bd_factor: of the scene's scale; None in published files.
        cameras: digest of the poses that it was trained with; None in published files and those from before it.
    """

    path: Path
    step: int
    static: dict[str, torch.Tensor]
    dynamic: dict[str, torch.Tensor]
    optimizer: dict[str, Any] | None
    rng: dict[str, Any] | None
    seconds: float
    stored_architecture: dict[str, Any] | None
    variant: str | None
    n_frames: int | None
    bd_factor: float | None
    cameras: str | None

    def fingerprint(self) -> str:
        """Hash of the weights, 16 hexadecimal digits; independent of the file's name and date."""
        sha = hashlib.sha256()
        for weights in (self.static, self.dynamic):
            for name, value in weights.items():
                sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                sha.update(value.contiguous().numpy().tobytes())
        return sha.hexdigest()[:16]

    def architecture(self) -> dict[str, Any]:
        """Kind and sizes of the fields: as stored, or for published files derived from the shapes of the weights."""
        if self.stored_architecture is not None:
            return self.stored_architecture
        width, size = self.dynamic["pts_linears.0.weight"].shape
        depth = sum(name.startswith("pts_linears.") and name.endswith("weight") for name in self.dynamic)
        view_size = self.dynamic["views_linears.0.weight"].shape[1] - width
        frequencies = {"multires": (size // 4 - 1) // 2, "multires_views": (view_size // 3 - 1) // 2}
        return {"field": "mlp", "netdepth": depth, "netwidth": width} | frequencies


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """State of a run that a checkpoint keeps, so that training resumes exactly."""

    step: int
    seconds: float  # of training so far, over all runs
    fields: Fields
    optimizer: torch.optim.Optimizer
    rng: dict[str, Any]
    cameras: str  # their digest


class BrokenCheckpoint(InputError):
    """A checkpoint that is damaged, cut off, lacks a part or is another program's."""


def configured_architecture(config: Config) -> dict[str, Any]:
    """Kind and sizes of the fields that the config describes."""
    if config.field == "mlp":
        names = ["netdepth", "netwidth", "multires", "multires_views"]
    else:
        sizes = ("levels", "log2_rows", "features", "finest", "dynamic_finest", "time", "width")
        names = [*(f"hash_{size}" for size in sizes), "multires_views", "n_frames"]
    architecture = {name: getattr(config, name) for name in ("field", *names)}
    architecture |= {"no_ndc": True} if config.no_ndc else {}  # published files, and ours from before it, do not say
    return architecture | ({"hash_revision": HASH_REVISION} if config.field == "hash" else {})


def checkpoint_path(folder: Path, step: int) -> Path:
    """`<folder>/<step>.tar`, six digits or more."""
    return folder / f"{step:06d}.tar"


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of an experiment, the largest step first; names may differ in length."""
    return sorted((p for p in folder.glob("*.tar") if p.stem.isdigit()), key=lambda p: int(p.stem), reverse=True)


def save_checkpoint(path: Path, state: TrainingState, config: Config) -> None:
    """Write a checkpoint atomically: `path` is either whole or does not exist.

    Raises:
        InputError: the file cannot be written, for instance because the disk is full.
    """
    content = {
        "global_step": state.step,
        "seconds": state.seconds,
        "network_fn_state_dict": _with_prefix(state.fields.dynamic.state_dict()),
        "network_rigid": _with_prefix(state.fields.static.state_dict()),
        "optimizer_state_dict": state.optimizer.state_dict(),
        "architecture": configured_architecture(config),
        "config": dataclasses.asdict(config),
        "variant": config.variant,
        "n_frames": config.n_frames,
        "cameras": state.cameras,
        "rng": state.rng,
    }
    try:
        # An open file, as torch writes the name of a path into the content.
        with atomic_write(path) as partial, partial.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"cannot write checkpoint {path.absolute()} ({reason_of(error)}); earlier checkpoints are intact"
        ) from error


def remove_unfinished(folder: Path) -> None:
    """Delete the checkpoints that killed runs left unfinished; the folder must be locked, or one being written is lost.

    Their names hold the number of the process that wrote them: no later run would write over them.
    """
    for path in folder.glob(f"{TMP_PREFIX}*.tar"):
        path.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, ours or a published one, onto the CPU.

    Raises:
        InputError: the file does not exist.
        BrokenCheckpoint: the file is damaged, cut off, lacks a part or is another program's.
    """
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist")
    try:
        _check_crc(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        _check_keys(content, path)
        return Checkpoint(
            path=path,
            step=int(content["global_step"]),
            static=_without_prefix(content["network_rigid"]),
            dynamic=_without_prefix(content["network_fn_state_dict"]),
            optimizer=content.get("optimizer_state_dict"),
            rng=content.get("rng"),
            seconds=float(content.get("seconds", 0.0)),
            stored_architecture=content.get("architecture"),
            variant=content.get("variant"),
            n_frames=content.get("n_frames"),
            bd_factor=content.get("config", {}).get("bd_factor"),
            cameras=content.get("cameras"),
        )
    except BrokenCheckpoint:
        raise
    except Exception as error:  # a broken or hostile file can raise anything
        if refused := REFUSED_TYPE.search(str(error)):
            raise BrokenCheckpoint(
                f"checkpoint {path} holds a {refused[1]}; only tensors, numbers and texts are read, as other "
                "things can run code: not a checkpoint of NSFF, or save it again without"
            ) from error
        raise BrokenCheckpoint(
            f"checkpoint {path} cannot be read, it may be cut off or damaged ({reason_of(error)})"
        ) from error


def _check_keys(content: Any, path: Path) -> None:
    """Check that the parts of a published checkpoint are there.

    Raises:
        BrokenCheckpoint: they are not.
    """
    found = [str(key) for key in content] if isinstance(content, dict) else []
    missing = [key for key in REQUIRED_KEYS if key not in found]
    if not missing:
        return
    origin = next((f", but one of {name}" for key, name in FOREIGN_KEYS.items() if key in found), "")
    shown = ", ".join(found[:MAX_NAMES]) + (", ..." if len(found) > MAX_NAMES else "")
    raise BrokenCheckpoint(
        f"{path} has no {' and no '.join(missing)}: not a checkpoint of NSFF{origin} (it holds "
        f"{shown or type(content).__name__})"
    )


def _check_crc(path: Path) -> None:
    """Compare every record with its checksum: torch's file is a zip, and torch itself loads flipped bits silently.

    Files from before torch 1.6, some of the published ones among them, are no zip and have no checksums.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if (record := file.testzip()) is not None:
                raise ValueError(f"record {record} does not match its checksum")


def _with_prefix(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {PREFIX + name: value for name, value in weights.items()}


def _without_prefix(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(PREFIX): value for name, value in weights.items()}


def read_newest(folder: Path) -> Checkpoint | None:
    """Read the intact checkpoint with the largest step; None if the folder has no checkpoints.

    Broken ones are named in the log and skipped.

    Raises:
        InputError: all checkpoints are broken.
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
    """Copy the weights of a checkpoint into fields of the same architecture.

    Raises:
        InputError: the architectures differ; both are listed, or the revisions of hash fields, or the spaces.
    """
    try:
        stored, configured = checkpoint.architecture(), configured_architecture(config)
        if stored.get("field") == config.field == "hash" and stored.get("hash_revision") != HASH_REVISION:
            raise InputError(
                f"checkpoint {checkpoint.path} has hash fields of revision {stored.get('hash_revision', 1)}, which "
                f"this version (revision {HASH_REVISION}) cannot read: train again under another --expname"
            )
        spaces = [space_kind(each.get("no_ndc", False)).name for each in (stored, configured)]
        if spaces[0] != spaces[1]:
            remedy = "leave --no_ndc out" if config.no_ndc else "add --no_ndc"
            raise InputError(
                f"checkpoint {checkpoint.path} was trained in {spaces[0]}, its fields mean nothing in {spaces[1]}: "
                f"{remedy}, or choose another --expname"
            )
        if stored != configured:
            raise InputError(
                f"checkpoint {checkpoint.path} has {_format(stored)}, the config asks for {_format(configured)}"
            )
        fields.static.load_state_dict(checkpoint.static)
        fields.dynamic.load_state_dict(checkpoint.dynamic)
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"the weights in checkpoint {checkpoint.path} do not fit these networks ({reason_of(error, 160)})"
        ) from error


def _format(architecture: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in architecture.items())
