"""Hash-grid fields: small networks on features of multi-resolution grids (Mueller et al. 2022, arXiv:2201.05989).

Not part of the paper; same inputs and outputs as the published networks, at a fraction of the cost.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nsff.config import Config
from nsff.fields.encoding import encode, encode_rows, encoded_size
from nsff.fields.hash_grid import HashGrid, make_layout
from nsff.fields.interface import DynamicField, DynamicSamples, Radiance, StaticField, StaticSamples

# The grids cover +- these in NDC and time: rays of other cameras and warped points leave +-1, times of neighbours too
# (two frames beyond the ends are inside for 8 frames or more). Further out, the border goes on.
REACH = (1.5, 1.5, 1.05, 1.5)  # x, y, z, t
COARSEST = 16  # cells an axis of the coarsest level, over the whole box
N_FREQS = 4  # of the encoding that goes beside the features
# Scene flow has a grid of its own, coarse in space and fine in time. From the features of colour and density it learnt
# slowly: 15 px off on moving pixels of Balloon1 after 5 minutes on a core, 6 px after 4 with its own (medians, one run
# each). Why is not known; Adam scaling shared features by the larger gradients would explain it.
MOTION_LEVELS, MOTION_CELLS = 4, (8, 64)
FLOW_SCALE = 0.1  # scene flow is small in NDC (a pixel of 480 is 0.004): raw values are of order 1
INITIAL_FLOW = 0.1  # of its last layer


class _Heads(nn.Module):
    """Density, colour and other raw outputs from features."""

    def __init__(self, n_inputs: int, n_others: int, config: Config):
        super().__init__()
        width, n_freqs_views = config.hash_width, config.multires_views
        self.trunk = nn.Sequential(nn.Linear(n_inputs, width), nn.ReLU(inplace=True))
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
        colour = F.relu_(self.from_hidden(hidden).view(n_rays, -1, view_term.shape[1]) + view_term[:, None])
        return self.rgb(colour), self.others(hidden).view(n_rays, colour.shape[1], -1)

    def without_colour(self, features: Float[Tensor, "e m"]) -> Float[Tensor, "o m"]:
        """The other outputs only; features and outputs lie in rows, as the grid's kernels write them."""
        first, last = self.trunk[0], self.others
        assert isinstance(first, nn.Linear)
        hidden = torch.addmm(first.bias[:, None], first.weight, features).relu_()
        return torch.addmm(last.bias[:, None], last.weight, hidden)


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
        points = points_ndc.reshape(-1, 3)
        features = torch.cat([self.grid(points / self.box + 0.5).T, encode_rows(points.T.contiguous(), N_FREQS)])
        sigma_raw, blend = self.heads.without_colour(features).unflatten(1, points_ndc.shape[:2])
        return sigma_raw, blend.sigmoid()

    def _features(self, points_ndc: Float[Tensor, "n s 3"]) -> Float[Tensor, "m e"]:
        points = points_ndc.reshape(-1, 3)
        return torch.cat([self.grid(points / self.box + 0.5), encode(points, N_FREQS)], dim=-1)


class _Motion(nn.Module):
    """Scene flow and disocclusion, backward and forward, from unit points and their encoding."""

    def __init__(self, n_times: int, n_encoded: int, config: Config):
        super().__init__()
        coarsest, finest = ((cells,) * 3 + (n_times,) for cells in MOTION_CELLS)
        self.grid = HashGrid(make_layout(coarsest, finest, MOTION_LEVELS, config.hash_log2_rows), config.hash_features)
        last = nn.Linear(config.hash_width, 8)
        self.layers = nn.Sequential(
            nn.Linear(self.grid.n_outputs + n_encoded, config.hash_width), nn.ReLU(inplace=True), last
        )
        with torch.no_grad():
            last.weight[:6] *= INITIAL_FLOW
            last.bias[:6] = 0.0

    def forward(self, unit: Float[Tensor, "m 4"], encoded: Float[Tensor, "m e"]) -> Float[Tensor, "m 8"]:
        raw = self.layers(torch.cat([self.grid(unit), encoded], dim=-1))
        return torch.cat([(FLOW_SCALE * raw[:, :6]).tanh(), raw[:, 6:].sigmoid()], dim=-1)


