"""Figures of an evaluation as tables, and as a page with pictures of every view, the worst first."""

from pathlib import Path

import cv2
import numpy as np

from nsff.evaluation.protocols import View
from nsff.evaluation.tables import METRICS, REGIONS, Row, mean_table, number
from nsff.io import Image, read_pixels
from nsff.report.html import Page

LARGEST_ERROR = 0.5  # of a channel: the bright end of error maps


def write_page(path: Path, report: Row, views: list[View], folder: Path) -> None:
    """One HTML file with all its pictures: what the camera saw, the render, where they differ, the depth.

    Args:
        path: of the page.
        report: as in the json file.
        views: those of its rows.
        folder: with the renders.
    """
    by_name = {view.name: view for view in views}
    rows = sorted(report["views"], key=lambda row: (row["psnr"] is None, row["psnr"]))
    mean = report["mean"]
    page = Page(f"Protocol {report['protocol']}, step {report['checkpoint']['step']}")
    page.table(mean_table(mean))
    more = {name: mean.get(name) for name in ("flicker", "seconds", "peak_memory_gb", "pck_t")}
    facts = ", ".join(f"{name} {number(value, 3)}" for name, value in more.items() if value is not None)
    page.text(
        f"{facts}. {len(rows)} views, the worst first: what the camera saw, the render, their difference "
        f"(black: none, white: {LARGEST_ERROR:.0%} of the range or more), depth (bright: near)."
    )
    if report["missing"]:
        page.text(f"{len(report['missing'])} files are missing: {', '.join(report['missing'][:20])}")
    for row in rows:
        _add_view(page, row, by_name[row["name"]], folder)
    page.write(path)


def _add_view(page: Page, row: Row, view: View, folder: Path) -> None:
    truth, render = (view.truth() * 255.0).round().astype(np.uint8), read_pixels(folder / f"{view.name}.png")
    depth = read_pixels(folder / f"{view.name}_depth.png")
    page.heading(row["name"], 3)
    figures = ", ".join(
        f"{title} {number(row[m + region], d)}{' ' + name if region else ''}"
        for region, name in REGIONS
        for m, title, d in METRICS[: 1 if region else 3]
    )
    page.text(figures, small=True)
    page.pictures({"truth": truth, "render": render, "error": error_map(truth, render), "depth": depth})


def error_map(truth: Image, render: Image) -> Image:
    """Largest difference of the channels; black: none, white: `LARGEST_ERROR` or more."""
    error = np.abs(truth.astype(np.float32) - render.astype(np.float32)).max(-1) / (255.0 * LARGEST_ERROR)
    grey = (255.0 * error.clip(0.0, 1.0)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_HOT), cv2.COLOR_BGR2RGB)


def write_health_page(path: Path, step: int, rows: list[Row], pictures: dict[str, dict[str, Image]]) -> None:
    """The figures of a health report with their verdicts, and the layers of some frames.

    Args:
        path: of the page.
        step: of the checkpoint.
        rows: name, value, unit, verdict, meaning, advice of each figure.
        pictures: by frame, then by layer.
    """
    page = Page(f"Health report, step {step}")
    page.table(health_table(rows), words=True)
    for frame, layers in pictures.items():
        page.heading(frame, 3)
        page.pictures(layers)
    page.write(path)


def health_table(rows: list[Row]) -> list[list[str]]:
    """Rows of text: a figure each."""
    head = ["figure", "value", "unit", "verdict", "what it is", "what to change"]
    keys = ("unit", "verdict", "meaning", "advice")
    return [head, *([row["name"], number(row["value"], 2), *(row[key] for key in keys)] for row in rows)]
