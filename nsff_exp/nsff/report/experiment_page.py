"""Summary page of an experiment: input video, rendered videos, training curves, scores and health."""

import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import imageio.v2 as iio_streams
import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nsff.config import Config
from nsff.data.scene import Scene, load_scene
from nsff.errors import InputError
from nsff.evaluation.health import HealthRow
from nsff.evaluation.scores import read_report
from nsff.evaluation.tables import mean_table
from nsff.io import Image, atomic_write, read_text, writing_to
from nsff.report.evaluation_page import health_table
from nsff.report.html import Page
from nsff.training.checkpoint import read_newest
from nsff.viewer.export import PAGE as VIEWER
from nsff.viewer.page import step_of_page

INPUT_FPS = 8.0
RED = np.array([1.0, 0.16, 0.16], np.float32)
RED_ALPHA = 0.6  # opacity of the motion mask over the frame
DISPARITY_STRIDE = 4  # every fourth row and column decides the ends of the disparity colour map
CURVES = (("loss/total", "loss", True), ("train/psnr", "PSNR of training rays (dB)", False))  # tag, title, log scale
HELD_OUT = "held-out/psnr"
GIF_FRAMES, GIF_HEIGHT, GIF_COLOURS, GIF_MILLISECONDS = 30, 144, 128, 80
VIDEO_TITLES = (  # prefix of a render folder, title on the page
    ("render-spiral-frame", "Frozen time, moving camera"),
    ("render-lockcam-slowmo-frame", "Slow motion, fixed camera"),
    ("render-slowmo-bt-frame", "Slow motion, moving camera"),
)


def write_summary(config: Config) -> Path:
    """Write `summary.html` and `summary.gif` into the experiment's folder.

    Returns:
        The path of the page.

    Raises:
        InputError: the experiment has no checkpoint, or a file of the scene or of a report is missing or broken.
    """
    folder = config.experiment_dir
    checkpoint = read_newest(folder)
    if checkpoint is None:
        raise InputError(f"{folder.absolute()} has no checkpoint; run run_nerf.py first")
    scene = load_scene(config, torch.device("cpu"))
    page = Page(config.expname)
    size = scene.intrinsics
    page.text(
        f"{len(scene.images)} frames of {size.width}x{size.height}, {checkpoint.step} steps in "
        f"{checkpoint.seconds / 60.0:.1f} minutes of training, fields: {config.field}."
    )
    page.heading("Input: frames, motion masks (red), given depth (bright: near)")
    with writing_to(folder), tempfile.TemporaryDirectory() as temporary:
        video = Path(temporary) / "input.mp4"
        _write_mp4(video, input_pictures(scene))
        page.videos({"at training size": video})
    page.heading("Rendered videos")
    if videos := find_videos(folder):
        page.videos(videos)
        with writing_to(folder):
            write_gif(folder / "summary.gif", scene, next(iter(videos.values())))
    else:
        page.text("No video was rendered yet; run render.py.")
    _add_viewer(page, folder, checkpoint.step)
    _add_reports(page, folder, checkpoint.step)
    if curves := read_curves(folder):
        page.heading("Training")
        page.plot(draw_curves(curves), "loss and PSNR against training steps")
    path = folder / "summary.html"
    with writing_to(folder):
        page.write(path)
    return path


def _add_viewer(page: Page, folder: Path, step: int) -> None:
    """Show the page to look around in, if there is one of this step."""
    if not (folder / VIEWER).is_file():
        page.text(f"There is no {VIEWER} to look around in yet; run export_viewer.py.", small=True)
        return
    viewer_step = step_of_page(folder / VIEWER)
    page.heading("Look around")
    if viewer_step != step:
        of_step = "an unknown step" if viewer_step is None else f"step {viewer_step}"
        page.text(f"{VIEWER} is of {of_step}; run export_viewer.py again.", small=True)
    page.frame("look around in a page of its own", VIEWER)


def _add_reports(page: Page, folder: Path, step: int) -> None:
    """Add the tables of all evaluations of this step and of the health report, with links to their pages.

    Raises:
        InputError: one of their files is broken.
    """
    for path in sorted(folder.glob("metrics_*.json")):
        report = read_report(path)
        if report.checkpoint.step != step:
            page.text(f"{path.name} is of step {report.checkpoint.step} and left out here.", small=True)
            continue
        page.heading(f"Held-out views, protocol {report.protocol} ({len(report.views)} views)")
        page.table(mean_table(report.mean))
        page.link("every view with its error, the worst first", path.with_suffix(".html").name)
    path = folder / "health.json"
    if not path.is_file():
        return
    health_step, rows = _read_health(path)
    if health_step != step:
        page.text(f"{path.name} is of step {health_step} and left out here.", small=True)
        return
    page.heading("Health")
    page.table(health_table(rows), sentences=True)
    page.link("with pictures", path.with_suffix(".html").name)


