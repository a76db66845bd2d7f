"""Fields whose renders can be worked out by hand, a camera that looks at them, and sizes of small hash grids."""

import torch
from nsff.fields import DynamicField, DynamicSamples, Fields, StaticField, StaticSamples

AHEAD = torch.eye(4)[:3]
SMALL_GRIDS = {
    "hash_levels": 4, "hash_log2_rows": 10, "hash_finest": 64, "hash_dynamic_finest": 64, "hash_width": 16,
}  # fmt: skip


class Wall(StaticField):
    """Static field: opaque grey wall behind NDC depth z = 0; nothing dynamic."""

    def forward(self, points, viewdirs):
        behind = points[..., 2] > 0
        return StaticSamples(torch.zeros_like(points), torch.where(behind, 1e6, -1.0), behind * 0.0)


class Nothing(DynamicField):
    """Dynamic field: empty, all points move by (0.01, 0, 0) NDC a frame, half disoccluded ahead."""

    def forward(self, points, time, viewdirs):
        flow = torch.zeros_like(points)
        flow[..., 0] = 0.01
        none = torch.zeros_like(points[..., 0])
        return DynamicSamples(flow * 0, none - 1.0, -flow, flow, none, none + 0.5)


def toy() -> Fields:
    return Fields(Wall(), Nothing())
