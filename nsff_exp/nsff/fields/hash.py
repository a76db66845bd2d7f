"""Hash-grid fields: small networks on features of multi-resolution grids (Mueller et al. 2022, arXiv:2201.05989).

An extension of the paper: same inputs and outputs as the published networks, at a fraction of their cost.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nsff.config import Config
from nsff.fields.encoding import Encoding
from nsff.fields.hash_grid import HashGrid, make_layout
from nsff.fields.interface import DynamicField, DynamicSamples, Radiance, StaticField, StaticSamples
from nsff.geometry.space import Space, space_kind

FRAMES_BEYOND = 2  # frames before the first and after the last one that the time axis holds: warps go that far
COARSEST_CELLS = 16  # cells per axis of the coarsest level, over the whole extent
N_FREQS = 4  # frequencies of the positional encoding that is concatenated with the grid features
# Scene flow has its own grid, coarse in space and fine in time. With features shared with colour and density it
# converged slowly: the median error on moving pixels of Balloon1 was 15 px after 5 minutes on one core, against 6 px
# after 4 minutes with its own grid (one run each). The cause is not known; one candidate is that Adam scales the shared
# features by the larger gradients of colour and density.
MOTION_LEVELS = 4
MOTION_CELLS = (8, 64)  # cells per spatial axis of the coarsest and the finest level
# Scene flow before its bounds is this * raw output, which keeps raw outputs near 1: a pixel of a 480-pixel row is
# 0.004 in NDC.
FLOW_SCALE = 0.1
INITIAL_FLOW_SCALE = 0.1  # the initial weights of the last scene-flow layer are scaled by this


def _spatial_box(space: type[Space]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Scale and offset of `_UnitBox` for the grids of a space."""
    return tuple(0.5 / half for half in space.extent), (0.5,) * 3


def time_axis(n_frames: int, cells_per_frame: float) -> tuple[int, float, float]:
    """Lay out the time axis so that the frames lie on nodes of the grid, whatever their number.

    A frame between two nodes would be the mean of their features, and what differs from frame to frame hard to learn.
    The first node lies `FRAMES_BEYOND` before frame 0, the others follow every 1 / `cells_per_frame` frames: frames lie
    on nodes if that number is whole.

    Args:
        n_frames: length of the sequence.
        cells_per_frame: of the finest level.

    Returns:
        Number of cells, then scale and offset from field time (-1 for frame 0, 2 / n_frames per frame) to 0..1.
    """
    n_cells = max(2, math.ceil((n_frames - 1 + 2 * FRAMES_BEYOND) * cells_per_frame))
    per_frame = cells_per_frame / n_cells
    return n_cells, 0.5 * n_frames * per_frame, (0.5 * n_frames + FRAMES_BEYOND) * per_frame


class _UnitBox(nn.Module):
    """Map coordinates to the unit box of the grids: scale * x + offset per axis."""

    scale: Tensor
    offset: Tensor

    def __init__(self, scale: tuple[float, ...], offset: tuple[float, ...]):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        self.register_buffer("offset", torch.tensor(offset), persistent=False)

    def forward(self, x: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        return torch.addcmul(self.offset, x, self.scale)


class _Heads(nn.Module):
    """Map features to raw colour, which may depend on the view direction, and to other raw outputs, which do not."""

    def __init__(self, n_inputs: int, n_others: int, config: Config, view_dependent: bool):
        super().__init__()
        width, self.view_encoding = config.hash_width, Encoding(3, config.multires_views)
        self.trunk = nn.Sequential(nn.Linear(n_inputs, width), nn.ReLU(inplace=True))
        self.others = nn.Linear(width, n_others)
        self.from_hidden = nn.Linear(width, width)
        self.from_view = nn.Linear(self.view_encoding.size, width, bias=False) if view_dependent else None
        self.rgb = nn.Linear(width, 3)

    def forward(
        self, features: Float[Tensor, "m e"], viewdirs: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, "n s 3"], Float[Tensor, "n s o"]]:
        """Compute raw colours and the other outputs of n rays x s samples from the features of m = n s points."""
        n_rays, hidden = len(viewdirs), self.trunk(features)
        colour = self.from_hidden(hidden)
        if self.from_view is not None:
            from_view = self.from_view(self.view_encoding(viewdirs))
            colour = (colour.view(n_rays, -1, hidden.shape[1]) + from_view[:, None]).flatten(0, 1)
        rgb_raw, others = self.rgb(F.relu(colour)), self.others(hidden)
        return rgb_raw.view(n_rays, -1, 3), others.view(n_rays, -1, others.shape[1])

    def without_colour(self, features: Float[Tensor, "e m"]) -> Float[Tensor, "o m"]:
        """Compute the other outputs only, with one column per point, the order in which the grid kernels write."""
        first, last = self.trunk[0], self.others
        assert isinstance(first, nn.Linear)
        hidden = torch.addmm(first.bias[:, None], first.weight, features).relu_()
        return torch.addmm(last.bias[:, None], last.weight, hidden)