class DynamicHash(DynamicField):
    """(x, y, z, t) in NDC and time and view direction -> colour, density, scene flow, disocclusion."""

    box: Tensor

    def __init__(self, config: Config):
        super().__init__()
        self.amp = config.amp
        finest, n_times = config.hash_dynamic_finest, max(2, round(config.n_frames * REACH[3] * config.hash_time))
        layout = make_layout(
            (COARSEST,) * 3 + (min(4, n_times),), (finest,) * 3 + (n_times,), config.hash_levels, config.hash_log2_rows
        )
        self.grid = HashGrid(layout, config.hash_features)
        self.register_buffer("box", 2.0 * torch.tensor(REACH), persistent=False)
        encoded = encoded_size(4, N_FREQS)
        self.heads = _Heads(self.grid.n_outputs + encoded, 1, config)
        self.motion = _Motion(n_times, encoded, config)

    def forward(
        self, points_ndc: Float[Tensor, "n s 3"], time: Float[Tensor, " n"], viewdirs: Float[Tensor, "n 3"]
    ) -> DynamicSamples:
        """All outputs at points; scene flow in NDC units a frame, -1..1."""
        unit, encoded = self._unit_and_encoded(points_ndc, time)
        seen = self._radiance(unit, encoded, viewdirs)
        # Motion stays in full precision: scene flow is small against the 8 bits of bfloat16.
        motion = self.motion(unit, encoded).view(*points_ndc.shape[:2], 8)
        sf_bwd, sf_fwd, prob = motion.split([3, 3, 2], dim=-1)
        prob_bwd, prob_fwd = prob.unbind(-1)
        return DynamicSamples(seen.rgb_raw, seen.sigma_raw, sf_bwd, sf_fwd, prob_bwd, prob_fwd)

    def radiance(
        self, points_ndc: Float[Tensor, "n s 3"], time: Float[Tensor, " n"], viewdirs: Float[Tensor, "n 3"]
    ) -> Radiance:
        return self._radiance(*self._unit_and_encoded(points_ndc, time), viewdirs)

    def _radiance(
        self, unit: Float[Tensor, "m 4"], encoded: Float[Tensor, "m e"], viewdirs: Float[Tensor, "n 3"]
    ) -> Radiance:
        with mixed_precision(unit, self.amp):
            rgb_raw, sigma_raw = self.heads(torch.cat([self.grid(unit), encoded], dim=-1), viewdirs)
        return Radiance(rgb_raw.float(), sigma_raw.float().squeeze(-1))

    def geometry(self, points_ndc: Float[Tensor, "n s 3"], time: Float[Tensor, " n"]) -> Float[Tensor, "n s"]:
        xyzt = _with_time(points_ndc, time)
        features = torch.cat([self.grid(xyzt / self.box + 0.5).T, encode_rows(xyzt.T.contiguous(), N_FREQS)])
        return self.heads.without_colour(features).view(points_ndc.shape[:2])

    def _unit_and_encoded(
        self, points_ndc: Float[Tensor, "n s 3"], time: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, "m 4"], Float[Tensor, "m e"]]:
        """Points in the unit box of the grids, and their encoding."""
        xyzt = _with_time(points_ndc, time)
        return xyzt / self.box + 0.5, encode(xyzt, N_FREQS)


def _with_time(points_ndc: Float[Tensor, "n s 3"], time: Float[Tensor, " n"]) -> Float[Tensor, "m 4"]:
    """Points and the time of their ray, one below the other."""
    return torch.cat([points_ndc, time[:, None, None].expand_as(points_ndc[..., :1])], dim=-1).view(-1, 4)
