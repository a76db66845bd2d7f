"""Rendering of videos of a trained scene, from novel cameras and at times between its frames."""

import dataclasses
import functools
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
from nsff.fields import Fields, build_fields
from nsff.geometry.camera_path_file import write_camera_path
from nsff.geometry.rays import Camera
from nsff.io import atomic_write, writing_to
from nsff.novel_views.render_plan import RenderView, VideoSpec, plan_videos, world_keyframes
from nsff.novel_views.video_writer import (
    RenderedFrame,
    VideoFiles,
    check_video_size,
    parse_formats,
    write_contact_sheet,
    write_video,
)
from nsff.rendering.frame_render import FrameRender, render_frame, render_static
from nsff.rendering.ray_sampling import DepthSampling
from nsff.rendering.space_time import PlaneSampling, render_space_time
from nsff.rendering.visualize import Ranges, disparity, draw, parse_layers, single_layers
from nsff.training.checkpoint import Checkpoint
from nsff.training.checkpoint_choice import restore_fields

log = logging.getLogger("nsff")

RANGE_FRAMES, RANGE_FACTOR = 8, 8  # frames of a video, and their reduction in size, that set the colour ranges
CONTACT_SHEET = "sheet.jpg"


def render_videos(config: Config, device: torch.device, group: ProcessGroup = SINGLE_PROCESS) -> list[Path]:
    """Render the videos that the options ask for, each into its own folder, and a contact sheet of all of them.

    Args:
        config: of the experiment; needs cameras and a checkpoint, but no flow or depth.
        device: to render on.
        group: processes that render together.

    Returns:
        The folders of the videos.

    Raises:
        UsageError: an option cannot be parsed, or has no effect.
        InputError: no checkpoint, an option outside the sequence, frames too small, or a folder that cannot be written.
    """
    layers, (images, video_formats) = parse_layers(config.layers), parse_formats(config.format, config.image_ext)
    cameras = load_cameras(config)
    videos = plan_videos(config, cameras)
    if video_formats:
        for video in videos:
            _check_sizes(video)
    fields = build_fields(config).to(device)
    checkpoint = restore_fields(fields, config)
    renderer = ViewRenderer(fields, config, cameras)
    written = []
    for video in videos:
        folder = config.experiment_dir / f"render-{video.name}_path_{checkpoint.step:06d}"
        files = VideoFiles(folder, len(video.views), layers, images, video_formats, video.fps, config.raw_depth)
        render = renderer.frame_renderer(video, layers, config.raw_depth)
        write_video(files, render, _settings(config, video, checkpoint), group)
        if group.is_main:
            _write_camera_path(folder / "camera_path.json", video, cameras, video.fps)
            log.info("wrote %s", folder)
        written.append(files)
    if group.is_main:
        write_contact_sheet(config.experiment_dir / CONTACT_SHEET, written)
    return [files.folder for files in written]


def _write_camera_path(path: Path, video: VideoSpec, cameras: Cameras, fps: float) -> None:
    """Write the cameras of a video beside its frames, unless the file exists: the user may have edited it."""
    if not path.exists():
        with writing_to(path.parent), atomic_write(path) as partial:
            write_camera_path(partial, world_keyframes(video, cameras), fps)


def _check_sizes(video: VideoSpec) -> None:
    """Check before anything is rendered that all frames can be encoded.

    Raises:
        InputError: a frame is too small.
    """
    sizes = [(view.intrinsics.width, view.intrinsics.height) for view in video.views]
    check_video_size(*min(sizes, key=min))


def _settings(config: Config, video: VideoSpec, checkpoint: Checkpoint) -> dict[str, Any]:
    """Collect everything that the frames of a video depend on, as JSON."""
    return {
        "between": video.interpolated,
        "samples": [config.N_samples, config.hash_coarse_samples, config.hash_samples, config.amp],
        "weights": [checkpoint.step, checkpoint.fingerprint()],
        "views": [
            [view.timestamp, *dataclasses.astuple(view.intrinsics), *view.c2w.ravel().tolist()] for view in video.views
        ],
    }


class ViewRenderer:
    """Renders views of a trained scene, and the layers of a video's frames."""

    def __init__(self, fields: Fields, config: Config, cameras: Cameras):
        self.fields, self.config, self.cameras = fields, config, cameras
        self.timeline = cameras.timeline
        self.device = next(fields.parameters()).device

    def frame_renderer(
        self, video: VideoSpec, layers: tuple[str, ...], raw_depth: bool
    ) -> Callable[[int], RenderedFrame]:
        """Return a function that renders a frame of a video by its index."""
        rendered_layers = single_layers(layers)
        with_flow = "flow" in rendered_layers

        @functools.cache
        def ranges() -> Ranges:  # computed with the first frame: not needed if all frames exist
            return self._ranges(video, rendered_layers)

        def render(index: int) -> RenderedFrame:
            view = video.views[index]
            camera, frame = self.camera(view), self.frame(view, video.interpolated, with_flow)
            static = self.static(view) if "static" in rendered_layers else None
            depth = self._distance(frame, camera) if raw_depth else None
            return RenderedFrame(draw(layers, frame, static, camera, ranges()), depth)

        return render

    def camera(self, view: RenderView) -> Camera:
        c2w = torch.from_numpy(view.c2w.astype(np.float32)).to(self.device)
        return Camera(c2w, view.intrinsics, self.cameras.space)

    def frame(self, view: RenderView, interpolated: bool, with_flow: bool = False) -> FrameRender:
        """Render both fields, blended.

        Args:
            view: camera and time.
            interpolated: render by space-time interpolation, also at the time of a frame; else the time must be one.
            with_flow: render scene flow to the next frame as well.
        """
        config, camera = self.config, self.camera(view)
        if interpolated:
            planes, points = PlaneSampling.of(config), config.points_per_chunk(camera.device_type)
            return render_space_time(self.fields, camera, self.timeline, view.timestamp, planes, points, with_flow)
        time, sampling = self.timeline.time_of(view.timestamp), DepthSampling.of(config)
        flow = self.timeline.supervised_flow(round(view.timestamp)) if with_flow else None
        return render_frame(self.fields, camera, time, sampling, config.rays_per_chunk(camera.device_type), flow)

    def static(self, view: RenderView) -> Float[Tensor, "h w 3"]:
        """Render the static field by itself, colours 0..1."""
        sampling, camera = DepthSampling.of(self.config), self.camera(view)
        return render_static(self.fields.static, camera, sampling, self.config.rays_per_chunk(camera.device_type))

    def _distance(self, frame: FrameRender, camera: Camera) -> Float[np.ndarray, "h w"]:
        """Convert the depth of a frame to distance along the camera's axis, in units of poses_bounds.npy."""
        return (1.0 / disparity(frame, camera) / self.cameras.scale).cpu().numpy()

    def _ranges(self, video: VideoSpec, layers: set[str]) -> Ranges:
        """Set the ends of the colour maps from a few small frames of the video."""
        if not layers & {"depth", "flow"}:
            return Ranges(0.0, 1.0, 1.0)
        indices = np.linspace(0, len(video.views) - 1, min(RANGE_FRAMES, len(video.views))).round().astype(int)
        views = [_reduce(video.views[index]) for index in indices]
        with_flow = "flow" in layers
        return Ranges.of([(self.frame(view, video.interpolated, with_flow), self.camera(view)) for view in views])


def _reduce(view: RenderView) -> RenderView:
    return dataclasses.replace(view, intrinsics=view.intrinsics.divided_by(RANGE_FACTOR))