def _read_health(path: Path) -> tuple[int, list[HealthRow]]:
    """Read (step, rows) of `health.json`.

    Raises:
        InputError: the file is cut off or of another kind.
    """
    try:
        content = json.loads(read_text(path))
        return content["checkpoint"]["step"], [HealthRow(**row) for row in content["checks"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a complete health report; delete it and run diagnose.py again") from error


def _write_mp4(path: Path, frames: Iterator[Image]) -> None:
    options = {"fps": INPUT_FPS, "quality": 7, "macro_block_size": 2}
    writer: Any = iio_streams.get_writer(path, format="FFMPEG", mode="I", **options)
    with writer:
        for frame in frames:
            writer.append_data(frame)


def input_pictures(scene: Scene) -> Iterator[Image]:
    """Yield one picture per frame: image, motion mask over the image, and disparity side by side; even sides."""
    sample = scene.disparity[:, ::DISPARITY_STRIDE, ::DISPARITY_STRIDE].numpy()
    low, high = (float(value) for value in np.percentile(sample, [1, 99]))
    for index, (mask, disparity) in enumerate(zip(scene.motion_masks, scene.disparity, strict=True)):
        frame, moving = scene.image(index).numpy(), mask.numpy()[..., None]
        marked = np.where(moving, (1.0 - RED_ALPHA) * frame + RED_ALPHA * RED, frame)
        near = ((disparity.numpy() - low) / max(high - low, 1e-9)).clip(0.0, 1.0)
        row = np.concatenate([frame, marked, colormaps["inferno"](near)[..., :3]], axis=1)
        picture = (row * 255.0).round().astype(np.uint8)
        yield picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2]
        scene.release_pages()


def find_videos(folder: Path) -> dict[str, Path]:
    """Rendered videos of an experiment by title; the newest where several have the same title."""
    newest: dict[str, Path] = {}
    for path in sorted(folder.glob("render-*/video.mp4"), key=lambda path: path.stat().st_mtime):
        name = path.parent.name
        newest[next((title for prefix, title in VIDEO_TITLES if name.startswith(prefix)), name)] = path
    order = [title for _, title in VIDEO_TITLES]
    return dict(sorted(newest.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def write_gif(path: Path, scene: Scene, video: Path) -> None:
    """Write a small gif with the input frames and a rendered video side by side."""
    first, *others = (PIL.Image.fromarray(pair).quantize(GIF_COLOURS) for pair in _pairs(scene, video))
    with atomic_write(path) as partial:
        first.save(partial, format="gif", save_all=True, append_images=others, duration=GIF_MILLISECONDS, loop=0)


def _pairs(scene: Scene, video: Path) -> Iterator[Image]:
    """Yield `GIF_FRAMES` small pictures: an input frame, a gap, and the frame of the video at the same progress."""
    n_rendered = imageio_ffmpeg.count_frames_and_secs(str(video))[0]
    rendered_indices = np.linspace(0, n_rendered, GIF_FRAMES, endpoint=False).astype(int)
    width = round(GIF_HEIGHT * scene.intrinsics.width / scene.intrinsics.height)
    gap = np.full((GIF_HEIGHT, 4, 3), 255, np.uint8)
    for index, rendered in enumerate(iio.imiter(video, plugin="FFMPEG")):
        for step in np.flatnonzero(rendered_indices == index):
            frame = scene.images[int(step) * len(scene.images) // GIF_FRAMES].numpy()
            left, right = (
                cv2.resize(picture, (width, GIF_HEIGHT), interpolation=cv2.INTER_CUBIC) for picture in (frame, rendered)
            )
            yield np.concatenate([left, gap, right], axis=1)


def read_curves(folder: Path) -> dict[str, Float[np.ndarray, "n 2"]]:
    """Read (step, value) of the curves on the page from TensorBoard events; curves without events are left out."""
    events = EventAccumulator(str(folder)).Reload()
    logged = set(events.Tags()["scalars"])
    tags = [tag for tag in (*(tag for tag, *_ in CURVES), HELD_OUT) if tag in logged]
    return {tag: np.array([(event.step, event.value) for event in events.Scalars(tag)]) for tag in tags}


def draw_curves(curves: dict[str, Float[np.ndarray, "n 2"]]) -> bytes:
    """Plot the curves as a png, with the PSNR of held-out views beside that of the training rays."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, (tag, title, logarithmic) in zip(figure.subplots(1, len(CURVES)), CURVES, strict=True):
        if tag in curves:
            axes.plot(*curves[tag].T, color="tab:blue", linewidth=1)
        if tag == "train/psnr" and HELD_OUT in curves:
            axes.plot(*curves[HELD_OUT].T, "o-", color="tab:orange", label="held-out views")
            axes.legend()
        axes.set(title=title, xlabel="step", yscale="log" if logarithmic else "linear")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=90)
    return png.getvalue()
