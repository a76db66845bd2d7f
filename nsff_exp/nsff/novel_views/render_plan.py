"""Views of each video to render: a camera and a timestamp per frame, from the options."""

import dataclasses
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nsff.config import DEFAULT_FPS, Config
from nsff.data.cameras import Cameras
from nsff.errors import InputError, UsageError
from nsff.geometry.camera_path_file import Keyframe, read_camera_path, read_path_fps
from nsff.geometry.camera_paths import (
    BULLET_TIME_FRAMES,
    BULLET_TIME_SHIFT,
    bullet_time_loop,
    dolly,
    lemniscate,
    orbit,
    space_time_offsets,
    spiral,
)
from nsff.geometry.poses import Intrinsics, Pose, Poses, homogeneous, interpolate

log = logging.getLogger("nsff")

SLOWMO_FACTOR = 10  # timestamps per input frame, as published
LOCKCAM_WINDOW, SPACE_TIME_WINDOW = 8, 10  # frames before and after the target
NEAR_WEIGHT = 0.25  # of the near bound's inverse depth in that of the focus; the far bound has the rest (LLFF)


@dataclasses.dataclass(frozen=True)
class RenderView:
    """Camera and time of one frame of a video."""

    c2w: Pose
    timestamp: float  # in frames of the sequence, 0 .. n_frames - 1
    intrinsics: Intrinsics


@dataclasses.dataclass(frozen=True)
class VideoSpec:
    """The views of a video."""

    name: str  # of its folder, after 'render-'
    views: list[RenderView]
    interpolated: bool  # render all views by space-time interpolation, also those whose timestamp is a whole frame
    fps: float  # frames per second


def wants_videos(config: Config) -> bool:
    """Whether any option asks for a video."""
    modes = (config.render_bt, config.render_lockcam_slowmo, config.render_slowmo_bt)
    return any(modes) or bool(config.path or config.camera_path)


def plan_videos(config: Config, cameras: Cameras) -> list[VideoSpec]:
    """Plan the videos that the options ask for, the published modes first.

    Raises:
        UsageError: options that exclude each other or cannot be parsed.
        InputError: `target_idx` or `times` is outside the sequence, or `camera_path` cannot be used.
    """
    _check_options(config)
    planner = _Planner(config, cameras)
    videos = []
    if config.render_bt:
        videos.append(planner.bullet_time())
    if config.render_lockcam_slowmo:
        videos.append(planner.lockcam_slow_motion())
    if config.render_slowmo_bt:
        videos.append(planner.space_time())
    if config.path:
        videos.append(planner.named_path(config.path))
    if config.camera_path:
        videos.append(planner.camera_file(Path(config.camera_path)))
    return videos


