"""Pictures of what a frame is made of: colour, depth, both fields, their blend, motion."""

import dataclasses
from collections.abc import Iterable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from nsff.errors import UsageError
from nsff.geometry.rays import Camera, world_to_camera
from nsff.geometry.space import ndc_to_world
from nsff.io import Image
from nsff.rendering.frame_render import FrameRender

LAYERS = ("rgb", "depth", "static", "dynamic", "blend", "flow", "side_by_side")
OUTLIERS = 0.01  # share of a clip's values that the ends of a colour map leave out, on each side
BEHIND = 1e-6  # smallest disparity: what lies at infinity, or behind a camera


def parse_layers(text: str) -> tuple[str, ...]:
    """The layers of `--layers rgb,depth`; `side_by_side` becomes 'rgb+depth', all others, or these if there are none.

    Raises:
        UsageError: one is unknown, or none is named.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if unknown := [name for name in names if name not in LAYERS]:
        raise UsageError(f"--layers: '{unknown[0]}' is not one of {', '.join(LAYERS)}")
    if not names:
        raise UsageError(f"--layers names none of {', '.join(LAYERS)}")
    others = [name for name in names if name != "side_by_side"] or ["rgb", "depth"]
    return tuple(dict.fromkeys("+".join(others) if name == "side_by_side" else name for name in names))


def needed_for(layers: Iterable[str]) -> set[str]:
    """All layers that have to be rendered for those that were named."""
    return {part for name in layers for part in name.split("+")}


def disparity(frame: FrameRender, camera: Camera) -> Float[Tensor, "h w"]:
    """Inverse distance along the camera's axis, 1 / scaled world units."""
    points = camera.rays().points_ndc(frame.depth.reshape(-1, 1))[:, 0]
    distance = -world_to_camera(ndc_to_world(points, camera.ndc_intrinsics), camera.c2w)[:, 2]
    return torch.where(distance > 0.0, 1.0 / distance, BEHIND).clamp(min=BEHIND).view_as(frame.depth)


@dataclasses.dataclass(frozen=True)
class Ranges:
    """What the ends of the colour maps stand for, the same in all frames of a clip."""

    farthest: float  # disparity
    nearest: float
    fastest: float  # pixels a frame, as a share of the width

    @staticmethod
    def of(frames: list[tuple[FrameRender, Camera]]) -> "Ranges":
        """From some frames of a clip, rendered small."""
        disparities = np.concatenate([disparity(frame, camera).cpu().numpy().ravel() for frame, camera in frames])
        speeds = [
            (frame.flow.norm(dim=-1) / camera.intrinsics.width)[frame.dynamic_weight > 0.5].cpu().numpy()
            for frame, camera in frames
            if frame.flow is not None
        ]
        farthest, nearest = np.quantile(disparities, [OUTLIERS, 1.0 - OUTLIERS])
        moving = np.concatenate(speeds) if speeds else np.zeros(0)
        fastest = float(np.quantile(moving, 1.0 - OUTLIERS)) if len(moving) else 0.0
        return Ranges(float(farthest), float(max(nearest, farthest + BEHIND)), max(fastest, 1.0 / 4096))


def draw(
    layers: tuple[str, ...], frame: FrameRender, static: Float[Tensor, "h w 3"] | None, camera: Camera, ranges: Ranges
) -> dict[str, Image]:
    """A picture for each layer.

    Args:
        layers: names, from `parse_layers`.
        frame: rendered, with flow if that is among the layers.
        static: the static field alone, if that is.
        camera: that it was rendered with.
        ranges: of the colour maps.
    """
    pictures = {}
    for name in needed_for(layers):
        if name == "rgb":
            pictures[name] = to_uint8(frame.rgb)
        elif name == "depth":
            pictures[name] = _depth_picture(disparity(frame, camera), ranges)
        elif name == "dynamic":
            pictures[name] = to_uint8(frame.dynamic_rgb)
        elif name == "blend":
            pictures[name] = to_uint8(frame.dynamic_weight[..., None].expand(-1, -1, 3))
        elif name == "static" and static is not None:
            pictures[name] = to_uint8(static)
        elif name == "flow" and frame.flow is not None:
            pictures[name] = flow_picture(frame.flow, ranges.fastest * camera.intrinsics.width)
    return {name: np.concatenate([pictures[part] for part in name.split("+")], axis=1) for name in layers}


def _depth_picture(values: Float[Tensor, "h w"], ranges: Ranges) -> Image:
    """Near is bright, far is dark."""
    shares = (values - ranges.farthest) / (ranges.nearest - ranges.farthest)
    grey = to_uint8(shares[..., None])[..., 0]
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def flow_picture(flow: Float[Tensor, "h w 2"], fastest: float) -> Image:
    """Hue is direction, saturation is speed up to `fastest` pixels; white stands still."""
    from torchvision.utils import flow_to_image  # here: it takes seconds to import, which most runs do not need

    flow = flow * (fastest / flow.norm(dim=-1, keepdim=True).clamp(min=fastest))
    # torchvision scales by the largest motion of an image: a row with that of the clip keeps the scale of all the same.
    with_largest = F.pad(flow.permute(2, 0, 1), (0, 0, 0, 1))
    with_largest[0, -1, 0] = fastest
    return flow_to_image(with_largest)[:, :-1].permute(1, 2, 0).contiguous().cpu().numpy()


def to_uint8(rgb: Float[Tensor, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    """0..1 to 0..255, clipped and truncated as published."""
    return (255.0 * rgb.clamp(0.0, 1.0)).to(torch.uint8).cpu().numpy()
