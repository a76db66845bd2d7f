"""Hash-grid fields: small networks on features of multi-resolution grids (Mueller et al. 2022, arXiv:2201.05989).

Not part of the paper; same inputs and outputs as the published networks, at a fraction of the cost.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nsff.config import Config
from nsff.encoding import encode, encoded_size
from nsff.fields.grid import HashGrid, make_layout
from nsff.fields.interface import DynamicField, DynamicSamples, StaticField, StaticSamples

# The grids cover +- these in NDC and time: rays of other cameras and warped points leave +-1, times of neighbours too
# (two frames beyond the ends are inside for 8 frames or more). Further out, the border goes on.
REACH = (1.5, 1.5, 1.05, 1.5)  # x, y, z, t
COARSEST = 16  # cells an axis of the coarsest level, over the whole box
N_FREQS = 4  # of the encoding that goes beside the features
FLOW_LEVELS = 4  # scene flow is smooth: it sees the coarse levels only
INITIAL_FLOW_SCALE = 1e-2


class _Heads(nn.Module):
    """Density, colour and other raw outputs from features."""

    def __init__(self, n_inputs: int, n_others: int, config: Config):
        super().__init__()
        width, n_freqs_views = config.hash_width, config.multires_views
        self.trunk = nn.Sequential(nn.Linear(n_inputs, width), nn.ReLU())
        self.others = nn.Linear(width, n_others)
        self.from_hidden = nn.Linear(width, width)
        self.from_view = nn.Linear(encoded_size(3, n_freqs_views), width, bias=False)
        self.rgb = nn.Linear(width, 3)
        self.n_freqs_views = n_freqs_views

    def forward(
        self, features: Float[Tensor, "m e"], viewdirs: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, "n s 3"], Float[Tensor, "n s o"]]:
        n_rays, hidden = len(viewdirs), self.trunk(features)
        view_term = self.from_view(encode(viewdirs, self.n_freqs_views))
        colour = F.relu(self.from_hidden(hidden).view(n_rays, -1, view_term.shape[1]) + view_term[:, None])
        return self.rgb(colour), self.others(hidden).view(n_rays, colour.shape[1], -1)

    def without_colour(self, features: Float[Tensor, "m e"]) -> Float[Tensor, "m o"]:
        """The other outputs only."""
        return self.others(self.trunk(features))


def mixed_precision(like: Tensor, amp: bool) -> torch.autocast:
    """Products in bfloat16 on CUDA if `amp`."""
    return torch.autocast(like.device.type, torch.bfloat16, enabled=amp and like.is_cuda)


class StaticHash(StaticField):
    """(x, y, z) in NDC and view direction -> colour, density, blend weight."""

    box: Tensor

    def __init__(self, config: Config):
        super().__init__()
        self.amp, finest = config.amp, config.hash_finest
        layout = make_layout((COARSEST,) * 3, (finest,) * 3, config.hash_levels, config.hash_log2_rows)
        self.grid = HashGrid(layout, config.hash_features)
        self.register_buffer("box", 2.0 * torch.tensor(REACH[:3]), persistent=False)
        self.heads = _Heads(self.grid.n_outputs + encoded_size(3, N_FREQS), 2, config)

    def forward(self, points_ndc: Float[Tensor, "n s 3"], viewdirs: Float[Tensor, "n 3"]) -> StaticSamples:
        with mixed_precision(points_ndc, self.amp):
            rgb_raw, others = self.heads(self._features(points_ndc), viewdirs)
        sigma_raw, blend = others.float().unbind(-1)
        return StaticSamples(rgb_raw.float(), sigma_raw, blend.sigmoid())

    def geometry(self, points_ndc: Float[Tensor, "n s 3"]) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n s"]]:
        sigma_raw, blend = (
            self.heads.without_colour(self._features(points_ndc)).view(*points_ndc.shape[:2], 2).unbind(-1)
        )
        return sigma_raw, blend.sigmoid()

    def _features(self, points_ndc: Float[Tensor, "n s 3"]) -> Float[Tensor, "m e"]:
        points = points_ndc.reshape(-1, 3)
        return torch.cat([self.grid(points / self.box + 0.5), encode(points, N_FREQS)], dim=-1)


class DynamicHash(DynamicField):
    """(x, y, z, t) in NDC and time and view direction -> colour, density, scene flow, disocclusion."""

    box: Tensor

    def __init__(self, config: Config):
        super().__init__()
        self.amp = config.amp
        finest, times = config.hash_dynamic_finest, max(2, round(config.n_frames * REACH[3] * config.hash_time))
        layout = make_layout(
            (COARSEST,) * 3 + (min(4, times),), (finest,) * 3 + (times,), config.hash_levels, config.hash_log2_rows
        )
        self.grid = HashGrid(layout, config.hash_features)
        self.register_buffer("box", 2.0 * torch.tensor(REACH), persistent=False)
        encoded = encoded_size(4, N_FREQS)
        self.heads = _Heads(self.grid.n_outputs + encoded, 1, config)
        n_flow_features = min(FLOW_LEVELS, config.hash_levels) * config.hash_features
        self.finest_features = self.grid.n_outputs - n_flow_features  # which scene flow does not see
        last = nn.Linear(config.hash_width, 8)
        self.motion = nn.Sequential(nn.Linear(n_flow_features + encoded, config.hash_width), nn.ReLU(), last)
        with torch.no_grad():
            last.weight[:6] *= INITIAL_FLOW_SCALE
            last.bias[:6] *= INITIAL_FLOW_SCALE

    def forward(
        self, points_ndc: Float[Tensor, "n s 3"], time: Float[Tensor, " n"], viewdirs: Float[Tensor, "n 3"]
    ) -> DynamicSamples:
        n_rays, n_samples, _ = points_ndc.shape
        features = self._features(points_ndc, time)
        with mixed_precision(points_ndc, self.amp):
            rgb_raw, sigma_raw = self.heads(features, viewdirs)
        # Scene flow stays in full precision: it is small against the 8 bits of bfloat16.
        motion = self.motion(features[:, self.finest_features :])
        sf_bwd, sf_fwd, prob = motion.view(n_rays, n_samples, 8).split([3, 3, 2], dim=-1)
        prob_bwd, prob_fwd = prob.sigmoid().unbind(-1)
        sigma_raw = sigma_raw.float().squeeze(-1)
        return DynamicSamples(rgb_raw.float(), sigma_raw, sf_bwd.tanh(), sf_fwd.tanh(), prob_bwd, prob_fwd)

    def geometry(self, points_ndc: Float[Tensor, "n s 3"], time: Float[Tensor, " n"]) -> Float[Tensor, "n s"]:
        return self.heads.without_colour(self._features(points_ndc, time)).view(points_ndc.shape[:2])

    def _features(self, points_ndc: Float[Tensor, "n s 3"], time: Float[Tensor, " n"]) -> Float[Tensor, "m e"]:
        """Of the levels, finest first, then the encoding: what scene flow sees lies together."""
        xyzt = torch.cat([points_ndc, time[:, None, None].expand_as(points_ndc[..., :1])], dim=-1).view(-1, 4)
        return torch.cat([self.grid(xyzt / self.box + 0.5).flip(-1), encode(xyzt, N_FREQS)], dim=-1)
