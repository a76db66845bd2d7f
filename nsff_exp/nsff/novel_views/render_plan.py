"""Which views a clip has: a camera and a moment for each frame, from the options."""

import dataclasses
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nsff.config import Config
from nsff.data.cameras import Cameras
from nsff.errors import InputError, UsageError
from nsff.geometry.camera_path_file import Keyframe, read_camera_path
from nsff.geometry.camera_paths import (
    BULLET_TIME_FRAMES,
    BULLET_TIME_SHIFT,
    bullet_time_loop,
    dolly,
    lemniscate,
    space_time_offsets,
    spiral,
)
from nsff.geometry.poses import Intrinsics, Pose, homogeneous, interpolate

log = logging.getLogger("nsff")

LOCKED_WINDOW, SPACE_TIME_WINDOW = 8, 10  # frames before and after the target
SIDEWAYS = 0.05  # cosine between a ray and the axis of the scene, below which NDC breaks down
NEAREST_SHARE = 0.25  # of the focus in inverse depth, between the nearest and the farthest thing (LLFF)


@dataclasses.dataclass(frozen=True)
class View:
    """Where a frame of a video is seen from, and when: a moment in frames of the sequence."""

    c2w: Pose
    moment: float
    intrinsics: Intrinsics


@dataclasses.dataclass(frozen=True)
class VideoSpec:
    """The views of a video; `between` if its moments lie between the frames."""

    name: str
    views: list[View]
    between: bool


def wants_videos(config: Config) -> bool:
    """Whether anything to render was asked for."""
    modes = (config.render_bt, config.render_lockcam_slowmo, config.render_slowmo_bt)
    return any(modes) or bool(config.path or config.camera_path)


def plan_videos(config: Config, cameras: Cameras) -> list[VideoSpec]:
    """The clips that the options ask for, the published modes first.

    Raises:
        InputError: `target_idx`, `times` or `camera_path` cannot be followed.
    """
    _check_options(config)
    plan = _Planner(config, cameras)
    clips = []
    if config.render_bt:
        clips.append(plan.bullet_time())
    if config.render_lockcam_slowmo:
        clips.append(plan.lockcam_slow_motion())
    if config.render_slowmo_bt:
        clips.append(plan.space_time())
    if config.path:
        clips.append(plan.path(config.path))
    if config.camera_path:
        clips.append(plan.camera_file(Path(config.camera_path)))
    return clips


class _Planner:
    """Turns options into views; all clips of a run share the cameras, the target and the size."""

    def __init__(self, config: Config, cameras: Cameras):
        self.config, self.cameras = config, cameras
        self.timeline = cameras.timeline
        self.target = self.timeline.check_frame(config.target_idx)
        self.intrinsics = cameras.intrinsics.divided_by(max(1, config.render_factor))
        # paths are so many pixels wide for a focal length: another width is the published one of another focal length
        self.focal = cameras.intrinsics.focal * BULLET_TIME_SHIFT / config.path_radius

    def bullet_time(self) -> VideoSpec:
        """The camera circles around that of the target while its moment stands still."""
        poses = bullet_time_loop(self.cameras.c2w[self.target], self.focal)
        views = [View(pose, self.target, self.intrinsics) for pose in poses]
        return VideoSpec(f"spiral-frame-{self.target:03d}", views, between=False)

    def lockcam_slow_motion(self) -> VideoSpec:
        """The camera stays at the target while time runs."""
        pose = self.cameras.c2w[self.target]
        views = [View(pose, moment, self.intrinsics) for moment in self._slow_moments(self._window(LOCKED_WINDOW))]
        return VideoSpec(f"lockcam-slowmo-frame-{self.target:03d}", views, between=True)

    def space_time(self) -> VideoSpec:
        """Time runs, the camera goes on as it filmed, and circles about its way by the published loop."""
        offsets, views = space_time_offsets(self.focal), []
        for index, moment in enumerate(self._slow_moments(self._window(SPACE_TIME_WINDOW))):
            pose = homogeneous(self._filmed(moment)) @ offsets[index % len(offsets)]
            views.append(View(pose[:3], moment, self.intrinsics))
        return VideoSpec(f"slowmo-bt-frame-{self.target:03d}", views, between=True)

    def path(self, name: str) -> VideoSpec:
        """A named path, around the camera of the target, at the times of `--time`."""
        time = self.config.time or ("run" if name in ("fixed", "train") else "fixed")
        still = name == time == "fixed"
        moments = self._moments(time, self.config.frames or (1 if still else 0))
        target = self.cameras.c2w[self.target]
        focus = _focus(self.cameras.bounds)
        poses_of: dict[str, Callable[[int], np.ndarray]] = {
            "bullet_time_loop": lambda n: bullet_time_loop(target, self.focal, n),
            "spiral": lambda n: spiral(target, self.focal, focus, n),
            "lemniscate": lambda n: lemniscate(target, self.focal, focus, n),
            "dolly": lambda n: dolly(target, n),
            "fixed": lambda n: np.stack([target] * n),
            "train": lambda n: np.stack([self._filmed(moment) for moment in self._along(n)]),
        }
        views = [View(*pair, self.intrinsics) for pair in zip(poses_of[name](len(moments)), moments, strict=True)]
        return VideoSpec(f"{name}-{time}-frame-{self.target:03d}", views, between=time == "slowmo")

    def camera_file(self, path: Path) -> VideoSpec:
        """The cameras of a file, at its times, or at those of `--time` where that is given."""
        keyframes = read_camera_path(path)
        given, n_given = self.config.time, sum(keyframe.time is not None for keyframe in keyframes)
        if not given and n_given:
            if n_given < len(keyframes):
                raise InputError(f"--camera_path {path}: only {n_given} of {len(keyframes)} cameras have a render_time")
            last = self.timeline.n_frames - 1
            moments = [_on_frame(last * (keyframe.time or 0.0)) for keyframe in keyframes]
        else:
            moments = self._moments(given or "fixed", len(keyframes))
        factor = max(1, self.config.render_factor)
        views = [
            View(self.cameras.from_world(keyframe.c2w_world), moment, keyframe.intrinsics.divided_by(factor))
            for keyframe, moment in zip(keyframes, moments, strict=True)
        ]
        for index, view in enumerate(views):
            _check_forward(view, f"--camera_path {path}: camera {index}")
        return VideoSpec(
            f"file-{path.stem}-frame-{self.target:03d}", views, between=any(m != round(m) for m in moments)
        )

    def _moments(self, time: str, n_frames: int) -> list[float]:
        """One for each frame of a clip; with 0 frames wanted, as many as the times ask for."""
        if time == "fixed":
            return [float(self.target)] * (n_frames or BULLET_TIME_FRAMES)
        first, last = self._all_or_times()
        if not n_frames:
            return self._slow_moments((first, last)) if time == "slowmo" else [float(k) for k in range(first, last + 1)]
        moments = np.linspace(first, last, n_frames).tolist()
        return moments if time == "slowmo" else [float(math.floor(moment + 0.5)) for moment in moments]

    def _along(self, n_views: int) -> list[float]:
        """Evenly spaced moments of the filmed path."""
        return np.linspace(*self._all_or_times(), n_views).tolist()

    def _slow_moments(self, window: tuple[int, int]) -> list[float]:
        """`slowmo_factor` moments from each frame to the next."""
        factor = self.config.slowmo_factor
        return [step / factor for step in range(window[0] * factor, window[1] * factor + 1)]

    def _window(self, reach: int) -> tuple[int, int]:
        """First and last frame of a clip: `--times`, or those around the target, which ends where the sequence does."""
        last = self.timeline.n_frames - 1
        if self.config.times:
            return _parse_times(self.config.times, last)
        window = max(0, self.target - reach), min(last, self.target + reach)
        if window != (self.target - reach, self.target + reach):
            log.info(
                "the sequence ends: times %d to %d instead of %d to %d",
                *window, self.target - reach, self.target + reach,
            )  # fmt: skip
        return window

    def _all_or_times(self) -> tuple[int, int]:
        """First and last frame of a clip: `--times`, or those of the sequence."""
        last = self.timeline.n_frames - 1
        return _parse_times(self.config.times, last) if self.config.times else (0, last)

    def _filmed(self, moment: float) -> Pose:
        """The camera of the video at a moment, between those of two frames."""
        c2w, (first, share) = self.cameras.c2w, self.timeline.split(moment)
        return interpolate(c2w[first], c2w[first + 1], share) if share else c2w[first]