class _Planner:
    """Turns options into views; all videos of a run have the same target frame and, but for camera files, size."""

    def __init__(self, config: Config, cameras: Cameras):
        self.config, self.cameras = config, cameras
        self.timeline = cameras.timeline
        self.fps = config.fps or DEFAULT_FPS
        self.target = self.timeline.check_frame(config.target_idx)
        self.intrinsics = cameras.intrinsics.divided_by(max(1, config.render_factor))
        # The radius of a path is a shift in pixels over the focal length: scale the latter to change the former.
        self.focal = cameras.intrinsics.focal * BULLET_TIME_SHIFT / config.path_radius

    def bullet_time(self) -> VideoSpec:
        """Circle around the target's camera at the target's time."""
        poses = bullet_time_loop(self.cameras.c2w[self.target], self.focal)
        views = [RenderView(pose, self.target, self.intrinsics) for pose in poses]
        return VideoSpec(f"spiral-frame-{self.target:03d}", views, interpolated=False, fps=self.fps)

    def lockcam_slow_motion(self) -> VideoSpec:
        """Run through time in slow motion with the target's camera."""
        pose = self.cameras.c2w[self.target]
        timestamps = self._slow_motion(self._window(LOCKCAM_WINDOW))
        views = [RenderView(pose, timestamp, self.intrinsics) for timestamp in timestamps]
        return VideoSpec(f"lockcam-slowmo-frame-{self.target:03d}", views, interpolated=True, fps=self.fps)

    def space_time(self) -> VideoSpec:
        """Run through time in slow motion while the camera circles around the trajectory of the input video."""
        offsets, views = space_time_offsets(self.focal), []
        for index, timestamp in enumerate(self._slow_motion(self._window(SPACE_TIME_WINDOW))):
            pose = homogeneous(self._input_pose(timestamp)) @ offsets[index % len(offsets)]
            views.append(RenderView(pose[:3], timestamp, self.intrinsics))
        return VideoSpec(f"slowmo-bt-frame-{self.target:03d}", views, interpolated=True, fps=self.fps)

    def named_path(self, name: str) -> VideoSpec:
        """Follow a path of `--path` around the target's camera, at the times of `--time`."""
        time = _time_mode(self.config)
        fixed = name == time == "fixed"
        timestamps = self._timestamps(time, self.config.frames or (1 if fixed else 0))
        target = self.cameras.c2w[self.target]
        focus = focus_distance(self.cameras.bounds)
        paths: dict[str, Callable[[int], Poses]] = {
            "bullet_time_loop": lambda n: bullet_time_loop(target, self.focal, n),
            "spiral": lambda n: spiral(target, self.focal, focus, n),
            "lemniscate": lambda n: lemniscate(target, self.focal, focus, n),
            "dolly": lambda n: dolly(target, n),
            "orbit": lambda n: orbit(self.cameras.c2w, target, focus, n),
            "fixed": lambda n: np.stack([target] * n),
            "train": self._input_trajectory,
        }
        poses = paths[name](len(timestamps))
        views = [RenderView(*pair, self.intrinsics) for pair in zip(poses, timestamps, strict=True)]
        return VideoSpec(f"{name}-{time}-frame-{self.target:03d}", views, time == "slowmo", self.fps)

    def camera_file(self, path: Path) -> VideoSpec:
        """Use the cameras of a file, at its times and frame rate, or at those of `--time` and `--fps` if given."""
        keyframes = read_camera_path(path)
        timestamps = self._keyframe_timestamps(keyframes, path)
        factor = max(1, self.config.render_factor)
        views = [
            RenderView(self.cameras.from_world(keyframe.c2w_world), timestamp, keyframe.intrinsics.divided_by(factor))
            for keyframe, timestamp in zip(keyframes, timestamps, strict=True)
        ]
        for index, view in enumerate(views):
            if reason := self.cameras.space.blind_spot(view.c2w, view.intrinsics):
                raise InputError(f"--camera_path {path}: camera {index} {reason}")
        interpolated = any(timestamp != round(timestamp) for timestamp in timestamps)
        fps = self.config.fps or read_path_fps(path) or self.fps
        return VideoSpec(f"file-{path.stem}-frame-{self.target:03d}", views, interpolated, fps)

    def _keyframe_timestamps(self, keyframes: list[Keyframe], path: Path) -> list[float]:
        n_timed = sum(keyframe.time is not None for keyframe in keyframes)
        if self.config.time or not n_timed:
            return self._timestamps(self.config.time or "fixed", len(keyframes))
        if n_timed < len(keyframes):
            raise InputError(
                f"--camera_path {path}: only {n_timed} of {len(keyframes)} cameras have a render_time; "
                "give it to all of them, or choose --time"
            )
        last = self.timeline.n_frames - 1
        return [_snap_to_frame(last * (keyframe.time or 0.0)) for keyframe in keyframes]

    def _timestamps(self, time: str, n_views: int) -> list[float]:
        """Timestamps of the views for a `--time` mode; 0 views = as many as the mode gives."""
        if time == "fixed":
            return [float(self.target)] * (n_views or BULLET_TIME_FRAMES)
        first, last = self._frame_range()
        if not n_views:
            return self._slow_motion((first, last)) if time == "slowmo" else [float(k) for k in range(first, last + 1)]
        timestamps = np.linspace(first, last, n_views).tolist()
        return timestamps if time == "slowmo" else [float(math.floor(timestamp + 0.5)) for timestamp in timestamps]

    def _slow_motion(self, window: tuple[int, int]) -> list[float]:
        """Timestamps from the first to the last frame of a window, `slowmo_factor` per frame."""
        factor = self.config.slowmo_factor or SLOWMO_FACTOR
        return [step / factor for step in range(window[0] * factor, window[1] * factor + 1)]

    def _window(self, radius: int) -> tuple[int, int]:
        """First and last frame of a published mode: `--times`, or `radius` frames either side, within the sequence."""
        if self.config.times:
            return self._frame_range()
        last = self.timeline.n_frames - 1
        published = self.target - radius, self.target + radius
        window = max(0, published[0]), min(last, published[1])
        if window != published:
            log.info(
                "the sequence has frames 0 to %d: rendering frames %d to %d instead of %d to %d",
                last, *window, *published,
            )  # fmt: skip
        return window

    def _frame_range(self) -> tuple[int, int]:
        """First and last frame of `--times`, or of the sequence."""
        last = self.timeline.n_frames - 1
        return parse_times(self.config.times, last) if self.config.times else (0, last)

    def _input_pose(self, timestamp: float) -> Pose:
        """Interpolate the camera of the input video."""
        c2w, (first, fraction) = self.cameras.c2w, self.timeline.split(timestamp)
        return interpolate(c2w[first], c2w[first + 1], fraction) if fraction else c2w[first]

    def _input_trajectory(self, n_views: int) -> Poses:
        """Cameras of the input video at evenly spaced timestamps."""
        return np.stack([self._input_pose(timestamp) for timestamp in np.linspace(*self._frame_range(), n_views)])


