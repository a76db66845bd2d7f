"""Bake the fields into layers: images of colour and opacity on planes of equal depth, seen from a reference camera.

Depth along a ray in NDC is the same plane of the scene for every camera: any of them can composite the layers by one
homography each. A multiplane image (Zhou et al. 2018, arXiv:1805.09817), static once and dynamic for each time.
"""

import dataclasses
import functools
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Float16, Int
from torch import Tensor

from nsff.data.timeline import Timeline
from nsff.fields import Fields
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import Camera, RayBundle
from nsff.rendering.ray_sampling import CoarseSamples, blur_weights
from nsff.rendering.space_time import (
    PlaneEvaluator,
    PlaneImages,
    SourceFrame,
    dilate,
    every_second_pixel,
    source_frames,
)
from nsff.rendering.volume_rendering import opacity

SUBPLANES = 6  # depth planes that are composited into a layer; with 4, 3 dB less, with 8 hardly more
MIN_OPACITY = 4e-3  # of a coarse sample, from which on its layer is evaluated
MIN_TRANSMITTANCE = 4e-3  # layers are left out where no camera within reach sees more of them
# A bin of depth in which fewer rays than this fraction meet this opacity counts as empty.
START_BINS, START_OPACITY, START_FRACTION = 64, 0.2, 0.003

Layers = Float16[Tensor, "l 4 n"]  # front to back; colour times opacity, and opacity, 0..1


@dataclasses.dataclass(frozen=True)
class LayerFrustum:
    """Place of the layers.

    Attributes:
        camera: the reference camera, its image widened by the margin.
        size: the reference camera's own image.
        n_layers: from `start` to infinity.
        reach: distance from the reference camera within which others may look at the layers, scene units.
    """

    camera: Camera
    size: Intrinsics
    n_layers: int
    reach: float
    start: float = 0.0  # NDC depth (0..1) before which there is nothing

    @staticmethod
    def around(camera: Camera, n_layers: int, margin: float, reach: float) -> "LayerFrustum":
        """Widen the image of a camera by a margin on each side, a fraction of its width."""
        size = camera.intrinsics
        more = round(margin * size.width)
        wide = Intrinsics(size.height + 2 * more, size.width + 2 * more, size.focal)
        return LayerFrustum(dataclasses.replace(camera, intrinsics=wide), size, n_layers, reach)

    @property
    def planes(self) -> Float[Tensor, "l k"]:
        """Depths of the planes of each layer along NDC rays, 0 (near plane) to 1 (infinity)."""
        depths = torch.linspace(self.start, 1.0, SUBPLANES * self.n_layers, device=self.camera.c2w.device)
        return depths.view(self.n_layers, SUBPLANES)

    @property
    def depths(self) -> Float[Tensor, " l"]:
        """Depth of each layer: the mean of its planes."""
        return self.planes.mean(1)

    def coarse_samples(self, rays: RayBundle) -> CoarseSamples:
        """One sample in the middle of each layer."""
        edges = torch.linspace(self.start, 1.0, self.n_layers + 1, device=self.camera.c2w.device)
        middles = 0.5 * (edges[1:] + edges[:-1])
        return CoarseSamples(rays.points(middles.expand(len(rays), -1)), rays.lengths(edges.expand(len(rays), -1)))

    def shift(self, layer: int) -> int:
        """Pixels by which a camera within reach sees a layer shifted against what stands on the near plane before it.

        Disparity at NDC depth s is 1 - s, in units of the inverse near plane.
        """
        return round(self.size.focal * self.reach * float(self.depths[layer])) + 1


