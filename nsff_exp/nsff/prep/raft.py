"""RAFT (Teed and Deng 2020, arXiv:2003.12039): torchvision's network, with weights as published or torchvision's."""

import logging
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nsff.errors import InputError
from nsff.io import Flow, Image
from nsff.prep.weights import fill, read_weights

log = logging.getLogger("nsff")

ITERATIONS = 20  # as published
HALVED = ("feature_encoder", "context_encoder", "update_block", "mask_predictor")  # of mixed precision, as published
STRIDE, LEAST_SIDE = 8, 128  # torchvision wants sides divisible by 8, and at least 128

# The published name of each part (left) and torchvision's (right), applied in this order.
RENAMED = (
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
    """Published RAFT weights under torchvision's names; torchvision's own stay as they are.

    The norm of a strided block stands in published files under two names: as its last norm and as `downsample.1`.
    """
    renamed = {}
    last_norm = "norm4" if any(".layer1.0.conv3." in name for name in weights) else "norm3"
    for name, value in weights.items():
        if f".{last_norm}." in name and name.startswith(("fnet.", "cnet.")):
            continue
        for published, ours in RENAMED:
            name = re.sub(published, ours, name)
        renamed[name] = value
    return renamed


def use_mixed_precision(model: torch.nn.Module, device_type: str) -> None:
    """Run the parts of RAFT under autocast in float16; the correlation and the flow stay in float32, as published."""
    for name in HALVED:
        if (part := getattr(model, name)) is not None:  # the small network predicts no mask
            part.forward = torch.autocast(device_type, torch.float16)(part.forward)
    model.get_submodule("feature_encoder").register_forward_hook(lambda part, images, features: features.float())


class RaftFlow:
    """A `FlowMethod`. Sides are padded evenly to multiples of 8 by the border's pixels, as published.

    Args:
        path: weights of the large or the small network, published or torchvision's.
        device: of the network.
        small: refuse weights of the large network.
        mixed_precision: run the network in float16 where that is safe; on a CPU without effect.
        iterations: updates of the flow.

    Raises:
        InputError: the file holds no weights, or of another network.
    """

    def __init__(
        self,
        path: Path,
        device: torch.device,
        small: bool = False,
        mixed_precision: bool = False,
        iterations: int = ITERATIONS,
    ):
        from torchvision.models import optical_flow  # here: seconds, spared where no network runs

        weights = to_torchvision(read_weights(path))
        is_large = "mask_predictor.conv.weight" in weights
        if small and is_large:
            raise InputError(
                f"{path} holds weights of RAFT's large network; leave --small out, or give those of the small network "
                "with --model"
            )
        model = optical_flow.raft_large(weights=None) if is_large else optical_flow.raft_small(weights=None)
        fill(model, weights, path)
        if mixed_precision and device.type == "cpu":
            log.warning("--mixed_precision has no effect on a CPU: flow is computed in float32")
        elif mixed_precision:
            use_mixed_precision(model, device.type)
        self.model, self.device, self.iterations = model.eval().to(device), device, iterations

    @torch.no_grad()
    def __call__(self, first: Image, second: Image) -> Flow:
        images = np.stack([first, second]).astype(np.float32) / 127.5 - 1.0
        flow = self.flow_of(torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device))
        return flow.permute(1, 2, 0).cpu().numpy()

    @torch.no_grad()
    def flow_of(self, pair: Tensor) -> Tensor:
        """Flow (2, h, w) from the first to the second of two images (2, 3, h, w) in -1..1."""
        height, width = pair.shape[2:]
        rows, columns = (max(LEAST_SIDE, -(-side // STRIDE) * STRIDE) - side for side in (height, width))
        left, top = columns // 2, rows // 2
        padded = F.pad(pair, (left, columns - left, top, rows - top), mode="replicate")
        flow = self.model(padded[:1], padded[1:], num_flow_updates=self.iterations)[-1][0]
        return flow[:, top : top + height, left : left + width]
