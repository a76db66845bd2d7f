"""What a field gives at a point, whatever it is made of."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Radiance:
    """What can be composited: a field at n rays x s samples."""

    rgb_raw: Float[Tensor, "n s 3"]  # colour before the sigmoid
    sigma_raw: Float[Tensor, "n s"]  # density before the ReLU


@dataclasses.dataclass(frozen=True)
class StaticSamples(Radiance):
    """The time-independent field."""

    blend_w: Float[Tensor, "n s"]  # 0..1, 1 = dynamic (the paper's v is the opposite)


@dataclasses.dataclass(frozen=True)
class DynamicSamples(Radiance):
    """The time-dependent field."""

    sf_bwd: Float[Tensor, "n s 3"]  # scene flow to the frame before, NDC units a frame
    sf_fwd: Float[Tensor, "n s 3"]  # scene flow to the frame after
    prob_bwd: Float[Tensor, "n s"]  # probability (0..1) that the point is disoccluded in the frame before
    prob_fwd: Float[Tensor, "n s"]

    def __getitem__(self, rows: slice) -> "DynamicSamples":
        return DynamicSamples(**{name: value[rows] for name, value in vars(self).items()})


class StaticField(nn.Module):
    """Maps NDC points and unit view directions to `StaticSamples`."""

    def forward(self, points_ndc: Float[Tensor, "n s 3"], viewdirs: Float[Tensor, "n 3"]) -> StaticSamples:
        raise NotImplementedError

    def geometry(self, points_ndc: Float[Tensor, "n s 3"]) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n s"]]:
        """(raw density, blend weight), which no view direction changes; cheaper where the field can."""
        samples = self(points_ndc, torch.zeros_like(points_ndc[:, 0]))
        return samples.sigma_raw, samples.blend_w


class DynamicField(nn.Module):
    """Maps NDC points, the time of each ray and unit view directions to `DynamicSamples`."""

    def forward(
        self, points_ndc: Float[Tensor, "n s 3"], time: Float[Tensor, " n"], viewdirs: Float[Tensor, "n 3"]
    ) -> DynamicSamples:
        raise NotImplementedError

    def radiance(
        self, points_ndc: Float[Tensor, "n s 3"], time: Float[Tensor, " n"], viewdirs: Float[Tensor, "n 3"]
    ) -> Radiance:
        """Colour and density alone; cheaper where the field can."""
        return self(points_ndc, time, viewdirs)

    def geometry(self, points_ndc: Float[Tensor, "n s 3"], time: Float[Tensor, " n"]) -> Float[Tensor, "n s"]:
        """Raw density alone; cheaper where the field can."""
        return self(points_ndc, time, torch.zeros_like(points_ndc[:, 0])).sigma_raw
