"""Weights of the networks: their places, and reading them safely."""

from pathlib import Path

import torch
from torch import Tensor

from nsff.errors import InputError

MODELS = Path(__file__).resolve().parents[1] / "models"  # where download_models.py puts them

# The files that are looked for where the user names none.
MIDAS, RAFT, RAFT_SMALL = "models/model.pt", "models/raft-things.pth", "models/raft-small.pth"
MASK_RCNN = "models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
PUBLISHED_PLACES = {MIDAS: "model.pt"}  # under nsff_scripts, where the published instructions put it


def _places(typed: str) -> list[Path]:
    return list(dict.fromkeys([Path(typed).absolute(), *places_in_scripts(typed)]))  # none twice, in nsff_scripts


def places_in_scripts(typed: str) -> list[Path]:
    """List the places of a file under nsff_scripts: as typed, then its published place."""
    published = [PUBLISHED_PLACES[typed]] if typed in PUBLISHED_PLACES else []
    return [MODELS.parent / name for name in (typed, *published)]


def has_weights(typed: str) -> bool:
    """Tell whether `find_weights` finds them."""
    return any(place.is_file() for place in _places(typed))


def find_weights(typed: str, remedy: str = "run download_models.py") -> Path:
    """Find a file of weights: as typed, else under nsff_scripts, else at its published place.

    Args:
        typed: its path.
        remedy: said where it is in none of these places.

    Raises:
        InputError: it is in none of these places; all are named.
    """
    places = _places(typed)
    for place in places:
        if place.is_file():
            return place
    raise InputError(f"no weights at {' nor '.join(map(str, places))}; {remedy}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name, without the `module.` of parallel training; nothing in it is executed.

    A checkpoint of training, `{"optimizer": ..., "model": ...}`, gives the tensors of its model.

    Raises:
        InputError: not a file of tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if "optimizer" in content:
            content = content["model"]
        return {name.removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}
    except OSError:
        raise
    except Exception as error:  # whatever a broken or hostile file gives
        raise InputError(f"{path} holds no weights ({type(error).__name__}); run download_models.py again") from error


def fill(model: torch.nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load weights into a network, every one of it.

    Raises:
        InputError: names or shapes differ.
    """
    wanted = model.state_dict()
    missing = sorted(name for name in wanted if name not in weights and not name.endswith("num_batches_tracked"))
    wrong = sorted(name for name in weights if name not in wanted or weights[name].shape != wanted[name].shape)
    if missing or wrong:
        raise InputError(
            f"{path} does not fit {type(model).__name__}: {len(missing)} tensors missing "
            f"({', '.join(missing[:2])}), {len(wrong)} unknown or of another shape ({', '.join(wrong[:2])})"
        )
    model.load_state_dict(weights, strict=False)
