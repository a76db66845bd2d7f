"""Export a trained scene as one page for a browser: `viewer.html`."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nsff.cli import progress_bar
from nsff.config import Config
from nsff.data.cameras import Cameras, load_cameras
from nsff.distributed import SINGLE_PROCESS, ProcessGroup
from nsff.errors import UsageError
from nsff.fields import Fields, build_fields
from nsff.geometry.camera_paths import BULLET_TIME_SHIFT, bullet_time_loop
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import Camera
from nsff.io import claim_folder, writing_to
from nsff.novel_views.render_plan import focus_distance, parse_times
from nsff.rendering.frame_render import render_frame
from nsff.rendering.ray_sampling import DepthSampling
from nsff.training.checkpoint_choice import restore_fields
from nsff.viewer.composite import composite_layers
from nsff.viewer.layers import LayerBaker, LayerFrustum, Layers, nearest_depth
from nsff.viewer.page import write_page
from nsff.viewer.part import LEVELS, Part
from nsff.viewer.tiles import BORDER, TILE, Tiles

log = logging.getLogger("nsff")

REACH = 0.3  # of the largest distance between two of the input cameras: how far the page's camera may go
FRAMES_PER_SECOND = 10.0  # of the page's playback
CIRCLE_SECONDS, CIRCLE_RADIUS = 6.0, 0.8  # of a turn; largest radius in units of the reach
MEASURED_VIEWS = 4  # on the path of bullet time
SMALL_HEIGHT, SMALL_PLANES, SMALL_TIMES = 96, 16, 6  # of the page during training
PAGE, FOLDER, SETTINGS = "viewer.html", "viewer", "viewer.json"


def export_viewer(config: Config, device: torch.device, group: ProcessGroup = SINGLE_PROCESS) -> Path:
    """Bake the layers of a trained scene, with the newest checkpoint, and write the page.

    Finished parts of an earlier run with the same settings are kept. The processes of a group divide the times.

    Returns:
        The path of the page.

    Raises:
        UsageError, InputError: see `Viewer.of`; no checkpoint; the page would be larger than `max_mb`.
    """
    cameras, fields = load_cameras(config), build_fields(config).to(device)
    checkpoint = restore_fields(fields, config)
    viewer = Viewer.of(config, cameras, fields, checkpoint.step)
    folder = config.experiment_dir / FOLDER
    with writing_to(folder):
        if group.is_main:
            claim_folder(folder, SETTINGS, viewer.settings() | {"weights": [checkpoint.step, checkpoint.fingerprint()]})
        group.barrier()
        viewer.bake(folder, group)
        group.barrier()
        if group.is_main:
            parts = {name: Part.read(folder, name) for name in viewer.part_names}
            log.info("%s", viewer.measure(parts))
            megabytes = viewer.write_page(config.experiment_dir / PAGE, folder, parts)
            log.info("%d planes, %d times, %.1f MB", config.planes, len(viewer.timestamps), megabytes)
    return config.experiment_dir / PAGE


def refresh_viewer(config: Config, cameras: Cameras, fields: Fields, step: int) -> None:
    """Write a small page of the fields as they are after a step: few layers and times, at most `SMALL_HEIGHT` high."""
    factor = max(1, config.render_factor, -(-cameras.intrinsics.height // SMALL_HEIGHT))
    small = dataclasses.replace(config, render_factor=factor, planes=min(config.planes, SMALL_PLANES), slowmo_factor=1)
    viewer = Viewer.of(small, cameras, fields, step)
    every = -(-len(viewer.timestamps) // SMALL_TIMES)
    viewer = dataclasses.replace(viewer, timestamps=viewer.timestamps[::every])
    baker = viewer.baker()
    parts = {"static": viewer.pack(baker.static())}
    static = viewer.layers(parts["static"])
    for name, timestamp in zip(viewer.part_names[1:], viewer.timestamps, strict=True):
        parts[name] = viewer.pack(baker.dynamic(timestamp, static))
    with writing_to(config.experiment_dir):
        viewer.write_page(config.experiment_dir / PAGE, config.experiment_dir / FOLDER, parts)


@dataclasses.dataclass(frozen=True)
class Viewer:
    """Contents of the page.

    Attributes:
        config: of the experiment.
        cameras: of the scene.
        fields: static and dynamic.
        frustum: where the layers are, around the camera of `target_idx`.
        timestamps: of the moments, in frames.
        step: training steps of the fields.
    """

    config: Config
    cameras: Cameras
    fields: Fields
    frustum: LayerFrustum
    timestamps: list[float]
    step: int

    @staticmethod
    def of(config: Config, cameras: Cameras, fields: Fields, step: int) -> "Viewer":
        """Take cameras and times from the options.

        Raises:
            UsageError: `times` cannot be parsed, or the space of the fields has no layers.
            InputError: `target_idx` or `times` is outside the sequence.
        """
        if not cameras.space.has_common_planes:
            raise UsageError(
                f"the viewer needs layers that are planes for every camera, which the {cameras.space.name} of --no_ndc "
                "does not have; use render.py --path orbit"
            )
        timeline = cameras.timeline
        target = timeline.check_frame(config.target_idx)
        first, last = parse_times(config.times, timeline.n_frames - 1) if config.times else (0, timeline.n_frames - 1)
        factor = config.slowmo_factor or 1
        timestamps = [step / factor for step in range(first * factor, last * factor + 1)]
        intrinsics = cameras.intrinsics.divided_by(max(1, config.render_factor))
        camera = cameras.camera(target, next(fields.parameters()).device, intrinsics)
        centres = cameras.c2w[:, :, 3]
        span = float(np.linalg.norm(centres[:, None] - centres[None], axis=-1).max())
        reach = REACH * span or config.path_radius / cameras.intrinsics.focal  # of a camera that stands still
        start = nearest_depth(fields, camera, [timeline.time_of(frame) for frame in range(first, last + 1)])
        log.debug("layers begin at NDC depth %.2f: almost nothing is before it", start)
        frustum = dataclasses.replace(LayerFrustum.around(camera, config.planes, config.margin, reach), start=start)
        return Viewer(config, cameras, fields, frustum, timestamps, step)

    def settings(self) -> dict[str, Any]:
        """Everything but the weights that the parts depend on, as JSON."""
        frustum = self.frustum
        return {
            "timestamps": self.timestamps,
            "camera": [*frustum.camera.c2w.flatten().tolist(), *dataclasses.astuple(frustum.camera.intrinsics)],
            "layers": [frustum.n_layers, frustum.start, frustum.reach, LEVELS, self.config.amp],
        }

    @property
    def _image_size(self) -> tuple[int, int]:
        wide = self.frustum.camera.intrinsics
        return wide.height, wide.width

    def baker(self) -> LayerBaker:
        points = self.config.points_per_chunk(self.frustum.camera.device_type)
        return LayerBaker(self.fields, self.frustum, self.cameras.timeline, points)

    def bake(self, folder: Path, group: ProcessGroup) -> None:
        """Bake the parts that are missing: the static field, then the dynamic one at each moment."""
        baker = self.baker()
        missing = [k for k, name in enumerate(self.part_names[1:]) if not Part.path(folder, name).is_file()]
        group.barrier()  # no process may write before all have listed the same missing parts
        if group.is_main and not Part.path(folder, "static").is_file():
            self.pack(baker.static()).write(folder, "static")
        group.barrier()
        static = self.layers(Part.read(folder, "static"))
        shard, done = group.shard(missing), len(self.timestamps) - len(missing)
        bar = progress_bar(
            shard, "viewer", initial=done, total=done + len(shard), unit="time", disable=not group.is_main
        )
        for index in bar:
            self.pack(baker.dynamic(self.timestamps[index], static)).write(folder, self.part_names[1 + index])

    def pack(self, layers: Layers) -> Part:
        """Pack layers into a part of the page."""
        return Part.of(Tiles.of(layers, self._image_size))

    def layers(self, part: Part) -> Layers:
        """Layers of a part as the page shows them, on the compute device."""
        layers = part.tiles().layers(self.frustum.n_layers, self._image_size)
        return layers.to(self.frustum.camera.c2w.device)

    def composite(self, parts: dict[str, Part], camera: Camera, moment: int) -> Float[Tensor, "h w 3"]:
        """Composite the layers from a camera: what the page shows."""
        layers = [self.layers(parts[name]) for name in ("static", self.part_names[1 + moment])]
        return composite_layers(self.frustum, layers, camera).clamp(0.0, 1.0)

    def measure(self, parts: dict[str, Part]) -> str:
        """Compare the layers with rendered frames, at the reference camera and on the path of bullet time."""
        moment = self.start
        while moment < len(self.timestamps) - 1 and self.timestamps[moment] % 1.0:
            moment += 1
        time = self.cameras.timeline.time_of(self.timestamps[moment])
        reference, device = self.frustum.camera.c2w, self.frustum.camera.c2w.device
        radius = self.circle * self.frustum.reach
        loop = bullet_time_loop(reference.cpu().double().numpy(), BULLET_TIME_SHIFT / radius, MEASURED_VIEWS)
        poses = [reference, *(torch.from_numpy(pose.astype(np.float32)).to(device) for pose in loop)]
        names = ["reference camera", *(f"bullet time, view {k + 1} of {MEASURED_VIEWS}" for k in range(MEASURED_VIEWS))]
        size, rows = self._measured_size, []
        rays = self.config.rays_per_chunk(self.frustum.camera.device_type)
        for name, pose in zip(names, poses, strict=True):
            camera = Camera(pose, size, self.cameras.space)
            truth = render_frame(self.fields, camera, time, DepthSampling.of(self.config), rays).rgb
            error = float(((self.composite(parts, camera, moment) - truth) ** 2).mean())
            rows.append(f"  {name:28} {-10.0 * np.log10(max(error, 1e-10)):.1f} dB")
        return "\n".join(["layers against rendered frames:", *rows])

    @property
    def _measured_size(self) -> Intrinsics:
        """Half the size for speed, where its pixels are some of those of the full size."""
        size = self.frustum.size
        return size.divided_by(1 if size.width % 2 or size.height % 2 else 2)

    @property
    def part_names(self) -> list[str]:
        return ["static", *(f"time{k}" for k in range(len(self.timestamps)))]

    @property
    def start(self) -> int:
        """The moment nearest to the target frame."""
        return int(np.abs(np.array(self.timestamps) - self.config.target_idx).argmin())

    @property
    def circle(self) -> float:
        """Radius of the page's circle, in units of the reach: that of bullet time, but within the reach."""
        return min(CIRCLE_RADIUS, self.config.path_radius / self.cameras.intrinsics.focal / self.frustum.reach)

    def write_page(self, path: Path, folder: Path, parts: dict[str, Part]) -> float:
        """Write the page and return its size in megabytes.

        Raises:
            InputError: it would be larger than `max_mb`.
        """
        camera = dataclasses.replace(self.frustum.camera, intrinsics=self.frustum.size)
        still = (self.composite(parts, camera, self.start) * 255.0).round().byte().cpu().numpy()
        config = self.config
        return write_page(path, folder, config.expname, self._facts(), parts, still, config.max_mb)

    def _facts(self) -> dict[str, Any]:
        """Facts of the scene for the page's program."""
        frustum, cameras = self.frustum, self.cameras
        wide = frustum.camera.intrinsics
        return {
            "step": self.step,
            "width": frustum.size.width,
            "height": frustum.size.height,
            "focal": frustum.size.focal,
            "wide": [wide.width, wide.height],
            "reference": frustum.camera.c2w.cpu().double().tolist(),
            "depths": frustum.depths.cpu().double().tolist(),
            "tile": TILE,
            "border": BORDER,
            "reach": frustum.reach,
            "focus": focus_distance(cameras.bounds),
            "timestamps": self.timestamps,
            "start": self.start,
            "lastFrame": max(1, cameras.timeline.n_frames - 1),
            "perFrame": self.config.slowmo_factor or 1,
            "framesPerSecond": FRAMES_PER_SECOND,
            "circle": self.circle,
            "circleSeconds": CIRCLE_SECONDS,
            "world": {
                "rotation": cameras.origin[:, :3].tolist(),
                "centre": cameras.origin[:, 3].tolist(),
                "scale": cameras.scale,
            },
        }
