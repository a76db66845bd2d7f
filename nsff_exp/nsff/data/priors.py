"""Lift the priors of a scene, disparity and optical flow, to points and scene flow, each with a confidence.

Disparity comes in any scale and shift. `align_disparity` brings that of each frame to inverse depth in scene units, by
what flow and poses triangulate on the background. `Priors.lift` then gives the point that a pixel shows, its scene flow
to the neighbouring frames, and the confidence of both. An extension of the paper, which uses priors on rays alone.
"""

import dataclasses
import functools
import logging

import torch
from jaxtyping import Float, Float16, Int
from torch import Tensor

from nsff.data.alignment import FARTHEST, Alignment, align_disparity, triangulate
from nsff.data.flow_check import check_flow, has_neighbour
from nsff.data.moving_depth import MovingDepth
from nsff.data.pixel_sampler import moving_pixels
from nsff.data.prior_doubts import PriorDoubts, names
from nsff.data.scene import Scene
from nsff.geometry.rays import RayBundle, camera_rays, make_rays

log = logging.getLogger("nsff")

DepthTable = tuple[Float[Tensor, "N H W"], Float16[Tensor, "N H W"]]  # depth s along each ray, and its confidence

FARTHEST_DEPTH = 0.999  # depth s of points at infinity: the last sample of a ray must not be the only one behind them
LARGEST_FLOW = 0.3  # units of the space per frame; a lifted scene flow beyond it is an error of depth
TOLERANCE = 0.003  # fraction of the image width by which parallax may be off at a confidence of 0.6
MIN_TOLERANCE = 0.5  # pixels; optical flow is no more precise
FLOW_NOISE = 0.5  # standard deviation of optical flow where it is consistent, pixels
COLOUR_NOISE = 0.1  # difference of colours (0..1) of a point in two frames at which its flow has a confidence of 0.6
MAX_JUDGED = 1000  # moving pixels of a frame whose confidence enters `Priors.belief`


@dataclasses.dataclass(frozen=True)
class LiftedPixels:
    """The points that n pixels of a frame show; confidences are 0..1.

    `z` is the depth s (0..1) along the ray; scene flow is in units of the space of the fields per frame, 0 with
    confidence 0 where unknown.
    """

    rays: RayBundle
    z: Float[Tensor, " n"]
    confidence: Float[Tensor, " n"]
    sf_fwd: Float[Tensor, "n 3"]
    sf_fwd_confidence: Float[Tensor, " n"]
    sf_bwd: Float[Tensor, "n 3"]
    sf_bwd_confidence: Float[Tensor, " n"]


def report(alignments: list[Alignment]) -> None:
    """Log how well depth agrees with flow and poses, and the frames whose depth is not used."""
    residuals = torch.tensor([alignment.residual for alignment in alignments])  # NaN where nothing was to compare
    bad = [frame for frame, alignment in enumerate(alignments) if not alignment.believed]
    unmeasured = [frame for frame in bad if bool(residuals[frame].isnan())]
    if len(unmeasured) < len(alignments):
        log.info("depth agrees with flow and poses to %.2f px (median over the frames)", float(residuals.nanmedian()))
    if contradicted := [frame for frame in bad if frame not in unmeasured]:
        count, frames = len(contradicted), names(contradicted)
        log.warning("depth of %d frames contradicts flow and poses and is not used: %s", count, frames)
    if unmeasured:
        count, frames = len(unmeasured), names(unmeasured)
        log.warning(
            "depth of %d frames is not used, too little consistent flow is there to check it: %s", count, frames
        )


