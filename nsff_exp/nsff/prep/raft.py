"""RAFT (Teed and Deng 2020, arXiv:2003.12039): torchvision's network, with published or torchvision's weights."""

import logging
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nsff.errors import InputError
from nsff.io import Flow, Image
from nsff.prep.weights import load_state, read_weights

log = logging.getLogger("nsff")

N_UPDATES = 20  # Updates of the flow per pair, as published.
HALF_PRECISION_PARTS = ("feature_encoder", "context_encoder", "update_block", "mask_predictor")  # as published
STRIDE, MIN_SIDE = 8, 128  # torchvision requires sides divisible by 8, and of at least 128 pixels.

# Substitutions from published names of parameters to torchvision's, applied in this order.
PUBLISHED_TO_TORCHVISION = (
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"(encoder)\.conv1\.", r"\1.convnormrelu.0."),
    (r"(encoder)\.norm1\.", r"\1.convnormrelu.1."),
    (r"(encoder)\.conv2\.", r"\1.conv."),
    (r"(layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
    (r"(layer\d\.\d)\.norm(\d)\.", r"\1.convnormrelu\2.1."),
    (r"update_block\.encoder\.convc(\d)\.", r"update_block.motion_encoder.convcorr\1.0."),
    (r"update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
    (r"update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
    (r"update_block\.gru\.conv([zrq])([12]?)\.", r"update_block.recurrent_block.convgru\2.conv\1."),
    (r"convgru\.", "convgru1."),  # the small network has one unit, without a number
    (r"update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
    (r"update_block\.mask\.2\.", "mask_predictor.conv."),
)


def to_torchvision(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename published RAFT weights to torchvision's names; torchvision's own pass unchanged.

    Note:
        Published files hold the norm of a strided block twice: as its last norm and as `downsample.1`.
    """
    renamed = {}
    last_norm = "norm4" if any(".layer1.0.conv3." in name for name in weights) else "norm3"
    for name, value in weights.items():
        if f".{last_norm}." in name and name.startswith(("fnet.", "cnet.")):
            continue
        for published, torchvision in PUBLISHED_TO_TORCHVISION:
            name = re.sub(published, torchvision, name)
        renamed[name] = value
    return renamed


def use_mixed_precision(model: torch.nn.Module, device_type: str) -> None:
    """Run the convolutions of RAFT under autocast in float16; correlation and flow stay in float32, as published."""
    for name in HALF_PRECISION_PARTS:
        if (part := getattr(model, name)) is not None:  # the small network has no mask predictor
            part.forward = torch.autocast(device_type, torch.float16)(part.forward)
    model.get_submodule("feature_encoder").register_forward_hook(lambda part, images, features: features.float())


class RaftFlow:
    """RAFT as a `FlowMethod`. Images are padded on all sides with border pixels to multiples of 8, as published.

    Args:
        path: weights of the large or the small network, published or torchvision's.
        device: device of the network.
        small: refuse weights of the large network.
        mixed_precision: run the convolutions in float16; without effect on a CPU.
        n_updates: updates of the flow per pair.

    Raises:
        InputError: the file holds no weights, or those of another network.
    """

    def __init__(
        self,
        path: Path,
        device: torch.device,
        small: bool = False,
        mixed_precision: bool = False,
        n_updates: int = N_UPDATES,
    ):
        from torchvision.models import optical_flow  # takes seconds to import

        weights = to_torchvision(read_weights(path))
        is_large = "mask_predictor.conv.weight" in weights
        if small and is_large:
            raise InputError(
                f"{path} holds weights of RAFT's large network; leave --small out, or give weights of the small "
                "network with --model"
            )
        model = optical_flow.raft_large(weights=None) if is_large else optical_flow.raft_small(weights=None)
        load_state(model, weights, path)
        if mixed_precision and device.type == "cpu":
            log.warning("--mixed_precision has no effect on a CPU: flow is computed in float32")
        elif mixed_precision:
            use_mixed_precision(model, device.type)
        self.model, self.device, self.n_updates = model.eval().to(device), device, n_updates

    @torch.no_grad()
    def __call__(self, first: Image, second: Image) -> Flow:
        images = np.stack([first, second]).astype(np.float32) / 127.5 - 1.0
        flow = self.estimate(torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device))
        return flow.permute(1, 2, 0).cpu().numpy()

    @torch.no_grad()
    def estimate(self, pair: Tensor) -> Tensor:
        """Estimate the flow (2, h, w), in pixels, from the first to the second of two images (2, 3, h, w) in -1..1."""
        height, width = pair.shape[2:]
        rows, columns = (max(MIN_SIDE, -(-side // STRIDE) * STRIDE) - side for side in (height, width))
        left, top = columns // 2, rows // 2
        padded = F.pad(pair, (left, columns - left, top, rows - top), mode="replicate")
        flow = self.model(padded[:1], padded[1:], num_flow_updates=self.n_updates)[-1][0]
        return flow[:, top : top + height, left : left + width]
