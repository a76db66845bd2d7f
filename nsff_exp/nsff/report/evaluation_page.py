"""Pages of an evaluation, with pictures of every view, and of a health report."""

import math
from pathlib import Path

import cv2
import numpy as np

from nsff.evaluation.health import HealthRow
from nsff.evaluation.protocols import HeldOutView
from nsff.evaluation.scores import EvaluationReport, ViewScore
from nsff.evaluation.tables import mean_table, number
from nsff.images import read_pixels
from nsff.io import Image
from nsff.report.html import Page

WHITE_ERROR = 0.5  # fraction of the channel range from which error maps are white
MAX_LISTED_FILES = 20  # missing files named on the page


def write_page(path: Path, report: EvaluationReport, views: list[HeldOutView], folder: Path) -> None:
    """Write a page with truth, render, error and depth of every view, the worst PSNR first.

    Args:
        path: of the page.
        report: as in the JSON file.
        views: those that the report scores.
        folder: of the renders.
    """
    page = Page(f"Protocol {report.protocol}, step {report.checkpoint.step}")
    page.table(mean_table(report.mean))
    page.text(
        f"{_cost_and_stability(report)}. {len(report.views)} views, the worst first: held-out image, render, their "
        f"difference (black: none, white: {WHITE_ERROR:.0%} of the range or more), depth (bright: near)."
    )
    if report.missing:
        page.text(f"{len(report.missing)} files are missing: {', '.join(report.missing[:MAX_LISTED_FILES])}")
    by_name = {view.name: view for view in views}
    for score in sorted(report.views, key=_worst_first):
        _add_view(page, score, by_name[score.name], folder)
    page.write(path)


def _cost_and_stability(report: EvaluationReport) -> str:
    mean = report.mean
    pck_t = mean.keypoints.pck_t if mean.keypoints else None
    facts = (
        ("flicker {:.3f} grey levels", mean.flicker),
        ("{:.3f} s per view", mean.seconds),
        ("{:.3f} GB peak memory", mean.peak_memory_gb),
        ("PCK-T {:.3f}", pck_t),
    )
    return ", ".join(text.format(value) for text, value in facts if value is not None)


def _worst_first(score: ViewScore) -> float:
    return math.inf if score.image.whole.psnr is None else score.image.whole.psnr


def _add_view(page: Page, score: ViewScore, view: HeldOutView, folder: Path) -> None:
    truth, render = (view.read_truth() * 255.0).round().astype(np.uint8), read_pixels(folder / f"{view.name}.png")
    depth = read_pixels(folder / f"{view.name}_depth.png")
    whole, moving, static = score.image.whole, score.image.moving, score.image.static
    page.heading(score.name, 3)
    page.text(
        f"PSNR {number(whole.psnr, 2)}, SSIM {number(whole.ssim, 4)}, LPIPS {number(whole.lpips, 4)}, "
        f"PSNR {number(moving.psnr, 2)} moving, PSNR {number(static.psnr, 2)} static",
        small=True,
    )
    page.pictures({"truth": truth, "render": render, "error": error_map(truth, render), "depth": depth})


def error_map(truth: Image, render: Image) -> Image:
    """Colour map of the largest difference over the channels; black: none, white: `WHITE_ERROR` or more."""
    error = np.abs(truth.astype(np.float32) - render.astype(np.float32)).max(-1) / (255.0 * WHITE_ERROR)
    grey = (255.0 * error.clip(0.0, 1.0)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_HOT), cv2.COLOR_BGR2RGB)


def write_health_page(path: Path, step: int, rows: list[HealthRow], pictures: dict[str, dict[str, Image]]) -> None:
    """Write a page with the figures of a health report, their verdicts, and the layers of some frames.

    Args:
        path: of the page.
        step: of the checkpoint.
        rows: of the report.
        pictures: by frame, then by layer.
    """
    page = Page(f"Health report, step {step}")
    page.table(health_table(rows), sentences=True)
    for frame, layers in pictures.items():
        page.heading(frame, 3)
        page.pictures(layers)
    page.write(path)


def health_table(rows: list[HealthRow]) -> list[list[str]]:
    """Rows of text: a header, then one row per figure."""
    header = ["figure", "value", "unit", "verdict", "meaning", "change to make"]
    return [
        header,
        *([row.name, number(row.value, 2), row.unit, row.verdict, row.meaning, row.advice] for row in rows),
    ]
