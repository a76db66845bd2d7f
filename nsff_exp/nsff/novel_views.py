"""Videos of a trained scene: from cameras that never filmed it, and at times between its frames."""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from nsff.checkpoint import restore_fields
from nsff.clips import Frame, to_uint8, write_clip
from nsff.config import Config
from nsff.fields import build_fields
from nsff.in_between import render_between
from nsff.poses import Pose, Poses, homogeneous, interpolate
from nsff.renderer import render_frame
from nsff.sampling import DepthSampling
from nsff.scene import load_cameras
from nsff.timeline import Timeline
from nsff.trajectories import bullet_time, space_time_offsets

log = logging.getLogger("nsff")

EVEN_PLANES = 128  # of slow motion, where bullet time looks for its depths: `N_samples` is not meant for it then
STEPS_A_FRAME = 10  # moments of slow motion from one frame to the next
LOCKED_WINDOW, SPACE_TIME_WINDOW = 8, 10  # frames before and after the target


@dataclasses.dataclass(frozen=True)
class View:
    """Where a frame of a video is seen from, and when: a moment in frames of the sequence."""

    c2w: Pose
    moment: float


def wants_videos(config: Config) -> bool:
    """Whether a rendering mode was asked for."""
    return config.render_bt or config.render_lockcam_slowmo or config.render_slowmo_bt


def render_videos(config: Config, device: torch.device) -> None:
    """Render the modes that were asked for.

    Raises:
        InputError: no checkpoint, or `target_idx` outside the sequence.
    """
    if config.render_bt:
        render_bullet_time(config, device)
    if config.render_lockcam_slowmo:
        render_slow_motion(config, device, moving=False)
    if config.render_slowmo_bt:
        render_slow_motion(config, device, moving=True)


def render_bullet_time(config: Config, device: torch.device) -> Path:
    """The camera circles around that of `target_idx` while its moment stands still; returns the folder."""
    cameras = load_cameras(config)
    target = Timeline(len(cameras.c2w)).check_frame(config.target_idx)
    poses = bullet_time(cameras.c2w[target], cameras.intrinsics.focal)
    return _render(config, device, f"spiral-frame-{target:03d}", [View(pose, target) for pose in poses], between=False)


def render_slow_motion(config: Config, device: torch.device, moving: bool) -> Path:
    """Ten moments from each frame to the next; returns the folder.

    Args:
        config: of the experiment.
        device: to render on.
        moving: the camera goes on as it filmed, and circles about its way (space-time); else it stays at `target_idx`.
    """
    cameras = load_cameras(config)
    timeline = Timeline(len(cameras.c2w))
    target = timeline.check_frame(config.target_idx)
    moments = _window(timeline, target, SPACE_TIME_WINDOW if moving else LOCKED_WINDOW)
    if moving:
        views = list(_space_time(cameras.c2w, cameras.intrinsics.focal, timeline, moments))
    else:
        views = [View(cameras.c2w[target], moment) for moment in moments]
    name = f"slowmo-bt-frame-{target:03d}" if moving else f"lockcam-slowmo-frame-{target:03d}"
    return _render(config, device, name, views, between=True)


def _window(timeline: Timeline, target: int, reach: int) -> list[float]:
    """The moments around a frame; those outside the sequence are left out, and that is said."""
    first, last = max(0, target - reach), min(timeline.n_frames - 1, target + reach)
    if (first, last) != (target - reach, target + reach):
        log.info("the sequence ends: times %d to %d instead of %d to %d", first, last, target - reach, target + reach)
    return [step / STEPS_A_FRAME for step in range(first * STEPS_A_FRAME, last * STEPS_A_FRAME + 1)]


def _space_time(c2w: Poses, focal: float, timeline: Timeline, moments: list[float]) -> Iterator[View]:
    """The camera of each moment, between those of two frames, moved by the published loop."""
    offsets = space_time_offsets(focal)
    for index, moment in enumerate(moments):
        first, share = timeline.split(moment)
        pose = interpolate(c2w[first], c2w[first + 1], share) if share else c2w[first]
        yield View((homogeneous(pose) @ offsets[index % len(offsets)])[:3], moment)


def _render(config: Config, device: torch.device, name: str, views: list[View], between: bool) -> Path:
    """Write a clip under the published folder name.

    Args:
        config: of the experiment; cameras and a checkpoint are needed, no flow or depth.
        device: to render on.
        name: of the clip.
        views: one a frame.
        between: render as between two frames, on planes, also where a moment is that of a frame.
    """
    cameras = load_cameras(config)
    timeline = Timeline(len(cameras.c2w))
    fields = build_fields(config).to(device)
    checkpoint = restore_fields(fields, config)
    intrinsics = cameras.intrinsics.divided_by(max(1, config.render_factor))
    folder = config.experiment_dir / f"render-{name}_path_{checkpoint.step:06d}"

    def render(index: int) -> Frame:
        view = views[index]
        c2w = torch.from_numpy(view.c2w.astype(np.float32)).to(device)
        if between:
            planes = EVEN_PLANES if config.importance else config.N_samples
            return to_uint8(render_between(fields, c2w, intrinsics, timeline, view.moment, planes, config.netchunk))
        time, sampling = timeline.time_of(view.moment), DepthSampling.of(config)
        return to_uint8(render_frame(fields, c2w, intrinsics, time, sampling, config.rays_at_once).rgb)

    file = checkpoint.path.stat()
    settings = {
        "camera": [intrinsics.width, intrinsics.height, intrinsics.focal],
        "samples": [config.N_samples, config.hash_look, config.hash_samples] + [EVEN_PLANES] * between,
        "weights": [checkpoint.step, file.st_size, file.st_mtime_ns],
        "views": [[view.moment, *view.c2w.ravel().tolist()] for view in views],
    }
    write_clip(folder, len(views), render, settings, config.image_ext, config.fps)
    log.info("wrote %s", folder)
    return folder