@torch.no_grad()
def nearest_depth(fields: Fields, camera: Camera, times: list[float]) -> float:
    """NDC depth (0..1) before which almost no ray of a camera meets anything, by every fourth row and column.

    Args:
        fields: static and dynamic.
        camera: the reference camera.
        times: of the dynamic field, -1..1.
    """
    rays = dataclasses.replace(camera, intrinsics=camera.intrinsics.divided_by(4)).rays()
    samples = CoarseSamples.along(rays, START_BINS)
    sigma, blend_w = fields.static.geometry(samples.points)
    largest = opacity(sigma, samples.deltas) * (1.0 - blend_w)
    for time in times:
        sigma = fields.dynamic.geometry(samples.points, blend_w.new_full((len(rays),), time))
        largest = torch.maximum(largest, opacity(sigma, samples.deltas) * blend_w)
    filled = (largest > START_OPACITY).float().mean(0) > START_FRACTION
    first = int(torch.argmax(filled.to(torch.uint8))) if bool(filled.any()) else 0
    return max(0, first - 1) / START_BINS


class LayerBaker:
    """Bakes the layers of a scene."""

    def __init__(self, fields: Fields, frustum: LayerFrustum, timeline: Timeline, points_per_chunk: int):
        """Prepare to bake.

        Args:
            fields: static and dynamic.
            frustum: where the layers are.
            timeline: of the sequence.
            points_per_chunk: points given to a field at once.
        """
        self.fields, self.frustum, self.timeline, self.points_per_chunk = fields, frustum, timeline, points_per_chunk
        self.rays = frustum.camera.rays()

    @torch.no_grad()
    def static(self) -> Layers:
        """Bake the static field; its opacities are scaled by 1 - b, with b the blend weight."""

        def coarse(samples: CoarseSamples, _: Tensor) -> Tensor:
            sigma, blend_w = self.fields.static.geometry(samples.points)
            return _opaque_end(opacity(sigma, samples.deltas)) * (1.0 - blend_w)

        occupied = self._occupied(every_second_pixel(self.frustum.camera), coarse)
        return self._bake([], occupied, lambda planes: composite_planes(planes.static), None)

    @torch.no_grad()
    def dynamic(self, timestamp: float, static: Layers) -> Layers:
        """Bake the dynamic field at a time, to be laid over the static one; its opacities are scaled by b.

        Between frames its samples are splatted.

        Args:
            timestamp: in frames, fractions included.
            static: layers of the static field, which hide what is behind them.
        """
        sources, (blended, blend_w) = source_frames(self.timeline, timestamp), self._blend_weights

        def coarse(samples: CoarseSamples, part: Tensor) -> Tensor:
            times = [samples.deltas.new_full((len(part),), source.time) for source in sources]
            sigma = torch.stack([self.fields.dynamic.geometry(samples.points, time) for time in times])
            return _opaque_end(opacity(sigma.amax(0), samples.deltas)) * blend_w[part]

        return self._bake(sources, self._occupied(blended, coarse), composite_dynamic, static)

    @functools.cached_property
    def _blend_weights(self) -> tuple[Int[Tensor, " m"], Float16[Tensor, "m l"]]:
        """Pixels, of every second one, on whose rays the dynamic field has a share, and its share in each layer."""
        pixels, found, weights = every_second_pixel(self.frustum.camera), [], []
        for rows in pixels.split(max(1, self.points_per_chunk // self.frustum.n_layers)):
            samples = self.frustum.coarse_samples(self.rays[rows])
            blend_w = self.fields.static.geometry(samples.points)[1]
            some = (blend_w > MIN_OPACITY).any(1)
            found.append(rows[some])
            weights.append(blend_w[some].half())
        return torch.cat(found), torch.cat(weights)

    def _bake(
        self,
        sources: list[SourceFrame],
        occupied: Bool[Tensor, "l n"],
        flatten: Callable[[PlaneImages], Float[Tensor, "4 n"]],
        behind: Layers | None,
    ) -> Layers:
        """Bake a field layer by layer, front to back, where a coarse pass finds opacity and a camera may see it.

        Args:
            sources: source frames of the dynamic field; none for the static one.
            occupied: pixels of each layer that hold anything.
            flatten: composites this field on the planes of a layer.
            behind: layers of another field that hide this one, too.
        """
        frustum = self.frustum
        evaluator = PlaneEvaluator(self.fields, frustum.camera, self.rays, sources, self.points_per_chunk, False)
        planes = frustum.planes
        layers = torch.zeros(len(planes), 4, len(self.rays), dtype=torch.float16, device=planes.device)
        transmittance = torch.ones(len(self.rays), device=planes.device)
        for index in range(len(planes)):
            seen = dilate(transmittance[None] > MIN_TRANSMITTANCE, frustum.camera, frustum.shift(index))
            active = (occupied[index] & seen[0]).expand(1 + len(sources), -1)
            if active.any():
                first = index * SUBPLANES
                images = evaluator.evaluate(planes.view(1, -1)[:, first : first + SUBPLANES + 1], SUBPLANES, active)
                layers[index] = flatten(images).half()
            transmittance *= 1.0 - layers[index, 3].float()
            if behind is not None:
                transmittance *= 1.0 - behind[index, 3].float()
        return layers

    def _occupied(
        self, pixels: Int[Tensor, " m"], coarse: Callable[[CoarseSamples, Tensor], Float[Tensor, "p l"]]
    ) -> Bool[Tensor, "l n"]:
        """Find where each layer holds anything, by one sample per layer.

        Args:
            pixels: to evaluate, of every second one; the result is dilated by a pixel.
            coarse: opacity of the samples of some of these pixels, given by their positions in `pixels`.
        """
        n_layers = self.frustum.n_layers
        occupied = torch.zeros(n_layers, len(self.rays), dtype=torch.bool, device=pixels.device)
        if not len(pixels):
            return occupied
        for part in torch.arange(len(pixels), device=pixels.device).split(max(1, self.points_per_chunk // n_layers)):
            alpha = coarse(self.frustum.coarse_samples(self.rays[pixels[part]]), part)
            occupied[:, pixels[part]] = (blur_weights(alpha) > MIN_OPACITY).T
        for index in range(n_layers):  # one at a time, for the memory
            occupied[index] = dilate(occupied[index][None], self.frustum.camera)[0]
        return occupied


def _opaque_end(alpha: Float[Tensor, "p l"]) -> Float[Tensor, "p l"]:
    """Count the last layer as opaque: what is so at infinity may have no density in the middle of the layer."""
    return torch.cat([alpha[:, :-1], torch.ones_like(alpha[:, -1:])], dim=1)


def composite_planes(images: Float[Tensor, "k 4 n"]) -> Float[Tensor, "4 n"]:
    """Composite images of colour and opacity, front to back, into one of colour times opacity, and opacity."""
    alpha = images[:, 3:]
    visible = _transmittance(1.0 - alpha)
    return torch.cat([(visible[:-1] * alpha * images[:, :3]).sum(0), 1.0 - visible[-1]])


def composite_dynamic(planes: PlaneImages) -> Float[Tensor, "4 n"]:
    """Composite the dynamic field, so that it gives the blended colour when it is laid over the static field's layer.

    Both fields of a plane are seen at once, and hide those behind it. The dynamic layer takes the light of the static
    field with it that the dynamic opacity would hide, but is before it or beside it: with S and D the light of both in
    the blended layer, s and A the static and dynamic layers by themselves, it is D + S - (1 - A) s.
    """
    light, alpha = torch.zeros_like(planes.static[:, :3]), torch.zeros_like(planes.static[:, 3:])
    for source, image in planes.dynamic:
        light += source.weight * image[:, 3:] * image[:, :3]
        alpha += source.weight * image[:, 3:]
    static_alpha = planes.static[:, 3:]
    visible = _transmittance((1.0 - alpha) * (1.0 - static_alpha))[:-1]
    blended = (visible * (light + static_alpha * planes.static[:, :3])).sum(0)
    transparency = (1.0 - alpha).prod(0)
    return torch.cat([blended - transparency * composite_planes(planes.static)[:3], 1.0 - transparency])


def _transmittance(transparency: Float[Tensor, "k 1 n"]) -> Float[Tensor, "k+1 1 n"]:
    """Product of the transparency of the planes before each, and of all."""
    return torch.cumprod(torch.cat([torch.ones_like(transparency[:1]), transparency]), dim=0)
