"""Figures of an evaluation as tables, and as a page with pictures of every view, the worst first."""

import csv
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from nsff.clips import Frame, whole_file
from nsff.page import Page
from nsff.protocols import View
from nsff.scene import read_pixels

Row = dict[str, Any]

METRICS = (("psnr", "PSNR", 2), ("ssim", "SSIM", 4), ("lpips", "LPIPS", 4))
REGIONS = (("", "whole"), ("_dynamic", "moving"), ("_static", "still"))
PRINTED = (
    ("mean_psnr", "psnr"), ("mean_ssim", "ssim"), ("mean_lpips", "lpips"), ("mean_psnr dy", "psnr_dynamic"),
    ("mean_ssim dy", "ssim_dynamic"), ("mean_lpips dy", "lpips_dynamic"),
)  # fmt: skip
LARGEST_ERROR = 0.5  # of a channel: the bright end of error maps


def number(value: float | None, digits: int) -> str:
    """A figure, or a dash where it could not be had."""
    return "-" if value is None else f"{value:.{digits}f}"


def mean_table(mean: Row) -> list[list[str]]:
    """Rows of text: regions down, metrics across."""
    head = ["region", *(title for _, title, _ in METRICS)]
    rows = [[title, *(number(mean.get(m + region), d) for m, _, d in METRICS)] for region, title in REGIONS]
    return [head, *rows]


def mean_lines(mean: Row) -> str:
    """The means under the names that the published evaluation prints, one a line; `nan` where there is no figure."""
    values = {title: mean.get(name) for title, name in PRINTED}
    return "".join(f"{title} {'nan' if value is None else f'{value:.4f}'}\n" for title, value in values.items())


def markdown(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| --- |" + " ---: |" * (len(rows[0]) - 1), *lines[1:]]) + "\n"


def latex(rows: list[list[str]]) -> str:
    """A LaTeX tabular (booktabs); the first row is its head."""
    lines = [" & ".join(cell.replace("_", r"\_").replace("%", r"\%") for cell in row) + r" \\" for row in rows]
    body = "\n".join([lines[0], r"\midrule", *lines[1:]])
    columns = "l" + "r" * (len(rows[0]) - 1)
    return rf"\begin{{tabular}}{{{columns}}}" + f"\n\\toprule\n{body}\n\\bottomrule\n" + r"\end{tabular}" + "\n"


def write_tables(path: Path, report: Row) -> None:
    """The views as .csv, the means as .md and .tex, beside the json file `path`."""
    views = report["views"]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(views[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(views)
    table = mean_table(report["mean"])
    for suffix, content in ((".csv", text.getvalue()), (".md", markdown(table)), (".tex", latex(table))):
        with whole_file(path.with_suffix(suffix)) as partial:
            partial.write_text(content)


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


def error_map(truth: Frame, render: Frame) -> Frame:
    """Largest difference of the channels; black: none, white: `LARGEST_ERROR` or more."""
    error = np.abs(truth.astype(np.float32) - render.astype(np.float32)).max(-1) / (255.0 * LARGEST_ERROR)
    grey = (255.0 * error.clip(0.0, 1.0)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_HOT), cv2.COLOR_BGR2RGB)


def write_health_page(path: Path, step: int, rows: list[Row], pictures: dict[str, dict[str, Frame]]) -> None:
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
