"""Videos of a trained scene: from cameras that never filmed it, and at times between its frames."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nsff.config import Config
from nsff.data.cameras import Cameras, load_cameras
from nsff.distributed import SINGLE_PROCESS, ProcessGroup
from nsff.errors import InputError
from nsff.fields import Fields, build_fields
from nsff.geometry.camera_path_file import write_camera_path
from nsff.geometry.poses import Intrinsics
from nsff.geometry.rays import Camera
from nsff.io import atomic_write, writing_to
from nsff.novel_views.render_plan import VideoSpec, View, plan_videos, world_keyframes
from nsff.novel_views.video_writer import RenderedFrame, VideoFiles, parse_formats, write_contact_sheet, write_video
from nsff.rendering.frame_render import FrameRender, render_frame, render_static
from nsff.rendering.ray_sampling import DepthSampling
from nsff.rendering.space_time import PlaneSampling, render_space_time
from nsff.rendering.visualize import Ranges, disparity, draw, parse_layers, single_layers
from nsff.training.checkpoint import Checkpoint, restore_fields

log = logging.getLogger("nsff")

GLANCES, GLANCE_FACTOR = 8, 8  # frames of a clip, and how much smaller they are, that tell the ends of colour maps
SHEET = "sheet.jpg"


def render_videos(config: Config, device: torch.device, group: ProcessGroup = SINGLE_PROCESS) -> list[Path]:
    """Render the clips that were asked for, each into a folder of its own, and a sheet with some frames of all.

    Args:
        config: of the experiment; cameras and a checkpoint are needed, no flow or depth.
        device: to render on.
        group: the processes that render together.

    Returns:
        The folders.

    Raises:
        InputError: no checkpoint, an option that cannot be followed, or a disk that cannot be written.
    """
    layers, (images, videos) = parse_layers(config.layers), parse_formats(config.format, config.image_ext)
    cameras = load_cameras(config)
    clips = plan_videos(config, cameras)
    for clip in clips:
        _check_size(clip, videos)
    fields = build_fields(config).to(device)
    checkpoint = restore_fields(fields, config)
    renderer = ViewRenderer(fields, config, cameras)
    written = []
    for clip in clips:
        folder = config.experiment_dir / f"render-{clip.name}_path_{checkpoint.step:06d}"
        files = VideoFiles(folder, len(clip.views), layers, images, videos, config.fps, config.raw_depth)
        write_video(files, renderer.of(clip, layers, config.raw_depth), _settings(config, clip, checkpoint), group)
        if group.is_main:
            _write_path(folder / "camera_path.json", clip, cameras, config.fps)
            log.info("wrote %s", folder)
        written.append(files)
    if group.is_main:
        write_contact_sheet(config.experiment_dir / SHEET, written)
    return [files.folder for files in written]


def _write_path(path: Path, clip: VideoSpec, cameras: Cameras, fps: float) -> None:
    """The cameras of a clip beside its frames; a file that is there, perhaps changed by its user, stays."""
    if not path.exists():
        with writing_to(path.parent), atomic_write(path) as partial:
            write_camera_path(partial, world_keyframes(clip, cameras), fps)


def _check_size(clip: VideoSpec, videos: tuple[str, ...]) -> None:
    """Before anything is rendered.

    Raises:
        InputError: too small a frame for a video.
    """
    sizes = [(view.intrinsics.width, view.intrinsics.height) for view in clip.views]
    width, height = min(sizes, key=min)
    if videos and min(width, height) < 2:
        raise InputError(f"frames of {width}x{height} make no video; lower --render_factor")


def _settings(config: Config, clip: VideoSpec, checkpoint: Checkpoint) -> dict[str, Any]:
    """All that the frames of a clip depend on."""
    return {
        "between": clip.between,
        "samples": [config.N_samples, config.hash_coarse_samples, config.hash_samples, config.amp],
        "weights": [checkpoint.step, checkpoint.fingerprint()],
        "views": [
            [view.moment, *dataclasses.astuple(view.intrinsics), *view.c2w.ravel().tolist()] for view in clip.views
        ],
    }


class ViewRenderer:
    """Renders the views of a scene, with what the layers of a clip need."""

    def __init__(self, fields: Fields, config: Config, cameras: Cameras):
        self.fields, self.config, self.cameras = fields, config, cameras
        self.timeline = cameras.timeline
        self.device = next(fields.parameters()).device

    def of(self, clip: VideoSpec, layers: tuple[str, ...], raw_depth: bool) -> Callable[[int], RenderedFrame]:
        """A function that renders a frame of a clip by its number."""
        needed = single_layers(layers)
        ranges: list[Ranges] = []  # found when the first frame is rendered: not at all where all are there

        def render(index: int) -> RenderedFrame:
            if not ranges:
                ranges.append(self._glance(clip, needed))
            view = clip.views[index]
            camera, frame = self.camera(view), self.frame(view, clip.between, "flow" in needed)
            static = self.static(view) if "static" in needed else None
            depth = self._depth(frame, camera) if raw_depth else None
            return RenderedFrame(draw(layers, frame, static, camera, ranges[0]), depth)

        return render

    def camera(self, view: View) -> Camera:
        c2w = torch.from_numpy(view.c2w.astype(np.float32)).to(self.device)
        return Camera(c2w, view.intrinsics, self.cameras.intrinsics)

    def frame(self, view: View, between: bool, with_flow: bool = False) -> FrameRender:
        """Both fields together; `between` renders on planes, also where a moment is that of a frame."""
        config, camera = self.config, self.camera(view)
        if between:
            planes = PlaneSampling.of(config)
            return render_space_time(
                self.fields, camera, self.timeline, view.moment, planes, config.netchunk, with_flow
            )
        time, sampling = self.timeline.time_of(view.moment), DepthSampling.of(config)
        flow = self.timeline.known_flow(round(view.moment)) if with_flow else None
        return render_frame(self.fields, camera, time, sampling, config.rays_per_chunk, flow)

    def static(self, view: View) -> Float[Tensor, "h w 3"]:
        """The static field alone."""
        sampling = DepthSampling.of(self.config)
        return render_static(self.fields.static, self.camera(view), sampling, self.config.rays_per_chunk)

    def _depth(self, frame: FrameRender, camera: Camera) -> Float[np.ndarray, "h w"]:
        """Distance along the camera's axis in units of `poses_bounds.npy`."""
        return (1.0 / disparity(frame, camera) / self.cameras.scale).cpu().numpy()

    def _glance(self, clip: VideoSpec, needed: set[str]) -> Ranges:
        """The ends of the colour maps, from a few small frames of the clip."""
        if not needed & {"depth", "flow"}:
            return Ranges(0.0, 1.0, 1.0)
        chosen = np.linspace(0, len(clip.views) - 1, min(GLANCES, len(clip.views))).round().astype(int)
        views = [_smaller(clip.views[index]) for index in chosen]
        return Ranges.of([(self.frame(view, clip.between, "flow" in needed), self.camera(view)) for view in views])


def _smaller(view: View) -> View:
    intrinsics: Intrinsics = view.intrinsics.divided_by(GLANCE_FACTOR)
    return dataclasses.replace(view, intrinsics=intrinsics)