def mixed_precision(like: Tensor, amp: bool) -> torch.autocast:
    """Run matrix products in bfloat16 if `amp` is set and `like` is on a CUDA device."""
    return torch.autocast(like.device.type, torch.bfloat16, enabled=amp and like.is_cuda)


class StaticHash(StaticField):
    """Static field: (x, y, z) and view direction -> colour, density, blend weight."""

    def __init__(self, config: Config):
        super().__init__()
        self.amp, finest = config.amp, config.hash_finest
        layout = make_layout((COARSEST_CELLS,) * 3, (finest,) * 3, config.hash_levels, config.hash_log2_rows)
        self.grid = HashGrid(layout, config.hash_features)
        self.box = _UnitBox(*_spatial_box(space_kind(config.no_ndc)))
        self.encoding = Encoding(3, N_FREQS)
        self.heads = _Heads(self.grid.n_outputs + self.encoding.size, 2, config, view_dependent=True)

    def forward(self, points: Float[Tensor, "n s 3"], viewdirs: Float[Tensor, "n 3"]) -> StaticSamples:
        with mixed_precision(points, self.amp):
            rgb_raw, others = self.heads(self._features(points), viewdirs)
        sigma_raw, blend = others.float().unbind(-1)
        return StaticSamples(rgb_raw.float(), sigma_raw, blend.sigmoid())

    def geometry(self, points: Float[Tensor, "n s 3"]) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n s"]]:
        flat = points.reshape(-1, 3)
        features = torch.cat([self.grid(self.box(flat)).T, self.encoding.columns(flat.T.contiguous())])
        sigma_raw, blend = self.heads.without_colour(features).unflatten(1, points.shape[:2])
        return sigma_raw, blend.sigmoid()

    def _features(self, points: Float[Tensor, "n s 3"]) -> Float[Tensor, "m e"]:
        flat = points.reshape(-1, 3)
        return torch.cat([self.grid(self.box(flat)), self.encoding(flat)], dim=-1)


class _Motion(nn.Module):
    """Predict scene flow and disocclusion, backward and forward, from points in the unit box and their encoding."""

    slope: Tensor

    def __init__(self, n_times: int, n_encoded: int, config: Config):
        super().__init__()
        coarsest, finest = ((cells,) * 3 + (n_times,) for cells in MOTION_CELLS)
        self.grid = HashGrid(make_layout(coarsest, finest, MOTION_LEVELS, config.hash_log2_rows), config.hash_features)
        last = nn.Linear(config.hash_width, 8)
        self.layers = nn.Sequential(
            nn.Linear(self.grid.n_outputs + n_encoded, config.hash_width), nn.ReLU(inplace=True), last
        )
        with torch.no_grad():
            last.weight[:6] *= INITIAL_FLOW_SCALE
            last.bias[:6] = 0.0
        self.space = space_kind(config.no_ndc)
        slope = FLOW_SCALE * torch.tensor(2 * self.space.flow_slope)  # of (x, y, z) backward, then forward
        self.register_buffer("slope", slope, persistent=False)

    def forward(
        self, unit: Float[Tensor, "m 4"], encoded: Float[Tensor, "m e"], points: Float[Tensor, "m 3"]
    ) -> tuple[Float[Tensor, "m 2 3"], Float[Tensor, "m 2"]]:
        """Compute scene flow and disocclusion probability, each backward and forward."""
        raw = self.layers(torch.cat([self.grid(unit), encoded], dim=-1))
        flow, prob = raw.split([6, 2], dim=-1)
        return self.space.bounded_flow(points, (self.slope * flow).tanh().view(-1, 2, 3)), prob.sigmoid()


