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

SPACE_REACH = 1.5  # the grid covers NDC x and y in +- this: rays of other cameras, and warped points, leave +-1
DEPTH_REACH = 1.05  # and z in +- this
TIME_REACH = 1.5  # and time in +- this: two frames beyond the ends for any sequence of 8 frames or more
COARSEST = 16  # cells an axis of the coarsest level, over the whole box
N_FREQS = 4  # of the encoding that goes beside the features
FLOW_LEVELS = 4  # scene flow is smooth: it sees the coarse levels only
INITIAL_FLOW_SCALE = 1e-2


class _Heads(nn.Module):
    """Density, colour and other raw outputs from features."""

    def __init__(self, n_inputs: int, width: int, n_freqs_views: int, n_others: int):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(n_inputs, width), nn.ReLU())
        self.others = nn.Linear(width, n_others)
        self.from_hidden = nn.Linear(width, width)
        self.from_view = nn.Linear(encoded_size(3, n_freqs_views), width, bias=False)
        self.rgb = nn.Linear(width, 3)
        self.n_freqs_views = n_freqs_views

    def forward(
        self, features: Float[Tensor, "m e"], viewdirs: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, "n s 3"], Float[Tensor, "n s o"]]:
        n_rays = len(viewdirs)
        hidden = self.trunk(features)
        view_term = self.from_view(encode(viewdirs, self.n_freqs_views))
        colour = F.relu(self.from_hidden(hidden).view(n_rays, -1, view_term.shape[1]) + view_term[:, None])
        return self.rgb(colour), self.others(hidden).view(n_rays, colour.shape[1], -1)


def _to_box(points_ndc: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
    reach = points_ndc.new_tensor([SPACE_REACH, SPACE_REACH, DEPTH_REACH])
    return points_ndc / (2.0 * reach) + 0.5


class StaticHash(StaticField):
    """(x, y, z) in NDC and view direction -> colour, density, blend weight."""

    def __init__(self, config: Config):
        super().__init__()
        finest = config.hash_finest
        layout = make_layout((COARSEST,) * 3, (finest,) * 3, config.hash_levels, config.hash_log2_rows)
        self.grid = HashGrid(layout, config.hash_features)
        self.heads = _Heads(self.grid.n_outputs + encoded_size(3, N_FREQS), config.hash_width, config.multires_views, 2)

    def forward(self, points_ndc: Float[Tensor, "n s 3"], viewdirs: Float[Tensor, "n 3"]) -> StaticSamples:
        points = points_ndc.reshape(-1, 3)
        features = torch.cat([self.grid(_to_box(points)), encode(points, N_FREQS)], dim=-1)
        rgb_raw, others = self.heads(features, viewdirs)
        sigma_raw, blend = others.unbind(-1)
        return StaticSamples(rgb_raw, sigma_raw, blend.sigmoid())


class DynamicHash(DynamicField):
    """(x, y, z, t) in NDC and time and view direction -> colour, density, scene flow, disocclusion."""

    def __init__(self, config: Config):
        super().__init__()
        finest, times = config.hash_dynamic_finest, max(2, round(config.n_frames * TIME_REACH * config.hash_time))
        layout = make_layout(
            (COARSEST,) * 3 + (min(4, times),), (finest,) * 3 + (times,), config.hash_levels, config.hash_log2_rows
        )
        self.grid = HashGrid(layout, config.hash_features)
        encoded = encoded_size(4, N_FREQS)
        self.heads = _Heads(self.grid.n_outputs + encoded, config.hash_width, config.multires_views, 1)
        self.n_flow_features = min(FLOW_LEVELS, config.hash_levels) * config.hash_features
        last = nn.Linear(config.hash_width, 8)
        self.motion = nn.Sequential(nn.Linear(self.n_flow_features + encoded, config.hash_width), nn.ReLU(), last)
        with torch.no_grad():
            last.weight[:6] *= INITIAL_FLOW_SCALE
            last.bias[:6] *= INITIAL_FLOW_SCALE

    def forward(
        self, points_ndc: Float[Tensor, "n s 3"], time: Float[Tensor, " n"], viewdirs: Float[Tensor, "n 3"]
    ) -> DynamicSamples:
        n_rays, n_samples, _ = points_ndc.shape
        xyz = points_ndc.reshape(-1, 3)
        t = time[:, None].expand(n_rays, n_samples).reshape(-1, 1)
        features = self.grid(torch.cat([_to_box(xyz), t / (2.0 * TIME_REACH) + 0.5], dim=-1))
        encoded = encode(torch.cat([xyz, t], dim=-1), N_FREQS)
        rgb_raw, sigma_raw = self.heads(torch.cat([features, encoded], dim=-1), viewdirs)
        motion = self.motion(torch.cat([features[:, : self.n_flow_features], encoded], dim=-1))
        sf_bwd, sf_fwd, prob = motion.view(n_rays, n_samples, 8).split([3, 3, 2], dim=-1)
        prob_bwd, prob_fwd = prob.sigmoid().unbind(-1)
        return DynamicSamples(rgb_raw, sigma_raw.squeeze(-1), sf_bwd.tanh(), sf_fwd.tanh(), prob_bwd, prob_fwd)