def _time_mode(config: Config) -> str:
    """`--time`, or its default for the path."""
    return config.time or ("run" if config.path in ("fixed", "train") else "fixed")


def _check_options(config: Config) -> None:
    """Reject options that none of the videos uses.

    Raises:
        UsageError: `frames`, `time` or `times` without an option that it applies to.
    """
    if config.frames and not config.path:
        raise UsageError("--frames needs --path: the other videos have lengths of their own")
    if config.time and not (config.path or config.camera_path):
        raise UsageError("--time needs --path or --camera_path: the published modes have times of their own")
    slow_motion = config.render_lockcam_slowmo or config.render_slowmo_bt
    uses_times = slow_motion or config.path == "train" or _time_mode(config) != "fixed"
    if config.times and not uses_times:
        raise UsageError("--times needs --time run or slowmo, --path train, or a published slow motion")


def world_keyframes(video: VideoSpec, cameras: Cameras) -> list[Keyframe]:
    """Convert the views of a video to a camera path that `--camera_path` reads."""
    last = len(cameras.c2w) - 1
    return [Keyframe(cameras.to_world(view.c2w), view.intrinsics, view.timestamp / last) for view in video.views]


def parse_times(text: str, last: int) -> tuple[int, int]:
    """Parse `--times` of a sequence whose last frame is `last`.

    Raises:
        UsageError: not two numbers.
        InputError: outside the sequence, or in the wrong order.
    """
    try:
        start, end = (int(part) for part in text.split(":"))
    except ValueError as error:
        raise UsageError(f"--times {text}: give the first and the last frame, for example 3:8") from error
    if not 0 <= start < end <= last:
        raise InputError(f"--times {text}: choose two frames of the sequence, 0 to {last}, the earlier first")
    return start, end


def _snap_to_frame(timestamp: float) -> float:
    """Round a timestamp that is a whole frame but for the digits that its file kept."""
    return float(round(timestamp)) if abs(timestamp - round(timestamp)) < 1e-6 else timestamp


def focus_distance(bounds: np.ndarray) -> float:
    """Distance of the point that spiral and lemniscate look at: LLFF's weighted mean of inverse depths."""
    near, far = 0.9 * float(bounds.min()), 5.0 * float(bounds.max())
    return 1.0 / (NEAR_WEIGHT / near + (1.0 - NEAR_WEIGHT) / far)
