"""The weights of one MLP in the form in which they are multiplied."""

import dataclasses
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

SKIP = 4  # the encoded point is put in front of the output of this layer


@dataclasses.dataclass(frozen=True)
class MlpWeights:
    """Trunk, one stacked product after it, and the colour layer.

    `feature_linear` has no nonlinearity behind it, so it is folded into the view layer; the heads that read the last
    hidden layer are stacked below: rows [view layer (v), density, other heads].
    """

    trunk: tuple[tuple[Tensor, Tensor], ...]  # (weight, bias) of each layer
    last: Float[Tensor, "rows w"]
    head_bias: Float[Tensor, " h"]
    rgb: Float[Tensor, "3 v"]
    rgb_bias: Float[Tensor, "3"]

    def flatten(self) -> list[Tensor]:
        """All tensors in one list, as autograd wants them."""
        return [
            *(tensor for layer in self.trunk for tensor in layer),
            self.last, self.head_bias, self.rgb, self.rgb_bias,
        ]  # fmt: skip

    @staticmethod
    def unflatten(flat: Sequence[Tensor]) -> "MlpWeights":
        """Inverse of `flatten`."""
        *trunk, last, head_bias, rgb, rgb_bias = flat
        return MlpWeights(tuple(zip(trunk[::2], trunk[1::2], strict=True)), last, head_bias, rgb, rgb_bias)
