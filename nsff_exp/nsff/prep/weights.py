"""Weights of the networks: where they are looked for, and how they are read safely."""

from pathlib import Path

import torch
from torch import Tensor

from nsff.errors import InputError

MODELS = Path(__file__).resolve().parents[3] / "nsff_scripts" / "models"  # where download_models.py puts them

# Paths that are looked for where the user names none.
MIDAS, RAFT, RAFT_SMALL = "models/model.pt", "models/raft-things.pth", "models/raft-small.pth"
MASK_RCNN = "models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
PUBLISHED_PLACES = {MIDAS: "model.pt"}  # under nsff_scripts, where the published instructions put them


def places_in_scripts(path: str) -> list[Path]:
    """List the places of a weights file under nsff_scripts: the path itself, then its published place."""
    published = [PUBLISHED_PLACES[path]] if path in PUBLISHED_PLACES else []
    return [MODELS.parent / name for name in (path, *published)]


def has_weights(path: str) -> bool:
    """Check whether `find_weights` would find the file."""
    return any(place.is_file() for place in _places(path))


def find_weights(path: str, remedy: str = "run download_models.py") -> Path:
    """Find a file of weights: at the path itself, else under nsff_scripts, else at its published place.

    Args:
        path: path as typed.
        remedy: advice at the end of the error.

    Raises:
        InputError: the file is in none of these places, all of which are named.
    """
    places = _places(path)
    for place in places:
        if place.is_file():
            return place
    raise InputError(f"no weights at {' nor '.join(map(str, places))}; {remedy}")


def _places(path: str) -> list[Path]:
    places = [Path(path).absolute(), *places_in_scripts(path)]
    return list(dict.fromkeys(places))  # without duplicates, which a run inside nsff_scripts gives


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name, without the `module.` of DataParallel; nothing in it is executed.

    A training checkpoint, `{"optimizer": ..., "model": ...}`, gives the tensors of its model.

    Raises:
        InputError: the file holds no tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if "optimizer" in content:
            content = content["model"]
        return {name.removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}
    except OSError:
        raise
    except Exception as error:  # of many types, for a broken or hostile file
        raise InputError(f"{path} holds no weights ({type(error).__name__}); run download_models.py again") from error


def load_state(model: torch.nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load weights into a network; all parameters must be present, and no others.

    Args:
        model: the network.
        weights: tensors by name.
        path: file of the weights, for the error.

    Raises:
        InputError: names or shapes differ.
    """
    state = model.state_dict()
    missing = sorted(name for name in state if name not in weights and not name.endswith("num_batches_tracked"))
    unexpected = sorted(name for name in weights if name not in state or weights[name].shape != state[name].shape)
    if missing or unexpected:
        raise InputError(
            f"{path} does not fit {type(model).__name__}: {len(missing)} tensors missing "
            f"({', '.join(missing[:2])}), {len(unexpected)} unknown or of another shape ({', '.join(unexpected[:2])})"
        )
    model.load_state_dict(weights, strict=False)
