"""Composite layers from another camera: the twin of what the page does, to measure how well the layers hold."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nsff.geometry.ndc import NEAR
from nsff.geometry.rays import Camera, camera_rays, project, world_to_camera
from nsff.viewer.layers import LayerFrustum, Layers


def composite_layers(frustum: LayerFrustum, layers: list[Layers], camera: Camera) -> Float[Tensor, "h w 3"]:
    """Composite layers of one or several fields, back to front.

    Args:
        frustum: where the layers are.
        layers: of each field; the later over the earlier ones where they share a layer.
        camera: of the result, near the reference camera.

    Returns:
        Colours, 0..1.
    """
    wide, size = frustum.camera.intrinsics, camera.intrinsics
    origins, directions = camera_rays(camera.pixels(), camera.c2w, size)
    rgb = torch.zeros(1, 3, size.height, size.width, device=origins.device)
    for index in range(frustum.n_layers - 1, -1, -1):
        fields = [field[index].float() for field in layers if bool(field[index, 3].any())]
        if not fields:
            continue
        plane = -NEAR / (1.0 - float(frustum.depths[index]))  # z of the layer in the scene
        distance = (plane - origins[:, 2]) / directions[:, 2]
        points = origins + distance[:, None] * directions
        uv = project(world_to_camera(points, frustum.camera.c2w), frustum.camera.intrinsics)
        grid = (2.0 * uv / uv.new_tensor([wide.width - 1, wide.height - 1]) - 1.0).view(1, size.height, size.width, 2)
        seen = [
            F.grid_sample(field.view(1, 4, wide.height, wide.width), grid, padding_mode="border", align_corners=True)
            for field in fields
        ]
        for image in seen:
            rgb = image[:, :3] + (1.0 - image[:, 3:]) * rgb
    return rgb[0].permute(1, 2, 0)
