"""The static and the dynamic radiance field. The rest of the package knows only the interface."""

from torch import nn

from nsff.config import Config
from nsff.fields.interface import DynamicField, DynamicSamples, StaticField, StaticSamples
from nsff.fields.mlp import DynamicMlp, StaticMlp

__all__ = ["DynamicField", "DynamicSamples", "Fields", "StaticField", "StaticSamples", "build_fields"]


class Fields(nn.Module):
    """Both fields of a scene."""

    def __init__(self, static: StaticField, dynamic: DynamicField):
        super().__init__()
        self.static = static
        self.dynamic = dynamic


def build_fields(config: Config) -> Fields:
    """Untrained fields as the config describes them, on the CPU, from torch's global random state."""
    size = (config.netdepth, config.netwidth, config.multires, config.multires_views, config.amp)
    return Fields(StaticMlp(*size), DynamicMlp(*size))
