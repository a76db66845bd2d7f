"""All that was made of a video on one page: what went in, the videos that came out, curves, figures."""

import io
import json
import tempfile
from pathlib import Path

import cv2
import imageio.v3 as iio
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
from nsff.evaluation.tables import mean_table
from nsff.io import Image, atomic_write, writing_to
from nsff.report.evaluation_page import health_table
from nsff.report.html import Page
from nsff.training.checkpoint import read_newest

INPUT_FPS = 8.0
RED = np.array([1.0, 0.16, 0.16])
CURVES = (("loss/total", "loss", True), ("train/psnr", "PSNR of training rays (dB)", False))
HELD_OUT = "held-out/psnr"
GIF_FRAMES, GIF_HEIGHT, GIF_COLOURS, GIF_MILLISECONDS = 30, 144, 128, 80
CLIPS = (  # beginning of the folder's name, what it shows
    ("render-spiral-frame", "Frozen moment, moving camera"),
    ("render-lockcam-slowmo-frame", "Slow motion, fixed camera"),
    ("render-slowmo-bt-frame", "Slow motion, moving camera"),
)


def write_summary(config: Config) -> Path:
    """Write `summary.html` and `summary.gif` into the experiment's folder; returns the path of the page.

    Raises:
        InputError: nothing was trained, or a file of the scene is missing.
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
    page.heading("What went in: frames, what moves (red), given depth (bright: near)")
    with writing_to(folder), tempfile.TemporaryDirectory() as aside:
        video = Path(aside) / "input.mp4"
        iio.imwrite(video, input_pictures(scene), plugin="FFMPEG", fps=INPUT_FPS, quality=7, macro_block_size=2)
        page.videos({"at the size of training": video})
    clips = find_videos(folder)
    page.heading("What came out")
    if clips:
        page.videos(clips)
        with writing_to(folder):
            write_moving_picture(folder / "summary.gif", scene, next(iter(clips.values())))
    else:
        page.text("No video was rendered yet: render.py.")
    _add_figures(page, folder, checkpoint.step)
    if curves := read_curves(folder):
        page.heading("Training")
        page.plot(draw_curves(curves), "loss and PSNR over the steps")
    path = folder / "summary.html"
    with writing_to(folder):
        page.write(path)
    return path


def _add_figures(page: Page, folder: Path, step: int) -> None:
    """Tables of all evaluations of this step, and of the health report, with links to their pages.

    Raises:
        InputError: one of their files is broken.
    """
    for path in [*sorted(folder.glob("metrics_*.json")), folder / "health.json"]:
        if not path.is_file():
            continue
        try:
            report = json.loads(path.read_text())
            if report["checkpoint"]["step"] != step:
                page.text(f"{path.name} is of step {report['checkpoint']['step']} and left out here.", small=True)
            elif path.name == "health.json":
                page.heading("Health")
                page.table(health_table(report["checks"]), words=True)
                page.link("with pictures", path.with_suffix(".html").name)
            else:
                page.heading(f"Held-out views, protocol {report['protocol']} ({len(report['views'])} views)")
                page.table(mean_table(report["mean"]))
                page.link("every view with its error, the worst first", path.with_suffix(".html").name)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is no report, it may be cut off; delete it and make it again") from error


def input_pictures(scene: Scene) -> list[Image]:
    """Image, what moves, disparity beside each other, one picture a frame; even sides."""
    low, high = np.percentile(scene.disparity.numpy(), [1, 99])
    pictures = []
    for image, mask, disparity in zip(scene.images, scene.motion_masks, scene.disparity, strict=True):
        frame, moving = image.numpy(), mask.numpy()[..., None]
        near = ((disparity.numpy() - low) / max(high - low, 1e-9)).clip(0.0, 1.0)
        row = [frame, np.where(moving, 0.4 * frame + 0.6 * RED, frame), colormaps["inferno"](near)[..., :3]]
        picture = (np.concatenate(row, axis=1) * 255.0).round().astype(np.uint8)
        pictures.append(picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2])
    return pictures


def find_videos(folder: Path) -> dict[str, Path]:
    """Videos of an experiment by what they show; of renders of one kind, the one that was made last."""
    newest: dict[str, Path] = {}
    for path in sorted(folder.glob("render-*/video.mp4"), key=lambda path: path.stat().st_mtime):
        name = path.parent.name
        newest[next((text for start, text in CLIPS if name.startswith(start)), name)] = path
    order = [text for _, text in CLIPS]
    return dict(sorted(newest.items(), key=lambda clip: order.index(clip[0]) if clip[0] in order else len(order)))


def write_moving_picture(path: Path, scene: Scene, clip: Path) -> None:
    """A small gif to show around: the frames that went in, a clip that came out, beside each other."""
    rendered = iio.imread(clip, plugin="FFMPEG")
    chosen = np.linspace(0, len(rendered), GIF_FRAMES, endpoint=False).astype(int)
    pictures = []
    for step, index in enumerate(chosen):
        frame = (scene.images[step * len(scene.images) // GIF_FRAMES].numpy() * 255.0).round().astype(np.uint8)
        height, width = frame.shape[:2]
        size = round(GIF_HEIGHT * width / height), GIF_HEIGHT
        pair = [cv2.resize(each, size, interpolation=cv2.INTER_CUBIC) for each in (frame, rendered[index])]
        gap = np.full((GIF_HEIGHT, 4, 3), 255, np.uint8)
        pictures.append(PIL.Image.fromarray(np.concatenate([pair[0], gap, pair[1]], axis=1)).quantize(GIF_COLOURS))
    with atomic_write(path) as partial:
        pictures[0].save(
            partial, format="gif", save_all=True, append_images=pictures[1:], duration=GIF_MILLISECONDS, loop=0
        )


def read_curves(folder: Path) -> dict[str, Float[np.ndarray, "n 2"]]:
    """(step, value) of the curves that TensorBoard has; empty where nothing was noted down."""
    events = EventAccumulator(str(folder)).Reload()
    there = set(events.Tags()["scalars"])
    wanted = [name for name in (*(name for name, *_ in CURVES), HELD_OUT) if name in there]
    return {name: np.array([(event.step, event.value) for event in events.Scalars(name)]) for name in wanted}


def draw_curves(curves: dict[str, Float[np.ndarray, "n 2"]]) -> bytes:
    """A png of the curves, the held-out PSNR beside that of the training rays."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, (name, title, logarithmic) in zip(figure.subplots(1, len(CURVES)), CURVES, strict=True):
        if name in curves:
            axes.plot(*curves[name].T, color="tab:blue", linewidth=1)
        if name == "train/psnr" and HELD_OUT in curves:
            axes.plot(*curves[HELD_OUT].T, "o-", color="tab:orange", label="held-out views")
            axes.legend()
        axes.set(title=title, xlabel="step", yscale="log" if logarithmic else "linear")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=90)
    return png.getvalue()