class DynamicHash(DynamicField):
    """Dynamic field: (x, y, z) and time -> colour, density, scene flow, disocclusion.

    Note:
        Colour does not depend on the view direction, unlike in the published field: one video shows each time from one
        direction only, so that a new view would ask for directions that were never seen at that time.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.amp = config.amp
        finest, (n_times, scale, offset) = config.hash_dynamic_finest, time_axis(config.n_frames, config.hash_time)
        layout = make_layout(
            (COARSEST_CELLS,) * 3 + (min(4, n_times),),
            (finest,) * 3 + (n_times,),
            config.hash_levels,
            config.hash_log2_rows,
        )
        self.grid = HashGrid(layout, config.hash_features)
        box = _spatial_box(space_kind(config.no_ndc))
        self.box = _UnitBox((*box[0], scale), (*box[1], offset))
        self.encoding = Encoding(4, N_FREQS)
        self.heads = _Heads(self.grid.n_outputs + self.encoding.size, 1, config, view_dependent=False)
        self.motion = _Motion(n_times, self.encoding.size, config)

    def forward(
        self, points: Float[Tensor, "n s 3"], time: Float[Tensor, " n"], viewdirs: Float[Tensor, "n 3"]
    ) -> DynamicSamples:
        """Compute all outputs; scene flow is in units of the space per frame, -1..1.

        Note:
            Unlike in the published field, no point is warped to infinity or beyond: see `Space.bounded_flow`.
        """
        unit, encoded = self._unit_and_encoded(points, time)
        radiance = self._radiance(unit, encoded, viewdirs)
        # Motion stays in float32: the 8-bit mantissa of bfloat16 is too coarse for scene flow.
        motion = self.motion(unit, encoded, points.reshape(-1, 3))
        (sf_bwd, sf_fwd), (prob_bwd, prob_fwd) = (
            part.view(*points.shape[:2], *part.shape[1:]).unbind(2) for part in motion
        )
        return DynamicSamples(radiance.rgb_raw, radiance.sigma_raw, sf_bwd, sf_fwd, prob_bwd, prob_fwd)

    def radiance(
        self, points: Float[Tensor, "n s 3"], time: Float[Tensor, " n"], viewdirs: Float[Tensor, "n 3"]
    ) -> Radiance:
        return self._radiance(*self._unit_and_encoded(points, time), viewdirs)

    def _radiance(
        self, unit: Float[Tensor, "m 4"], encoded: Float[Tensor, "m e"], viewdirs: Float[Tensor, "n 3"]
    ) -> Radiance:
        with mixed_precision(unit, self.amp):
            rgb_raw, sigma_raw = self.heads(torch.cat([self.grid(unit), encoded], dim=-1), viewdirs)
        return Radiance(rgb_raw.float(), sigma_raw.float().squeeze(-1))

    def geometry(self, points: Float[Tensor, "n s 3"], time: Float[Tensor, " n"]) -> Float[Tensor, "n s"]:
        xyzt = _with_time(points, time)
        features = torch.cat([self.grid(self.box(xyzt)).T, self.encoding.columns(xyzt.T.contiguous())])
        return self.heads.without_colour(features).view(points.shape[:2])

    def _unit_and_encoded(
        self, points: Float[Tensor, "n s 3"], time: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, "m 4"], Float[Tensor, "m e"]]:
        """Compute the position in the unit box of the grids, and the positional encoding, of every sample."""
        xyzt = _with_time(points, time)
        return self.box(xyzt), self.encoding(xyzt)


def _with_time(points: Float[Tensor, "n s 3"], time: Float[Tensor, " n"]) -> Float[Tensor, "m 4"]:
    """Append the time of its ray to each point and flatten rays and samples (m = n s)."""
    return torch.cat([points, time[:, None, None].expand_as(points[..., :1])], dim=-1).view(-1, 4)
