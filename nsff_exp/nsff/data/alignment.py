"""Bring the disparity of a frame, in any scale and shift, to inverse depth in scene units.

What flow and poses triangulate on the background tells both.
"""

import dataclasses

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nsff.data.flow_check import check_flow
from nsff.data.scene import Scene
from nsff.geometry.rays import camera_rays, rotate_to_camera, world_to_camera

MAX_FIT_PIXELS = 20_000  # pixels of a frame that take part in its alignment
FIT_ROUNDS = 20  # of iteratively reweighted least squares
SMALLEST_RESIDUAL = 0.3  # pixels; residuals below it weigh alike, as flow is no more precise
MAX_RESIDUAL = 0.02  # fraction of the image width; a frame with a larger median residual is not believed
METRIC_TOLERANCE = 1.2  # disparity counts as inverse depth of the poses if its residual is at most this times the fit's
FARTHEST = 1e-3  # inverse depth in scene units; a point beyond has no parallax
MIN_BACKGROUND = 0.05  # fraction of a frame; with less of it, masks cannot be right and all pixels are aligned
MIN_ALIGNED = 10  # pixels


@dataclasses.dataclass(frozen=True)
class Alignment:
    """Inverse depth of a frame in scene units = `scale` * disparity + `shift`.

    Attributes:
        residual: median distance to what flow and poses triangulate on the background, pixels.
        spread: standard deviation of the inverse depth, scene units.
        believed: the fit is good enough for the prior to be used.
    """

    scale: float
    shift: float
    residual: float
    spread: float
    believed: bool

    def inverse_depth(self, disparity: Float[Tensor, "H W"]) -> Float[Tensor, "H W"]:
        """Inverse depth of disparity in scene units, not beyond `FARTHEST`."""
        return (self.scale * disparity + self.shift).clamp(min=FARTHEST)


def triangulate(
    scene: Scene, index: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Triangulate static pixels from the flow to both neighbours.

    The projection of the point at inverse depth r into a neighbour is that of A r + B, with A the camera's centre and B
    the ray in the neighbour's axes; the distance to the flow's target, in pixels, is linear in r but for the depth by
    which it is divided.

    Returns:
        Inverse depth in scene units, its information (squared pixels of parallax per squared unit, 0 without flow), and
        the distance to the flow's targets that remains (root of the mean square, pixels): what does not move has none.
    """
    size, uv, frames = scene.intrinsics, scene.pixel_coordinates(index), index // scene.n_pixels
    origins, directions = camera_rays(uv, scene.c2w[frames], size)
    numerator, information, constant, n_flows = torch.zeros(4, len(uv), device=uv.device)
    for step in (1, -1):
        c2w = scene.c2w[(frames + step).clamp(0, scene.timeline.n_frames - 1)]
        centre, ray = world_to_camera(origins, c2w), rotate_to_camera(directions, c2w)
        target, _, trusted = check_flow(scene, index, step)
        slope = torch.stack([size.width * 0.5 - target[:, 0], target[:, 1] - size.height * 0.5], dim=-1) / size.focal
        depth = (-ray[:, 2]).clamp(min=1e-3)[:, None]
        a = size.focal * (centre[:, :2] - slope * centre[:, 2:]) / depth
        b = size.focal * (ray[:, :2] - slope * ray[:, 2:]) / depth
        numerator = numerator - trusted * (a * b).sum(-1)
        information = information + trusted * (a * a).sum(-1)
        constant, n_flows = constant + trusted * (b * b).sum(-1), n_flows + trusted
    inverse_depth = numerator / information.clamp(min=1e-9)
    remaining = (constant - inverse_depth * numerator).clamp(min=0.0) / n_flows.clamp(min=1.0)
    return inverse_depth, information, remaining.sqrt()


def align_disparity(scene: Scene, frame: int) -> Alignment:
    """Fit scale and shift of a frame's disparity to what flow and poses triangulate on the background.

    Least squares in pixels, iteratively reweighted towards least absolute deviation. Disparity that agrees as well when
    it is taken for inverse depth in units of the poses, as multi-view depth is, is taken for that.
    """
    index, background = _fit_pixels(scene, frame)
    disparity = scene.pick(scene.disparity, index)
    triangulated, information, _ = triangulate(scene, index)
    use = background & (information > 0) & (triangulated > FARTHEST)
    metric = 1.0 / scene.cameras.scale
    if int(use.sum()) < MIN_ALIGNED:
        return Alignment(metric, 0.0, float("nan"), 0.0, believed=False)
    x, y, parallax = disparity[use], triangulated[use], information[use].sqrt()

    def residuals(scale: float, shift: float) -> Tensor:
        return (scale * x + shift - y).abs() * parallax

    weight = parallax.clone()
    design = torch.stack([x, torch.ones_like(x)], dim=-1).double()
    for _ in range(FIT_ROUNDS):
        solution = torch.linalg.lstsq(weight[:, None] * design, (weight * y.double())[:, None]).solution[:, 0]
        scale, shift = float(solution[0]), float(solution[1])
        weight = parallax / residuals(scale, shift).clamp(min=SMALLEST_RESIDUAL).sqrt()
    residual, residual_metric = float(residuals(scale, shift).median()), float(residuals(metric, 0.0).median())
    if residual_metric <= METRIC_TOLERANCE * max(residual, SMALLEST_RESIDUAL):
        scale, shift, residual = metric, 0.0, residual_metric
    informative = parallax >= parallax.median()
    spread = 1.5 * float((scale * x + shift - y).abs()[informative].median())
    believed = scale > 0.0 and residual < max(MAX_RESIDUAL * scene.intrinsics.width, 1.0)
    return Alignment(scale, shift, residual, spread, believed)


def _fit_pixels(scene: Scene, frame: int) -> tuple[Int[Tensor, " n"], Bool[Tensor, " n"]]:
    """Evenly spaced pixels, and those of them that are background; all of them where almost nothing is."""
    pixels = torch.arange(0, scene.n_pixels, max(1, scene.n_pixels // MAX_FIT_PIXELS), device=scene.device)
    index = frame * scene.n_pixels + pixels
    background = scene.pick(scene.background, index)
    return index, background if float(background.float().mean()) > MIN_BACKGROUND else torch.ones_like(background)
