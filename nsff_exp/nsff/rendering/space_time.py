"""Frames at times between two frames: both neighbours move along their scene flow and are splatted plane by plane.

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
from nsff.rendering.ray_sampling import CoarseSamples, blur_weights
from nsff.rendering.splatting import splat
from nsff.rendering.volume_rendering import MIN_TRANSPARENCY, intervals, opacity

MIN_TRANSMITTANCE = 1e-4  # stop compositing a pixel once it and its surroundings are below this
MAX_SPLAT_DISTANCE = (
    0.05  # of the width; samples that move farther may be dropped if their source pixel is already opaque
)
PLANES_PER_BIN = 4  # planes in each depth bin of the coarse pass
MIN_WEIGHT = 4e-3  # planes of a bin are evaluated only where its coarse weight exceeds this


@dataclasses.dataclass(frozen=True)
class PlaneSampling:
    """Number of depth planes per frame, evenly spaced in disparity from the near plane to infinity.

    With `n_coarse` > 0, densities are first evaluated at `n_coarse` depths per ray, and a ray gets samples only on the
    planes around those with weight; with 0 it gets samples on all planes, as published. Fully occluded pixels are
    skipped in both modes.
    """

    n_planes: int
    n_coarse: int

    @staticmethod
    def of(config: Config) -> "PlaneSampling":
        """Take the numbers that the options give for the kind of field."""
        if config.importance:
            return PlaneSampling(PLANES_PER_BIN * config.hash_coarse_samples, config.hash_coarse_samples)
        return PlaneSampling(config.N_samples, 0)


@dataclasses.dataclass(frozen=True)
class SourceFrame:
    """A frame of the sequence from which an interpolated one is rendered."""

    time: float  # -1..1
    distance: float  # to the interpolated timestamp, in frames; the fraction of scene flow that its samples move
    weight: float  # in the blend over source frames
    direction: FlowDirection  # of the scene flow towards the timestamp


def source_frames(timeline: Timeline, timestamp: float) -> list[SourceFrame]:
    """Choose the two frames around a timestamp, or the one at it."""
    first, fraction = timeline.split(timestamp)
    if not fraction:
        return [SourceFrame(timeline.time_of(first), 0.0, 1.0, timeline.supervised_flow(first))]
    before = SourceFrame(timeline.time_of(first), fraction, 1.0 - fraction, "forward")
    return [before, SourceFrame(timeline.time_of(first + 1), 1.0 - fraction, fraction, "backward")]


@torch.no_grad()
def render_space_time(
    fields: Fields,
    camera: Camera,
    timeline: Timeline,
    timestamp: float,
    sampling: PlaneSampling,
    points_per_chunk: int,
    with_flow: bool = False,
) -> FrameRender:
    """Render a camera's frame at a time between two frames of the sequence.

    The dynamic field is evaluated on the rays of this camera at both frames. Plane by plane, its samples move along
    their scene flow by the distance in time to the timestamp, and are splatted to their new pixels.
    The static field does not move.

    Args:
        fields: static and dynamic.
        camera: of the rendered frame.
        timeline: of the sequence.
        timestamp: in frames, 0 .. n_frames - 1, fractions included.
        sampling: number of planes, and of coarse samples that select among them.
        points_per_chunk: points given to a field at once; memory holds the images of at least one plane besides.
        with_flow: render scene flow to the next frame as well.
    """
    rays, sources = camera.rays(), source_frames(timeline, timestamp)
    evaluator = PlaneEvaluator(fields, camera, rays, sources, points_per_chunk, with_flow)
    depths = torch.linspace(0.0, 1.0, sampling.n_planes, device=camera.c2w.device)[None]
    occupied = evaluator.find_occupied_bins(sampling.n_coarse) if sampling.n_coarse else None
    group = PLANES_PER_BIN if sampling.n_coarse else max(1, points_per_chunk // len(rays))
    compositor = _PlaneCompositor(camera, with_flow)
    for index, start in enumerate(range(0, sampling.n_planes, group)):
        visible = compositor.find_visible_pixels()
        if not visible.any():
            break
        active = visible.expand(1 + len(sources), -1) if occupied is None else occupied[:, index] & visible
        if active.any():
            compositor.add(evaluator.evaluate(depths[:, start : start + group + 1], group, active))
    return compositor.frame()


@dataclasses.dataclass(frozen=True)
class PlaneImages:
    """Images of s consecutive depth planes, n pixels each; channels are colour (3), opacity (1) and flow (2 or 0).

    Opacities are scaled by the blend weight. Dynamic images are moved to the timestamp; those of a source frame
    without any active ray are left out.
    """

    depths: Float[Tensor, " s"]
    static: Float[Tensor, "s 4 n"]
    dynamic: list[tuple[SourceFrame, Float[Tensor, "s c n"]]]


@dataclasses.dataclass(frozen=True)
class PlaneEvaluator:
    """Evaluates the fields on depth planes of one camera, for one timestamp."""

    fields: Fields
    camera: Camera
    rays: RayBundle  # through all pixels
    sources: list[SourceFrame]
    points_per_chunk: int
    with_flow: bool

    def find_occupied_bins(self, n_bins: int) -> Bool[Tensor, "k m n"]:
        """Find the depth bins of each pixel that hold density, by a coarse pass over both fields.

        The pass evaluates every second pixel, in a chequerboard, and its result is dilated by a pixel: for the pixels
        in between, and because pixels beside a moving silhouette contribute to those that it is splatted to.

        Returns:
            Masks of k = 1 + source frames: of both fields, then of the dynamic field at each source frame.
        """
        evaluated = every_second_pixel(self.camera)
        occupied = evaluated.new_zeros(1 + len(self.sources), n_bins, len(self.rays), dtype=torch.bool)
        for rows in evaluated.split(max(1, self.points_per_chunk // n_bins)):
            samples = CoarseSamples.along(self.rays[rows], n_bins)
            sigma_static, blend_w = self.fields.static.geometry(samples.points)
            weights = torch.zeros_like(sigma_static)
            for k, source in enumerate(self.sources):
                times = samples.points.new_full((len(rows),), source.time)
                sigma_dynamic = self.fields.dynamic.geometry(samples.points, times)
                static, dynamic = samples.weights(sigma_static, blend_w, sigma_dynamic, opaque_end=True)
                weights = torch.maximum(weights, static + dynamic)
                occupied[1 + k][:, rows] = (blur_weights(dynamic) > MIN_WEIGHT).T
            occupied[0][:, rows] = (blur_weights(weights) > MIN_WEIGHT).T
        for index in range(n_bins):  # one bin at a time: the float images of all would take gigabytes
            occupied[:, index] = dilate(occupied[:, index], self.camera)
        return occupied

    def evaluate(self, depths: Float[Tensor, "1 t"], n_planes: int, active: Bool[Tensor, "k n"]) -> PlaneImages:
        """Evaluate the fields on consecutive planes and move the dynamic samples to the timestamp.

        Args:
            depths: s of the planes along the rays (0..1), and of the one behind them unless they are the last.
            n_planes: number of the planes, at most.
            active: rays that get samples: of any field, then of the dynamic field at each source frame.
        """
        rows = active.any(0).nonzero()[:, 0]
        static_parts: list[Tensor] = []
        dynamic_parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.sources]
        planes = depths[:, :n_planes]
        for chunk in rows.split(max(1, self.points_per_chunk // planes.shape[1])):
            rays = self.rays[chunk]
            points = rays.points(planes.expand(len(chunk), -1))
            deltas = intervals(rays, depths.expand(len(chunk), -1))[:, :n_planes]
            static = self.fields.static(points, rays.viewdirs)
            alpha = opacity(static.sigma_raw, deltas) * (1.0 - static.blend_w)
            static_parts.append(torch.cat([static.rgb_raw.sigmoid(), alpha[..., None]], dim=-1))
            for source, parts, mask in zip(self.sources, dynamic_parts, active[1:, chunk], strict=True):
                if mask.any():
                    viewdirs, blend_w = rays.viewdirs[mask], static.blend_w[mask]
                    parts.append(self._dynamic_samples(source, points[mask], viewdirs, deltas[mask], blend_w))
        dynamic = []
        for source, parts, mask in zip(self.sources, dynamic_parts, active[1:, rows], strict=True):
            if parts:
                values, displacements = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
                dynamic.append((source, self._move(source, values, displacements, rows[mask])))
        return PlaneImages(planes[0], _to_images(torch.cat(static_parts), rows, self.camera.n_pixels), dynamic)

    def _dynamic_samples(
        self,
        source: SourceFrame,
        points: Float[Tensor, "m s 3"],
        viewdirs: Float[Tensor, "m 3"],
        deltas: Float[Tensor, "m s"],
        blend_w: Float[Tensor, "m s"],
    ) -> tuple[Float[Tensor, "m s c"], Float[Tensor, "m s 2"]]:
        """Evaluate the dynamic field at a source frame: (channels of `PlaneImages`, displacement in pixels)."""
        times = points.new_full((len(points),), source.time)
        samples = self.fields.dynamic(points, times, viewdirs)
        alpha = opacity(samples.sigma_raw, deltas) * blend_w
        channels = [samples.rgb_raw.sigmoid(), alpha[..., None]]
        if self.with_flow:
            channels.append(flow_to_next(self.camera, points, samples, source.direction))
        scene_flow = samples.sf_fwd if source.direction == "forward" else samples.sf_bwd
        return torch.cat(channels, dim=-1), self.camera.pixel_displacement(points, scene_flow, source.distance)

    def _move(
        self,
        source: SourceFrame,
        values: Float[Tensor, "m s c"],
        displacements: Float[Tensor, "m s 2"],
        rows: Int[Tensor, " m"],
    ) -> Float[Tensor, "s c n"]:
        """Splat the samples of some rays by their displacements; pixels without a sample have no weight."""
        n_pixels = self.camera.n_pixels
        images = _to_images(values, rows, n_pixels)
        if not source.distance:
            return images
        flow, sampled = _to_images(displacements, rows, n_pixels), images.new_zeros(len(images), 1, n_pixels)
        sampled[..., rows] = 1.0
        size = (self.camera.intrinsics.height, self.camera.intrinsics.width)
        images, flow, sampled = (part.unflatten(2, size) for part in (images, flow, sampled))
        return splat(images, flow, "linear", sampled).flatten(2)


def every_second_pixel(camera: Camera) -> Int[Tensor, " m"]:
    """Flat (row-major) indices of the pixels of one colour of a chequerboard."""
    pixels, width = torch.arange(camera.n_pixels, device=camera.c2w.device), camera.intrinsics.width
    return pixels[(pixels // width + pixels % width) % 2 == 0]


def dilate(masks: Bool[Tensor, "k n"], camera: Camera, radius: int = 1) -> Bool[Tensor, "k n"]:
    """Dilate masks of all pixels of a camera by a square."""
    images = masks.view(-1, 1, camera.intrinsics.height, camera.intrinsics.width).float()
    rows = F.max_pool2d(images, (1, 2 * radius + 1), stride=1, padding=(0, radius))
    return F.max_pool2d(rows, (2 * radius + 1, 1), stride=1, padding=(radius, 0)).flatten(1) > 0.0


def _to_images(values: Float[Tensor, "m s c"], rows: Int[Tensor, " m"], n_pixels: int) -> Float[Tensor, "s c n"]:
    """Put the values of some rays into one image per plane; 0 at the other pixels."""
    images = values.new_zeros(*values.shape[1:], n_pixels)
    images[..., rows] = values.permute(1, 2, 0)
    return images


class _PlaneCompositor:
    """Composites depth planes into a frame, front to back."""

    def __init__(self, camera: Camera, with_flow: bool):
        self.camera, self.size = camera, (camera.intrinsics.height, camera.intrinsics.width)
        self.transmittance = torch.ones(camera.n_pixels, device=camera.c2w.device)  # behind the planes so far
        self.static_rgb = self.transmittance.new_zeros(3, camera.n_pixels)
        self.depth = self.transmittance.new_zeros(camera.n_pixels)
        self.dynamic = self.transmittance.new_zeros(6 if with_flow else 4, camera.n_pixels)  # colour, weight, flow

    def find_visible_pixels(self) -> Bool[Tensor, " n"]:
        """Find the pixels that are not opaque yet, or whose samples may be splatted to one that is not."""
        radius = max(1, round(MAX_SPLAT_DISTANCE * self.size[1]))
        return dilate(self.transmittance[None] > MIN_TRANSMITTANCE, self.camera, radius)[0]

    def add(self, planes: PlaneImages) -> None:
        """Composite the next planes: the static field, and the weighted mean of the dynamic field's source frames."""
        alpha_static = planes.static[:, 3]
        dynamic = planes.static.new_zeros(len(planes.static), len(self.dynamic), planes.static.shape[2])
        alpha_dynamic = torch.zeros_like(alpha_static)
        for source, image in planes.dynamic:
            alpha = source.weight * image[:, 3]
            dynamic += alpha[:, None] * image
            alpha_dynamic += alpha
        dynamic[:, 3] = alpha_dynamic
        transparency = 1.0 - alpha_static - alpha_dynamic * (1.0 - alpha_static) + MIN_TRANSPARENCY
        before = torch.cat([torch.ones_like(transparency[:1]), transparency[:-1]])
        transmittance = self.transmittance * torch.cumprod(before, dim=0)
        self.transmittance = transmittance[-1] * transparency[-1]
        weight_static = transmittance * alpha_static
        self.dynamic += (transmittance[:, None] * dynamic).sum(0)
        self.static_rgb += (weight_static[:, None] * planes.static[:, :3]).sum(0)
        self.depth += ((weight_static + transmittance * alpha_dynamic) * planes.depths[:, None]).sum(0)

    def frame(self) -> FrameRender:
        """Return the planes composited so far."""
        rgb, dynamic = (self.static_rgb + self.dynamic[:3]).T.contiguous(), self.dynamic.unflatten(1, self.size)
        return FrameRender(
            rgb.view(*self.size, 3),
            self.depth.view(self.size),
            dynamic[3],
            dynamic[:3].permute(1, 2, 0),
            dynamic[4:].permute(1, 2, 0) if len(dynamic) > 4 else None,
        )
