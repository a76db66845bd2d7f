"""Pictures of the layers of a rendered frame: colour, depth, static and dynamic field, blend weight, scene flow."""

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
from nsff.io import Image
from nsff.rendering.frame_render import FrameRender

LAYERS = ("rgb", "depth", "static", "dynamic", "blend", "flow", "side_by_side")
OUTLIERS = 0.01  # fraction of a video's values left beyond each end of a colour map
MIN_DISPARITY = 1e-6  # smaller values, and points behind the camera, get this one
MIN_FLOW = 1.0 / 4096  # of the width per frame; slower videos do not stretch the colour map of flow further


def parse_layers(text: str) -> tuple[str, ...]:
    """Parse `--layers`, a comma-separated list.

    Returns:
        Layer names; `side_by_side` becomes the others joined by '+', or 'rgb+depth' if it is the only one.

    Raises:
        UsageError: a name is unknown, or the list is empty.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if unknown := [name for name in names if name not in LAYERS]:
        raise UsageError(f"--layers: unknown layer '{unknown[0]}'; choose from {', '.join(LAYERS)}")
    if not names:
        raise UsageError(f"--layers is empty; choose from {', '.join(LAYERS)}")
    others = [name for name in names if name != "side_by_side"] or ["rgb", "depth"]
    return tuple(dict.fromkeys("+".join(others) if name == "side_by_side" else name for name in names))


def single_layers(layers: Iterable[str]) -> set[str]:
    """Split joined layers ('rgb+depth') and return the set of those to render."""
    return {part for name in layers for part in name.split("+")}


def disparity(frame: FrameRender, camera: Camera) -> Float[Tensor, "h w"]:
    """Compute the inverse distance along the camera's axis, in 1 / scaled world units."""
    points = camera.rays().points(frame.depth.reshape(-1, 1))[:, 0]
    distance = -world_to_camera(camera.space.to_world(points), camera.c2w)[:, 2]
    return torch.where(distance > 0.0, 1.0 / distance, MIN_DISPARITY).clamp(min=MIN_DISPARITY).view_as(frame.depth)


@dataclasses.dataclass(frozen=True)
class Ranges:
    """Ends of the colour maps, the same in all frames of a video."""

    min_disparity: float  # 1 / scaled world units
    max_disparity: float
    max_flow: float  # per frame, as a fraction of the image width

    @staticmethod
    def of(frames: list[tuple[FrameRender, Camera]]) -> "Ranges":
        """Take quantiles over some frames of a video, which may be rendered at a smaller size."""
        disparities = np.concatenate([disparity(frame, camera).cpu().numpy().ravel() for frame, camera in frames])
        speeds = [
            (frame.flow.norm(dim=-1) / camera.intrinsics.width)[frame.dynamic_weight > 0.5].cpu().numpy()
            for frame, camera in frames
            if frame.flow is not None
        ]
        low, high = np.quantile(disparities, [OUTLIERS, 1.0 - OUTLIERS])
        dynamic_speeds = np.concatenate(speeds) if speeds else np.zeros(0)
        max_flow = float(np.quantile(dynamic_speeds, 1.0 - OUTLIERS)) if len(dynamic_speeds) else 0.0
        return Ranges(float(low), float(max(high, low + MIN_DISPARITY)), max(max_flow, MIN_FLOW))


def draw(
    layers: tuple[str, ...], frame: FrameRender, static: Float[Tensor, "h w 3"] | None, camera: Camera, ranges: Ranges
) -> dict[str, Image]:
    """Draw one picture per layer.

    Args:
        layers: names from `parse_layers`.
        frame: render of both fields, with flow if 'flow' is among the layers.
        static: render of the static field by itself, colours 0..1, if 'static' is among the layers.
        camera: of both renders.
        ranges: ends of the colour maps.
    """
    pictures = {}
    for name in single_layers(layers):
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
            pictures[name] = flow_picture(frame.flow, ranges.max_flow * camera.intrinsics.width)
    return {name: np.concatenate([pictures[part] for part in name.split("+")], axis=1) for name in layers}


def _depth_picture(values: Float[Tensor, "h w"], ranges: Ranges) -> Image:
    """Colour disparities: near is bright, far is dark."""
    brightness = (values - ranges.min_disparity) / (ranges.max_disparity - ranges.min_disparity)
    grey = to_uint8(brightness[..., None])[..., 0]
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def flow_picture(flow: Float[Tensor, "h w 2"], max_flow: float) -> Image:
    """Colour flow: hue is direction, saturation is length, full from `max_flow` pixels on; white does not move."""
    from torchvision.utils import flow_to_image  # imported late: it takes seconds, and most runs do not need it

    flow = flow * (max_flow / flow.norm(dim=-1, keepdim=True).clamp(min=max_flow))
    # torchvision scales by the longest flow of an image; an extra row that holds `max_flow` fixes the scale.
    padded = F.pad(flow.permute(2, 0, 1), (0, 0, 0, 1))
    padded[0, -1, 0] = max_flow
    return flow_to_image(padded)[:, :-1].permute(1, 2, 0).contiguous().cpu().numpy()


def to_uint8(rgb: Float[Tensor, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    """Convert 0..1 to 0..255, clamped and truncated as published."""
    return (255.0 * rgb.clamp(0.0, 1.0)).to(torch.uint8).cpu().numpy()
