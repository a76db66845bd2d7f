"""Disparity of single frames by networks of the `transformers` library, which is optional."""

from collections.abc import Callable

import cv2
import numpy as np
import PIL.Image
import torch
from jaxtyping import Float

from nsff.errors import InputError
from nsff.io import Image

TRANSFORMERS_MODELS = {"dpt": "Intel/dpt-large", "depth_anything": "depth-anything/Depth-Anything-V2-Small-hf"}


def load_transformers_depth(
    method: str, model: str | None, device: torch.device
) -> Callable[[Image], Float[np.ndarray, "H W"]]:
    """Load an estimator of disparity (larger = nearer), up to scale and shift.

    Args:
        method: key of `TRANSFORMERS_MODELS`.
        model: folder or name of another model; None = the usual one of the method.
        device: device of the network.

    Raises:
        InputError: transformers is not installed, or the model cannot be loaded.
    """
    try:
        from transformers import pipeline  # an optional dependency of hundreds of megabytes
    except ImportError as error:
        raise InputError(f"--depth {method} needs transformers; run pip install transformers") from error
    name = model or TRANSFORMERS_MODELS[method]
    try:
        network = pipeline("depth-estimation", model=name, device=device)
    except Exception as error:  # of many types: no connection, no such folder, a broken file
        raise InputError(f"{name} cannot be loaded ({type(error).__name__}); give --depth_model FOLDER") from error

    def estimate(image: Image) -> Float[np.ndarray, "H W"]:
        predicted = network(PIL.Image.fromarray(image))["predicted_depth"].squeeze().cpu().numpy()
        return cv2.resize(predicted.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_CUBIC)

    return estimate
