"""CUDA: advice where its memory is too small."""

import contextlib
from collections.abc import Iterator

import torch

from nsff.config import Config
from nsff.errors import InputError


@contextlib.contextmanager
def memory_advice(config: Config) -> Iterator[None]:
    """Name the option to lower, and its value, where a render does not fit a GPU.

    Raises:
        InputError: instead of torch.OutOfMemoryError within.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"the GPU has not enough memory to render {config.netchunk} points at once; "
            f"--netchunk {max(1, config.netchunk // 4)} needs about a quarter"
        ) from error
