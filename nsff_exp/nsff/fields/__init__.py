"""The static and the dynamic radiance field. The rest of the package knows only the interface."""

import torch
from torch import nn

from nsff.config import Config
from nsff.fields.hash import DynamicHash, StaticHash
from nsff.fields.interface import DynamicField, DynamicSamples, Radiance, StaticField, StaticSamples
from nsff.fields.mlp import DynamicMlp, StaticMlp

__all__ = [
    "DynamicField",
    "DynamicSamples",
    "Fields",
    "Radiance",
    "StaticField",
    "StaticSamples",
    "build_fields",
    "build_optimizer",
]


class Fields(nn.Module):
    """Both fields of a scene."""

    def __init__(self, static: StaticField, dynamic: DynamicField):
        super().__init__()
        self.static = static
        self.dynamic = dynamic


def build_optimizer(fields: Fields, config: Config) -> torch.optim.Optimizer:
    """The published Adam, or one for hash grids: the gradient of a row is small and there are steps without any."""
    # The published order: the optimiser state of a checkpoint counts parameters.
    parameters = [*fields.dynamic.parameters(), *fields.static.parameters()]
    if config.field == "hash":
        return torch.optim.Adam(parameters, lr=config.lrate, betas=(0.9, 0.99), eps=1e-15, fused=True)
    return torch.optim.Adam(parameters, lr=config.lrate, betas=(0.9, 0.999))


def build_fields(config: Config) -> Fields:
    """Untrained fields as the config describes them, on the CPU, from torch's global random state."""
    if config.field == "hash":
        return Fields(StaticHash(config), DynamicHash(config))
    size = (config.netdepth, config.netwidth, config.multires, config.multires_views, config.amp)
    return Fields(StaticMlp(*size), DynamicMlp(*size))
