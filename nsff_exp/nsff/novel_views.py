"""Videos of a trained scene from cameras that never filmed it."""

import logging
from collections.abc import Iterable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from nsff.checkpoint import restore_fields
from nsff.config import Config, InputError, UsageError
from nsff.fields import build_fields
from nsff.renderer import render_frame
from nsff.sampling import DepthSampling
from nsff.scene import load_cameras
from nsff.timeline import Timeline
from nsff.trajectories import bullet_time

log = logging.getLogger("nsff")

JPEG_QUALITY = 95


def wants_videos(config: Config) -> bool:
    """Whether a rendering mode was asked for."""
    return config.render_bt or config.render_lockcam_slowmo or config.render_slowmo_bt


def render_videos(config: Config, device: torch.device) -> None:
    """Render the modes that were asked for.

    Raises:
        UsageError: slow motion, which this version does not have.
    """
    if config.render_lockcam_slowmo or config.render_slowmo_bt:
        raise UsageError(
            "slow motion (--render_lockcam_slowmo, --render_slowmo_bt) is not supported yet; use --render_bt"
        )
    render_bullet_time(config, device)


def render_bullet_time(config: Config, device: torch.device) -> Path:
    """The camera circles around that of `target_idx` while its moment stands still.

    Writes frames and an mp4 under the published folder name. Needs cameras and a checkpoint, no flow or depth.

    Returns:
        The folder.

    Raises:
        InputError: no checkpoint, or `target_idx` outside the sequence.
    """
    cameras = load_cameras(config)
    timeline = Timeline(len(cameras.c2w))
    target = timeline.check_frame(config.target_idx)
    fields = build_fields(config).to(device)
    checkpoint = restore_fields(fields, config)
    intrinsics = cameras.intrinsics.divided_by(max(1, config.render_factor))
    poses = bullet_time(cameras.c2w[target], cameras.intrinsics.focal)
    name = f"render-spiral-frame-{target:03d}_path_{checkpoint.step:06d}"
    folder = config.experiment_dir / name
    frames = (
        to_uint8(
            render_frame(
                fields,
                torch.from_numpy(pose.astype(np.float32)).to(device),
                intrinsics,
                timeline.time_of(target),
                DepthSampling.of(config),
                config.rays_at_once,
            ).rgb
        )
        for pose in tqdm(poses, desc="bullet time", unit="frame")
    )
    write_clip(folder, frames, config.image_ext, config.fps)
    log.info("wrote %s", folder)
    return folder


def to_uint8(rgb: Float[Tensor, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """0..1 to 0..255, clipped and truncated as published."""
    return (255.0 * rgb.clamp(0.0, 1.0)).to(torch.uint8).cpu().numpy()


def write_clip(folder: Path, frames: Iterable[UInt8[np.ndarray, "h w 3"]], extension: str, fps: float) -> None:
    """Write `images/000.<ext> ...` one by one as they come, then `video.mp4` (h264, yuv420p, even size)."""
    images = folder / "images"
    try:
        images.mkdir(parents=True, exist_ok=True)
        clip = []
        for index, frame in enumerate(frames):
            write_image(images / f"{index:03d}.{extension}", frame)
            clip.append(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
        _write_mp4(folder / "video.mp4", clip, fps)
    except OSError as error:
        raise InputError(f"cannot write to {folder.absolute()} ({error.strerror or error})") from error


def write_image(path: Path, frame: UInt8[np.ndarray, "h w 3"]) -> None:
    """One image file (png, or jpg of quality 95), written aside and moved into place."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.suffix == ".jpg":
            iio.imwrite(partial, frame, extension=".jpg", quality=JPEG_QUALITY, subsampling=0)
        else:
            iio.imwrite(partial, frame, extension=path.suffix)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_mp4(path: Path, clip: list[UInt8[np.ndarray, "h w 3"]], fps: float) -> None:
    if min(clip[0].shape[:2]) < 2:
        raise InputError(f"frames of {clip[0].shape[1]}x{clip[0].shape[0]} make no video; lower --render_factor")
    partial = path.with_name(f".partial.{path.name}")
    try:
        iio.imwrite(partial, np.stack(clip), plugin="FFMPEG", fps=fps, codec="libx264", macro_block_size=2, quality=8)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
