"""Weights of the networks: where they lie, and reading them safely."""

from pathlib import Path

import torch
from torch import Tensor

from nsff_prep.script import PrepError

MODELS = Path(__file__).resolve().parents[1] / "models"  # where download_models.py puts them


def _places(typed: str) -> list[Path]:
    return [Path(typed).absolute(), MODELS.parent / typed]


def has_weights(typed: str) -> bool:
    """Whether `find_weights` finds them."""
    return any(place.is_file() for place in _places(typed))


def find_weights(typed: str) -> Path:
    """The file as typed, else under nsff_scripts.

    Raises:
        PrepError: in neither place; both are named.
    """
    places = _places(typed)
    for place in places:
        if place.is_file():
            return place
    raise PrepError(f"no weights at {places[0]} nor {places[1]}; run download_models.py")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without the `module.` of parallel training; nothing in it is executed.

    Raises:
        PrepError: not a file of tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return {name.removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}
    except OSError:
        raise
    except Exception as error:  # whatever a broken or hostile file gives
        raise PrepError(f"{path} holds no weights ({type(error).__name__}); run download_models.py again") from error


def fill(model: torch.nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load weights into a network, every one of it.

    Raises:
        PrepError: names or shapes differ.
    """
    wanted = model.state_dict()
    missing = sorted(name for name in wanted if name not in weights and not name.endswith("num_batches_tracked"))
    wrong = sorted(name for name in weights if name not in wanted or weights[name].shape != wanted[name].shape)
    if missing or wrong:
        raise PrepError(
            f"{path} does not fit {type(model).__name__}: {len(missing)} tensors missing "
            f"({', '.join(missing[:2])}), {len(wrong)} unknown or of another shape ({', '.join(wrong[:2])})"
        )
    model.load_state_dict(weights, strict=False)
