"""Frames at times between two frames: both neighbours, moved along their scene flow, splatted plane by plane.

Paper, section 3.4 and figure 6.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nsff.compositing import TRANSPARENT, intervals, opacity
from nsff.fields import DynamicSamples, Fields
from nsff.poses import Intrinsics
from nsff.rays import make_rays, ndc_to_world, pixel_grid, project, world_to_camera
from nsff.splatting import splat
from nsff.timeline import Timeline

UNSEEN = 1e-4  # share of the light: what is behind so much else is not looked for
REACH = 24  # pixels that a sample may be splatted away, and still be looked for where it comes from


@torch.no_grad()
def render_between(
    fields: Fields,
    c2w: Float[Tensor, "3 4"],
    intrinsics: Intrinsics,
    timeline: Timeline,
    frame: float,
    n_planes: int,
    points_at_once: int,
) -> Float[Tensor, "h w 3"]:
    """The view of a camera at a moment between two frames, colours 0..1.

    The dynamic field is evaluated on the rays of this camera at both frames; its samples, plane by plane, move as far
    along their scene flow as the moment is away, and are splatted where they arrive. The static field does not move.

    Args:
        fields: static and dynamic.
        c2w: the camera.
        intrinsics: size of the frame.
        timeline: of the sequence.
        frame: 0 .. n_frames - 1, and anything between.
        n_planes: depths of NDC, from the near plane to infinity.
        points_at_once: most points in memory, about; at least one plane is.
    """
    rays = make_rays(pixel_grid(intrinsics, c2w.device), c2w, intrinsics)
    depths = torch.linspace(0.0, 1.0, n_planes, device=c2w.device)[None]
    steps, lengths = (
        intervals(depths, rays.directions_ndc.new_tensor([[0.0, 0.0, 1.0]])),
        rays.directions_ndc.norm(dim=-1),
    )
    first, share = timeline.split(frame)
    moments = [(first, share, 1.0 - share), (first + 1, share - 1.0, share)][: 2 if share else 1]
    rgb, clear = torch.zeros(len(rays), 3, device=c2w.device), torch.ones(len(rays), device=c2w.device)
    for planes in torch.arange(n_planes, device=c2w.device).split(max(1, points_at_once // len(rays))):
        rows = _in_sight(clear, intrinsics)
        if not len(rows):
            break
        some = rays[rows]
        points_ndc = some.points_ndc(depths[:, planes].expand(len(rows), -1))
        delta = steps[:, planes] * lengths[rows, None]
        static = fields.static(points_ndc, some.viewdirs)
        static_alpha = opacity(static.sigma_raw, delta) * (1.0 - static.blend_w)
        still = _image_of(torch.cat([static.rgb_raw.sigmoid(), static_alpha[..., None]], dim=-1), rows, intrinsics)
        layers = []
        for when, part, weight in moments:
            time = points_ndc.new_full((len(rows),), timeline.time_of(when))
            samples = fields.dynamic(points_ndc, time, some.viewdirs)
            alpha = opacity(samples.sigma_raw, delta) * static.blend_w
            image = _image_of(torch.cat([samples.rgb_raw.sigmoid(), alpha[..., None]], dim=-1), rows, intrinsics)
            if part:
                shift = _shift(points_ndc, samples, part, rows, c2w, intrinsics)
                image = splat(image, _image_of(shift, rows, intrinsics), "average")
            layers.append((image, weight))
        for k in range(len(planes)):
            colour, alpha = _blend(still[k], [(image[k], weight) for image, weight in layers])
            rgb += clear[:, None] * colour.flatten(1).T
            clear *= 1.0 - alpha.flatten() + TRANSPARENT
    return rgb.view(intrinsics.height, intrinsics.width, 3)


def _in_sight(clear: Float[Tensor, " n"], intrinsics: Intrinsics) -> Int[Tensor, " m"]:
    """The rays on which, or near which, light is left."""
    image = clear.view(1, 1, intrinsics.height, intrinsics.width)
    return (F.max_pool2d(image, 2 * REACH + 1, stride=1, padding=REACH).flatten() > UNSEEN).nonzero()[:, 0]


def _image_of(
    values: Float[Tensor, "m s c"], rows: Int[Tensor, " m"], intrinsics: Intrinsics
) -> Float[Tensor, "s c h w"]:
    """Values of some rays as images of all, one a plane; 0 elsewhere."""
    size = (intrinsics.height, intrinsics.width)
    image = values.new_zeros(*values.shape[1:], size[0] * size[1])
    image[..., rows] = values.permute(1, 2, 0)
    return image.unflatten(2, size)


def _shift(
    points_ndc: Float[Tensor, "m s 3"],
    samples: DynamicSamples,
    part: float,
    rows: Int[Tensor, " m"],
    c2w: Float[Tensor, "3 4"],
    intrinsics: Intrinsics,
) -> Float[Tensor, "m s 2"]:
    """Pixels that samples move by in this camera, by a part of their scene flow in the world (negative: backward)."""
    flow = samples.sf_fwd if part > 0.0 else samples.sf_bwd
    start, end = ndc_to_world(points_ndc, intrinsics), ndc_to_world(points_ndc + flow, intrinsics)
    moved = project(world_to_camera(start + abs(part) * (end - start), c2w), intrinsics)
    return moved - pixel_grid(intrinsics, c2w.device)[rows, None]


def _blend(
    still: Float[Tensor, "4 h w"], layers: list[tuple[Float[Tensor, "4 h w"], float]]
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "h w"]]:
    """Colour (times opacity) and opacity of a plane: both fields at each moment, the moments blended by their nearness.

    Args:
        still: colour and opacity of the static field.
        layers: colour and opacity of the dynamic field, moved, and the weight of the moment; weights sum to 1.
    """
    colour, alpha = torch.zeros_like(still[:3]), torch.zeros_like(still[3])
    for layer, weight in layers:
        colour += weight * (layer[3] * layer[:3] + still[3] * still[:3])
        alpha += weight * (1.0 - (1.0 - layer[3]) * (1.0 - still[3]))
    return colour, alpha
