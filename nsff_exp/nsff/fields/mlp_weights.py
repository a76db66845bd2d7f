"""Weights of one MLP, restructured for fewer matrix products."""

import dataclasses
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

SKIP = 4  # the encoded point is concatenated before the output of this layer


@dataclasses.dataclass(frozen=True)
class MlpWeights:
    """Weights of the trunk, of one stacked layer after it, and of the colour head.

    `feature_linear` has no activation, so it is folded into the view layer. The heads that read the last hidden layer
    are stacked below it: rows [view layer (v), density, other heads].
    """

    trunk: tuple[tuple[Tensor, Tensor], ...]  # (weight, bias) of each layer
    last: Float[Tensor, "rows w"]
    head_bias: Float[Tensor, " h"]
    rgb: Float[Tensor, "3 v"]
    rgb_bias: Float[Tensor, "3"]

    def flatten(self) -> list[Tensor]:
        """List all tensors, the form in which autograd functions take inputs."""
        return [
            *(tensor for layer in self.trunk for tensor in layer),
            self.last, self.head_bias, self.rgb, self.rgb_bias,
        ]  # fmt: skip

    @staticmethod
    def unflatten(flat: Sequence[Tensor]) -> "MlpWeights":
        """Invert `flatten`."""
        *trunk, last, head_bias, rgb, rgb_bias = flat
        return MlpWeights(tuple(zip(trunk[::2], trunk[1::2], strict=True)), last, head_bias, rgb, rgb_bias)
