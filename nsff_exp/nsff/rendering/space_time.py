"""Frames at times between two frames: both neighbours, moved along their scene flow, splatted plane by plane.

Paper, section 3.4 and figure 6.
"""

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nsff.config import Config
from nsff.data.timeline import FlowDirection, Timeline
from nsff.fields import Fields
from nsff.geometry.rays import Camera, RayBundle
from nsff.rendering.frame_render import FrameRender, flow_to_next
from nsff.rendering.ray_sampling import blur_weights, stratified_depths
from nsff.rendering.splatting import splat
from nsff.rendering.volume_rendering import MIN_CLEARNESS, blended_weights, intervals, opacity

MIN_TRANSMITTANCE = 1e-4  # share of the light: what is behind so much else is not looked for
REACH = 0.05  # of the width, that a sample may be splatted away, and still be looked for where it comes from
PLANES_A_SPAN = 4
MIN_WEIGHT = 4e-3  # share of the light in a span of the first look, from which its planes are worth it


@dataclasses.dataclass(frozen=True)
class PlaneSampling:
    """How many planes a frame has, evenly from the near plane of NDC to infinity.

    With `n_coarse` > 0 the fields are first looked at, without colour, at so many depths a ray, and a ray has samples
    only on the planes around those where that found light; else on all of them, as published. What no light reaches,
    on the ray or near it, has none in any case.
    """

    n_planes: int
    n_coarse: int

    @staticmethod
    def of(config: Config) -> "PlaneSampling":
        if config.importance:
            return PlaneSampling(PLANES_A_SPAN * config.hash_coarse_samples, config.hash_coarse_samples)
        return PlaneSampling(config.N_samples, 0)


@dataclasses.dataclass(frozen=True)
class _Moment:
    """One of the two frames: how far it moves, in frames of its own scene flow, and its weight."""

    time: float
    share: float  # not negative
    weight: float
    direction: FlowDirection


def _moments(timeline: Timeline, frame: float) -> list[_Moment]:
    """The frames that a moment is made of: two, or the one that it is."""
    first, share = timeline.split(frame)
    if not share:
        return [_Moment(timeline.time_of(first), 0.0, 1.0, timeline.known_flow(first))]
    before = _Moment(timeline.time_of(first), share, 1.0 - share, "forward")
    return [before, _Moment(timeline.time_of(first + 1), 1.0 - share, share, "backward")]