@dataclasses.dataclass(frozen=True)
class Priors:
    """Aligned priors of a scene, lifted for the pixels that are asked for.

    `scene` is without the flow that is noise.
    """

    scene: Scene
    alignments: tuple[Alignment, ...]
    doubts: PriorDoubts
    moving: MovingDepth
    correction: Float16[Tensor, "N H W"] | None  # factor of the inverse depth; None where `moving` contradicts nothing
    table: DepthTable | None = None  # depth of all pixels; None for a mapped scene, whose memory must not grow

    @staticmethod
    def of(scene: Scene) -> "Priors":
        """Align the disparity of all frames and log the outcome; frames that cannot be aligned are named."""
        doubts, alignments = PriorDoubts.of(scene), []
        scene = doubts.without_noise(scene)
        for frame in range(scene.timeline.n_frames):
            alignments.append(align_disparity(scene, frame))
            scene.release_pages()
        report(alignments)
        for frame in doubts.full_masks:  # all of it would be fitted as moving, and nothing would be left to be static
            alignments[frame] = dataclasses.replace(alignments[frame], believed=False)
        moving = MovingDepth.of(
            scene,
            lambda frame: alignments[frame].inverse_depth(scene.disparity[frame]),
            [alignment.believed for alignment in alignments],
        )
        priors = Priors(scene, tuple(alignments), doubts, moving, moving.correction(scene.motion_masks))
        return priors if scene.is_mapped else dataclasses.replace(priors, table=priors._tabulate())

    @property
    def usable(self) -> bool:
        """Whether the depth of at least one frame is believed."""
        return any(alignment.believed for alignment in self.alignments)

    @functools.cached_property
    def belief(self) -> float:
        """Median confidence of the depth of moving pixels, 0..1; 0 if no mask has one: nothing tells what moves."""
        scene, confidences = self.scene, [torch.zeros(0, device=self.scene.device)]
        for frame in range(scene.timeline.n_frames):
            moving = moving_pixels(scene, frame)
            index = frame * scene.n_pixels + moving[:: max(1, len(moving) // MAX_JUDGED)]
            confidences.append(self.depth(index)[1])
        values = torch.cat(confidences)
        return float(values.median()) if len(values) else 0.0

    @functools.cached_property
    def _tables(self) -> dict[str, Float[Tensor, " N"]]:
        """Attributes of the alignments of all frames, on the compute device."""
        columns = [field.name for field in dataclasses.fields(Alignment)]
        rows = [[float(getattr(alignment, column)) for alignment in self.alignments] for column in columns]
        return dict(zip(columns, torch.tensor(rows, device=self.scene.device), strict=True))

    def lift(self, index: Int[Tensor, " n"]) -> LiftedPixels:
        """Lift pixels, given by flat (row-major) indices over all frames, on the compute device."""
        scene = self.scene
        rays = make_rays(
            scene.pixel_coordinates(index), scene.c2w[index // scene.n_pixels], scene.intrinsics, scene.space
        )
        z, confidence = self.depth(index)
        points = rays.points(z[:, None])[:, 0]
        forward, backward = (self._scene_flow(index, points, step) for step in (1, -1))
        return LiftedPixels(rays, z, confidence, *forward, *backward)

    def depth(self, index: Int[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Depth s (0..1) of pixels along their rays, and its confidence (0..1)."""
        if self.table is None:
            return self._compute_depth(index)
        z, confidence = (self.scene.pick(values, index) for values in self.table)
        return z, confidence.float()

    def _tabulate(self) -> DepthTable:
        """Compute the depth of all pixels, frame by frame."""
        scene, shape = self.scene, self.scene.motion_masks.shape
        z = torch.empty(shape, device=scene.device)
        confidence = torch.empty(shape, device=scene.device, dtype=torch.float16)
        pixels = torch.arange(scene.n_pixels, device=scene.device)
        for frame in range(shape[0]):
            values = self._compute_depth(frame * scene.n_pixels + pixels)
            z[frame], confidence[frame] = (value.view(shape[1:]) for value in values)
        return z, confidence

    def _compute_depth(self, index: Int[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        scene = self.scene
        inverse_depth, confidence = self._inverse_depth(index)
        uv, c2w = scene.pixel_coordinates(index), scene.c2w[index // scene.n_pixels]
        return ray_depth(scene, uv, c2w, inverse_depth), confidence

    def _inverse_depth(self, index: Int[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Inverse depth in scene units and its confidence: the aligned prior, on the background fused with flow.

        Both are weighted by their inverse variances: that of the frame's fit, and that of triangulated flow. A frame
        that is not believed has triangulated depth alone, without confidence.
        """
        scene, frames = self.scene, index // self.scene.n_pixels
        alignment = {name: values[frames] for name, values in self._tables.items()}
        disparity, background = scene.pick(scene.disparity, index), scene.pick(scene.background, index)
        prior = (alignment["scale"] * disparity + alignment["shift"]).clamp(min=FARTHEST)
        if self.correction is not None:
            prior = prior * scene.pick(self.correction, index).to(prior.dtype)
        triangulated, information, remaining = triangulate(scene, index)
        information = torch.where(background & (triangulated > FARTHEST), information, 0.0)
        variance = alignment["spread"] ** 2
        weight = information * variance / (FLOW_NOISE**2 + information * variance)
        fused = prior + weight * torch.where(information > 0, triangulated - prior, 0.0)
        tolerance = max(MIN_TOLERANCE, TOLERANCE * scene.intrinsics.width)
        parallax_error = (prior - triangulated).abs() * information.sqrt()
        error = torch.where(information > 0, parallax_error, alignment["residual"])
        confidence = weight + (1.0 - weight) * torch.exp(-0.5 * (error / tolerance) ** 2)
        moves = torch.where(background, remaining, 0.0)  # in pixels, although no mask says so
        confidence = confidence * torch.exp(-0.5 * (moves / tolerance) ** 2)
        believed, measured = alignment["believed"] > 0, torch.where(information > 0, triangulated, prior)
        return torch.where(believed, fused, measured), torch.where(believed, confidence, 0.0)

    def _scene_flow(
        self, index: Int[Tensor, " n"], points: Float[Tensor, "n 3"], step: int
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
        """Lift optical flow to the next (`step` 1) or previous (-1) frame; static points have none."""
        scene = self.scene
        target, there, confidence = follow_flow(scene, index, step)
        z, there_confidence = self.depth(there)
        rays = make_rays(target, scene.c2w[there // scene.n_pixels], scene.intrinsics, scene.space)
        flow = rays.points(z[:, None])[:, 0] - points
        same_side = scene.pick(scene.motion_masks, there) == scene.pick(scene.motion_masks, index)
        confidence = confidence * there_confidence * same_side * (flow.abs().amax(-1) < LARGEST_FLOW)
        background = scene.pick(scene.background, index)
        flow = torch.where((confidence > 0.0)[:, None] & ~background[:, None], flow, 0.0)
        return flow, torch.where(background, 1.0, confidence) * has_neighbour(scene, index, step)


def ray_depth(
    scene: Scene, uv: Float[Tensor, "n 2"], c2w: Float[Tensor, "*n 3 4"], inverse_depth: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Depth s (0..`FARTHEST_DEPTH`) along the rays of pixels at an inverse depth (scene units) along the viewing axis.

    Points before the near plane are put on it.
    """
    rays = camera_rays(uv, c2w, scene.intrinsics)
    return scene.space.depth(*rays, inverse_depth).clamp(max=FARTHEST_DEPTH)


def follow_flow(
    scene: Scene, index: Int[Tensor, " n"], step: int
) -> tuple[Float[Tensor, "n 2"], Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Follow optical flow to the next (`step` 1) or previous (-1) frame.

    Returns:
        Pixel coordinates (right, down), flat index of the nearest pixel over all frames, and confidence (0..1).
        The latter is 0 where the flow is inconsistent or leaves the image, and falls with the difference of colours.
    """
    target, there, trusted = check_flow(scene, index, step)
    difference = scene.colours(index) - scene.colours(there)
    similar = torch.exp(-0.5 * (difference.abs().mean(-1) / COLOUR_NOISE) ** 2)
    return target, there, similar * trusted