def _check_options(config: Config) -> None:
    """Refuse options that no clip would look at."""
    if config.frames and not config.path:
        raise UsageError("--frames is the length of a clip along --path; the other clips have lengths of their own")
    if config.time and not (config.path or config.camera_path):
        raise UsageError("--time needs --path or --camera_path: the published modes have times of their own")
    time = config.time or ("run" if config.path in ("fixed", "train") else "fixed")
    runs = config.render_lockcam_slowmo or config.render_slowmo_bt or config.path == "train" or time != "fixed"
    if config.times and not runs:
        raise UsageError("--times needs --time run or slowmo, --path train, or a published slow motion")


def _check_forward(view: View, where: str) -> None:
    """NDC holds what lies before its near plane, on the side that the video looked at.

    Raises:
        InputError: the camera stands beyond that plane, or a corner of its frame looks sideways or back.
    """
    right, up = (
        0.5 * view.intrinsics.width / view.intrinsics.focal,
        0.5 * view.intrinsics.height / view.intrinsics.focal,
    )
    corners = np.array([[x, y, -1.0] for x in (-right, right) for y in (-up, up)]) @ view.c2w[:, :3].T
    if (corners[:, 2] > -SIDEWAYS * np.linalg.norm(corners, axis=1)).any():
        raise InputError(
            f"{where} looks sideways or back in part; the scene is only known in front of the video's cameras"
        )
    if view.c2w[2, 3] <= -1.0:
        raise InputError(f"{where} stands beyond the near plane, in the middle of the scene; move it back")


def world_keyframes(clip: VideoSpec, cameras: Cameras) -> list[Keyframe]:
    """The views of a clip as a camera path that `--camera_path` reads."""
    last = len(cameras.c2w) - 1
    return [Keyframe(cameras.to_world(view.c2w), view.intrinsics, view.moment / last) for view in clip.views]


def _parse_times(text: str, last: int) -> tuple[int, int]:
    try:
        first, end = (int(part) for part in text.split(":"))
    except ValueError as error:
        raise UsageError(f"--times {text}: give two frames, like 3:8") from error
    if not 0 <= first < end <= last:
        raise InputError(f"--times {text}: choose two frames of the sequence, 0 to {last}, the earlier first")
    return first, end


def _on_frame(moment: float) -> float:
    """The moment, or the frame that it was meant to be before it was written with few digits."""
    return float(round(moment)) if abs(moment - round(moment)) < 1e-6 else moment


def _focus(bounds: np.ndarray) -> float:
    """Distance that paths look at: nearer things count more (LLFF's mean of inverse depths)."""
    near, far = 0.9 * float(bounds.min()), 5.0 * float(bounds.max())
    return 1.0 / (NEAREST_SHARE / near + (1.0 - NEAREST_SHARE) / far)
