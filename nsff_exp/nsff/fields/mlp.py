"""The published networks: 8 layers of width W with a skip (paper, section 3; figures 2 and 4 of its supplement).

Parameter names are those of the published checkpoints. The forward pass computes the same function in fewer products:
the heads are stacked into one, the feature layer is folded into the view layer, and the term of the view direction is
computed once per ray.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nsff.fields.blocked import forward_blocked
from nsff.fields.encoding import Encoding
from nsff.fields.interface import DynamicField, DynamicSamples, StaticField, StaticSamples
from nsff.fields.mlp_weights import SKIP, MlpWeights

INITIAL_FLOW_SCALE = 1e-2  # the initial weights of the scene-flow head are scaled by this, so that flow starts near 0


def forward_plain(
    x: Float[Tensor, "n s c"], view_term: Float[Tensor, "n v"], encoding: Encoding, weights: MlpWeights
) -> Float[Tensor, "n s o"]:
    """Compute the raw outputs [rgb (3), density, other heads] at the points `x`.

    Args:
        x: points, with time where the field has it.
        view_term: contribution of the view direction to the view layer, including its bias, per ray.
        encoding: of `x`.
        weights: weights of the field, restructured.
    """
    encoded = hidden = encoding(x)
    for layer, (weight, bias) in enumerate(weights.trunk):
        if layer == SKIP + 1:
            hidden = torch.cat([encoded, hidden], dim=-1)
        hidden = F.relu(F.linear(hidden, weight, bias))
    n_view = view_term.shape[-1]
    colour = F.relu(F.linear(hidden, weights.last[:n_view]) + view_term[:, None])
    rgb = F.linear(colour, weights.rgb, weights.rgb_bias)
    return torch.cat([rgb, F.linear(hidden, weights.last[n_view:], weights.head_bias)], dim=-1)


class _Mlp(nn.Module):
    """Trunk, view layer and colour head of either field; subclasses add the other heads.

    Modules are created in the published order, because the optimiser state of a checkpoint refers to it.

    Note:
        With `amp`, matrix products on CUDA run in bfloat16 with float32 accumulation, and everything after them in
        float32; raw outputs, including scene flow, then have an 8-bit mantissa.
    """

    def __init__(self, n_channels: int, depth: int, width: int, n_freqs: int, n_freqs_views: int, amp: bool):
        super().__init__()
        self.encoding, self.view_encoding = Encoding(n_channels, n_freqs), Encoding(3, n_freqs_views)
        size, view_size = self.encoding.size, self.view_encoding.size
        inputs = [size] + [width + size * (layer == SKIP + 1) for layer in range(1, depth)]
        self.pts_linears = nn.ModuleList(nn.Linear(n_in, width) for n_in in inputs)
        self.views_linears = nn.ModuleList([nn.Linear(width + view_size, width // 2)])  # a list of one, as published
        self.feature_linear = nn.Linear(width, width)
        self.alpha_linear = nn.Linear(width, 1)
        self.rgb_linear = nn.Linear(width // 2, 3)
        self.amp = amp

    def _raw(
        self, x: Float[Tensor, "n s c"], viewdirs: Float[Tensor, "n 3"], heads: Sequence[nn.Linear]
    ) -> Float[Tensor, "n s o"]:
        if x.device.type == "cpu":
            return forward_blocked(x, *self._restructured(viewdirs, heads))
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp):
            return forward_plain(x, *self._restructured(viewdirs, heads)).to(x.dtype)

    def _restructured(
        self, viewdirs: Float[Tensor, "n 3"], heads: Sequence[nn.Linear]
    ) -> tuple[Float[Tensor, "n v"], Encoding, MlpWeights]:
        """Compute the arguments (view term, encoding, weights) of `forward_plain`."""
        feature, view_layer = self.feature_linear, self.views_linears[0]
        assert isinstance(view_layer, nn.Linear)
        width = feature.weight.shape[0]
        from_feature, from_view = view_layer.weight[:, :width], view_layer.weight[:, width:]
        bias = from_feature @ feature.bias + view_layer.bias
        heads = (self.alpha_linear, *heads)
        weights = MlpWeights(
            trunk=tuple((layer.weight, layer.bias) for layer in self.pts_linears),
            last=torch.cat([from_feature @ feature.weight, *(head.weight for head in heads)]),
            head_bias=torch.cat([head.bias for head in heads]),
            rgb=self.rgb_linear.weight,
            rgb_bias=self.rgb_linear.bias,
        )
        return F.linear(self.view_encoding(viewdirs), from_view, bias), self.encoding, weights


class StaticMlp(_Mlp, StaticField):
    """Static field: (x, y, z) and view direction -> colour, density, blend weight."""

    def __init__(self, depth: int, width: int, n_freqs: int = 10, n_freqs_views: int = 4, amp: bool = False):
        super().__init__(3, depth, width, n_freqs, n_freqs_views, amp)
        self.w_linear = nn.Linear(width, 1)

    def forward(self, points: Float[Tensor, "n s 3"], viewdirs: Float[Tensor, "n 3"]) -> StaticSamples:
        raw = self._raw(points, viewdirs, (self.w_linear,))
        rgb_raw, sigma_raw, blend = raw.split([3, 1, 1], dim=-1)
        return StaticSamples(rgb_raw, sigma_raw.squeeze(-1), blend.squeeze(-1).sigmoid())


class DynamicMlp(_Mlp, DynamicField):
    """Dynamic field: (x, y, z), time and view direction -> colour, density, scene flow, disocclusion."""

    def __init__(self, depth: int, width: int, n_freqs: int = 10, n_freqs_views: int = 4, amp: bool = False):
        super().__init__(4, depth, width, n_freqs, n_freqs_views, amp)
        self.sf_linear = nn.Linear(width, 6)
        self.prob_linear = nn.Linear(width, 2)
        with torch.no_grad():
            self.sf_linear.weight *= INITIAL_FLOW_SCALE
            self.sf_linear.bias *= INITIAL_FLOW_SCALE

    def forward(
        self, points: Float[Tensor, "n s 3"], time: Float[Tensor, " n"], viewdirs: Float[Tensor, "n 3"]
    ) -> DynamicSamples:
        xyzt = torch.cat([points, time[:, None, None].expand_as(points[..., :1])], dim=-1)
        raw = self._raw(xyzt, viewdirs, (self.sf_linear, self.prob_linear))
        rgb_raw, sigma_raw, sf_bwd, sf_fwd, prob = raw.split([3, 1, 3, 3, 2], dim=-1)
        prob_bwd, prob_fwd = prob.sigmoid().unbind(-1)
        return DynamicSamples(rgb_raw, sigma_raw.squeeze(-1), sf_bwd.tanh(), sf_fwd.tanh(), prob_bwd, prob_fwd)
