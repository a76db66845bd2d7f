"""The static and the dynamic radiance field; other packages use them through `interface` only."""

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
    """The static and the dynamic field of one scene."""

    def __init__(self, static: StaticField, dynamic: DynamicField):
        super().__init__()
        self.static = static
        self.dynamic = dynamic


def build_optimizer(fields: Fields, config: Config) -> torch.optim.Optimizer:
    """Build Adam with the published settings, or with those of Mueller et al. (2022, section 4) for hash grids.

    A row of a hash grid receives small, sparse gradients, hence the smaller epsilon and second-moment decay.
    """
    # In the published order: the optimiser state of a checkpoint refers to parameters by their position.
    parameters = [*fields.dynamic.parameters(), *fields.static.parameters()]
    if config.field == "hash":
        return torch.optim.Adam(parameters, lr=config.lrate, betas=(0.9, 0.99), eps=1e-15, fused=True)
    return torch.optim.Adam(parameters, lr=config.lrate, betas=(0.9, 0.999))


def build_fields(config: Config) -> Fields:
    """Build untrained fields on the CPU; initial values come from torch's global random state."""
    if config.field == "hash":
        return Fields(StaticHash(config), DynamicHash(config))
    size = (config.netdepth, config.netwidth, config.multires, config.multires_views, config.amp)
    return Fields(StaticMlp(*size), DynamicMlp(*size))