@torch.no_grad()
def render_space_time(
    fields: Fields,
    camera: Camera,
    timeline: Timeline,
    frame: float,
    sampling: PlaneSampling,
    points_at_once: int,
    with_flow: bool = False,
) -> FrameRender:
    """The view of a camera at a moment between two frames.

    The dynamic field is evaluated on the rays of this camera at both frames; its samples, plane by plane, move as far
    along their scene flow as the moment is away, and are splatted where they arrive. The static field does not move.

    Args:
        fields: static and dynamic.
        camera: what the frame is seen with.
        timeline: of the sequence.
        frame: 0 .. n_frames - 1, and anything between.
        sampling: planes, and where they have samples.
        points_at_once: most points given to a field; images of at least one plane are in memory.
        with_flow: render scene flow too.
    """
    rays, moments = camera.rays(), _moments(timeline, frame)
    depths = torch.linspace(0.0, 1.0, sampling.n_planes, device=camera.c2w.device)[None]
    steps = intervals(depths, depths.new_tensor([[0.0, 0.0, 1.0]]))
    lit = _lit_spans(fields, rays, moments, camera, sampling.n_coarse, points_at_once) if sampling.n_coarse else None
    at_once = PLANES_A_SPAN if sampling.n_coarse else max(1, points_at_once // len(rays))
    canvas = _PlaneCompositor(camera, with_flow)
    for span, planes in enumerate(zip(depths.split(at_once, dim=1), steps.split(at_once, dim=1), strict=True)):
        in_sight = canvas.in_sight()
        if not in_sight.any():
            break
        wanted = in_sight.expand(1 + len(moments), -1) if lit is None else lit[:, span] & in_sight
        if wanted.any():
            images = _evaluate(fields, camera, rays, planes, moments, wanted, points_at_once, with_flow)
            canvas.add(planes[0][0], *images)
    return canvas.picture()


def _lit_spans(
    fields: Fields, rays: RayBundle, moments: list[_Moment], camera: Camera, n_spans: int, points_at_once: int
) -> Bool[Tensor, "k m n"]:
    """The spans of depth in which a first look finds light: of both fields, and of the dynamic one at each time.

    It looks at every second pixel, like the black squares of a chessboard. A pixel takes what its neighbours found as
    well: for the others, and because the rim of what moves has a share in what arrives there.
    """
    height, width = camera.intrinsics.height, camera.intrinsics.width
    found = torch.zeros(1 + len(moments), n_spans, len(rays), dtype=torch.bool, device=rays.origins_ndc.device)
    pixels = torch.arange(len(rays), device=found.device)
    black = pixels[(pixels // width + pixels % width) % 2 == 0]
    for rows in black.split(max(1, points_at_once // n_spans)):
        some = rays[rows]
        points_ndc = some.points_ndc(stratified_depths(len(rows), n_spans, 0.0, None, found.device))
        deltas = (some.directions_ndc.norm(dim=-1, keepdim=True) / n_spans).expand(-1, n_spans)
        static, blend_w = fields.static.geometry(points_ndc)
        light = torch.zeros_like(static)
        for k, moment in enumerate(moments):
            dynamic = fields.dynamic.geometry(points_ndc, points_ndc.new_full((len(rows),), moment.time))
            of_static, of_dynamic = blended_weights(static, blend_w, dynamic, deltas)
            left = 1.0 - (of_static + of_dynamic).sum(-1)  # the last plane takes it, of whichever field that is
            of_static[:, -1] += left
            of_dynamic[:, -1] += left
            light = torch.maximum(light, of_static + of_dynamic)
            found[1 + k][:, rows] = (blur_weights(of_dynamic) > MIN_WEIGHT).T
        found[0][:, rows] = (blur_weights(light) > MIN_WEIGHT).T
    for span in range(n_spans):  # one by one: as numbers, all would take gigabytes
        images = found[:, span].view(-1, 1, height, width).float()
        found[:, span] = F.max_pool2d(images, 3, stride=1, padding=1).flatten(1) > 0.0
    return found


def _evaluate(
    fields: Fields,
    camera: Camera,
    rays: RayBundle,
    planes: tuple[Float[Tensor, "1 s"], Float[Tensor, "1 s"]],
    moments: list[_Moment],
    wanted: Bool[Tensor, "k n"],
    points_at_once: int,
    with_flow: bool,
) -> tuple[Float[Tensor, "s 4 n"], list[tuple[_Moment, Float[Tensor, "s c n"]]]]:
    """Images of some planes: of the static field, and of the dynamic one at each time, moved to the moment wanted.

    Args:
        fields: static and dynamic.
        camera: what the frame is seen with.
        rays: of all its pixels.
        planes: depths, and steps to the next.
        moments: the times.
        wanted: rays that get samples: of any field, and of the dynamic field at each time.
        points_at_once: most points in memory.
        with_flow: give the motion until the next frame.

    Returns:
        Channels: colour, opacity, motion. A time at which nothing is wanted is left out.
    """
    rows, (depths, steps) = wanted.any(0).nonzero()[:, 0], planes
    still: list[Tensor] = []
    moving: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in moments]
    for some in rows.split(max(1, points_at_once // depths.shape[1])):
        these = rays[some]
        points_ndc, viewdirs = these.points_ndc(depths.expand(len(some), -1)), these.viewdirs
        deltas = steps * these.directions_ndc.norm(dim=-1, keepdim=True)
        static = fields.static(points_ndc, viewdirs)
        alpha = opacity(static.sigma_raw, deltas) * (1.0 - static.blend_w)
        still.append(torch.cat([static.rgb_raw.sigmoid(), alpha[..., None]], dim=-1))
        for moment, (values, shifts), chosen in zip(moments, moving, wanted[1:, some], strict=True):
            if not chosen.any():
                continue
            points, times = points_ndc[chosen], points_ndc.new_full((int(chosen.sum()),), moment.time)
            samples = fields.dynamic(points, times, viewdirs[chosen])
            alpha = opacity(samples.sigma_raw, deltas[chosen]) * static.blend_w[chosen]
            channels = [samples.rgb_raw.sigmoid(), alpha[..., None]]
            if with_flow:
                channels.append(flow_to_next(camera, points, samples, moment.direction))
            values.append(torch.cat(channels, dim=-1))
            flow = samples.sf_fwd if moment.direction == "forward" else samples.sf_bwd
            shifts.append(camera.motion(points, flow, moment.share))
    movers = []
    for moment, (values, shifts), chosen in zip(moments, moving, wanted[1:, rows], strict=True):
        if chosen.any():
            image = _moved(torch.cat(values), torch.cat(shifts), rows[chosen], camera, splatted=moment.share > 0.0)
            movers.append((moment, image))
    return _image(torch.cat(still), rows, camera.n_pixels), movers


def _image(values: Float[Tensor, "m s c"], rows: Int[Tensor, " m"], n_pixels: int) -> Float[Tensor, "s c n"]:
    """Values of some rays as images of all, one a plane; 0 elsewhere."""
    image = values.new_zeros(*values.shape[1:], n_pixels)
    image[..., rows] = values.permute(1, 2, 0)
    return image


def _moved(
    values: Float[Tensor, "m s c"],
    shifts: Float[Tensor, "m s 2"],
    rows: Int[Tensor, " m"],
    camera: Camera,
    splatted: bool,
) -> Float[Tensor, "s c n"]:
    """Values of some rays as images, splatted where the shifts lead; what is no sample takes no part."""
    image = _image(values, rows, camera.n_pixels)
    if not splatted:
        return image
    size = (camera.intrinsics.height, camera.intrinsics.width)
    flow, sampled = _image(shifts, rows, camera.n_pixels), image.new_zeros(image.shape[0], 1, camera.n_pixels)
    sampled[..., rows] = 1.0
    image, flow, sampled = (part.unflatten(2, size) for part in (image, flow, sampled))
    return splat(image, flow, "linear", sampled).flatten(2)


class _PlaneCompositor:
    """A frame that planes are composited on, front to back."""

    def __init__(self, camera: Camera, with_flow: bool):
        self.size = (camera.intrinsics.height, camera.intrinsics.width)
        self.clear = torch.ones(camera.n_pixels, device=camera.c2w.device)  # light that is left
        self.rgb = self.clear.new_zeros(3, camera.n_pixels)
        self.depth = self.clear.new_zeros(camera.n_pixels)
        self.moving = self.clear.new_zeros(6 if with_flow else 4, camera.n_pixels)  # colour, weight, motion

    def in_sight(self) -> Bool[Tensor, " n"]:
        """The pixels on which, or near which, light is left."""
        image, reach = self.clear.view(1, 1, *self.size), max(1, round(REACH * self.size[1]))
        rows = F.max_pool2d(image, (1, 2 * reach + 1), stride=1, padding=(0, reach))
        return F.max_pool2d(rows, (2 * reach + 1, 1), stride=1, padding=(reach, 0)).flatten() > MIN_TRANSMITTANCE

    def add(
        self,
        depths: Float[Tensor, " s"],
        still: Float[Tensor, "s 4 n"],
        movers: list[tuple[_Moment, Float[Tensor, "s c n"]]],
    ) -> None:
        """The next planes: the static field, and the dynamic one as the mean of its times by their weights."""
        alpha_static = still[:, 3]
        moving = still.new_zeros(len(still), len(self.moving), still.shape[2])
        alpha_moving = torch.zeros_like(alpha_static)
        for moment, image in movers:
            alpha = moment.weight * image[:, 3]
            moving += alpha[:, None] * image
            alpha_moving += alpha
        moving[:, 3] = alpha_moving
        passing = 1.0 - alpha_static - alpha_moving * (1.0 - alpha_static) + MIN_CLEARNESS
        through = self.clear * torch.cumprod(torch.cat([torch.ones_like(passing[:1]), passing[:-1]]), dim=0)
        self.clear = through[-1] * passing[-1]
        self.moving += torch.einsum("sn,scn->cn", through, moving)
        self.rgb += torch.einsum("sn,scn->cn", through * alpha_static, still[:, :3])
        self.depth += torch.einsum("sn,s->n", through * (alpha_static + alpha_moving), depths)

    def picture(self) -> FrameRender:
        """What has been composited so far."""
        rgb, moving = (self.rgb + self.moving[:3]).T.contiguous(), self.moving.unflatten(1, self.size)
        return FrameRender(
            rgb.view(*self.size, 3),
            self.depth.view(self.size),
            moving[3],
            moving[:3].permute(1, 2, 0),
            moving[4:].permute(1, 2, 0) if len(moving) > 4 else None,
        )
