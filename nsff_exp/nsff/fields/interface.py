"""Interface of the static and the dynamic field, whatever represents them."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Radiance:
    """Colour and density of n rays x s samples, the inputs of volume rendering."""

    rgb_raw: Float[Tensor, "n s 3"]  # colour before the sigmoid
    sigma_raw: Float[Tensor, "n s"]  # density before the ReLU


@dataclasses.dataclass(frozen=True)
class StaticSamples(Radiance):
    """Outputs of the time-independent field."""

    blend_w: Float[Tensor, "n s"]  # 0..1, 1 = dynamic (the paper's v is the opposite)


@dataclasses.dataclass(frozen=True)
class DynamicSamples(Radiance):
    """Outputs of the time-dependent field."""

    sf_bwd: Float[Tensor, "n s 3"]  # scene flow to the previous frame, in units of the space of the fields, per frame
    sf_fwd: Float[Tensor, "n s 3"]  # scene flow to the next frame
    prob_bwd: Float[Tensor, "n s"]  # probability (0..1) that the point is disoccluded in the previous frame
    prob_fwd: Float[Tensor, "n s"]  # the same for the next frame

    def __getitem__(self, rays: slice) -> "DynamicSamples":
        return DynamicSamples(**{name: value[rays] for name, value in vars(self).items()})

    def halves(self) -> "tuple[DynamicSamples, DynamicSamples]":
        """Split the rays of a batch of two."""
        first, second = zip(*(value.chunk(2) for value in vars(self).values()), strict=True)
        return DynamicSamples(*first), DynamicSamples(*second)


class StaticField(nn.Module):
    """Map from points of a space (`geometry.space`) and unit view directions to `StaticSamples`."""

    def forward(self, points: Float[Tensor, "n s 3"], viewdirs: Float[Tensor, "n 3"]) -> StaticSamples:
        raise NotImplementedError

    def geometry(self, points: Float[Tensor, "n s 3"]) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n s"]]:
        """Compute raw density and blend weight, which do not depend on the view direction.

        Subclasses override this where skipping the colour is cheaper.
        """
        samples = self(points, torch.zeros_like(points[:, 0]))
        return samples.sigma_raw, samples.blend_w


class DynamicField(nn.Module):
    """Map from points of a space, the time of each ray (-1..1) and unit view directions to `DynamicSamples`."""

    def forward(
        self, points: Float[Tensor, "n s 3"], time: Float[Tensor, " n"], viewdirs: Float[Tensor, "n 3"]
    ) -> DynamicSamples:
        raise NotImplementedError

    def radiance(
        self, points: Float[Tensor, "n s 3"], time: Float[Tensor, " n"], viewdirs: Float[Tensor, "n 3"]
    ) -> Radiance:
        """Compute colour and density; subclasses override this where skipping scene flow is cheaper."""
        return self(points, time, viewdirs)

    def geometry(self, points: Float[Tensor, "n s 3"], time: Float[Tensor, " n"]) -> Float[Tensor, "n s"]:
        """Compute raw density; subclasses override this where skipping the other outputs is cheaper."""
        return self(points, time, torch.zeros_like(points[:, 0])).sigma_raw
