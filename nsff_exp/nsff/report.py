"""Figures of an evaluation as tables, and as a page with pictures of every view, the worst first."""

import base64
import csv
import html
import io
from pathlib import Path
from typing import Any

import cv2
import imageio.v3 as iio
import numpy as np

from nsff.clips import Frame, whole_file
from nsff.protocols import View
from nsff.scene import read_pixels

Row = dict[str, Any]

METRICS = (("psnr", "PSNR", 2), ("ssim", "SSIM", 4), ("lpips", "LPIPS", 4))
REGIONS = (("", "whole"), ("_dynamic", "moving"), ("_static", "still"))
WIDEST = 480  # pixels of a picture on the page
LARGEST_ERROR = 0.5  # of a channel: the bright end of error maps

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1500px; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .2rem .8rem; text-align: right }
th { border-bottom: 2px solid #888 } td:first-child, th:first-child { text-align: left }
.view { display: grid; grid-template-columns: repeat(4, 1fr); gap: 4px; margin: .3rem 0 1.2rem }
.view img { width: 100%; display: block } h3 { margin: 0; font-size: 1rem } .small { color: #666 }
"""


def number(value: float | None, digits: int) -> str:
    """A figure, or a dash where it could not be had."""
    return "-" if value is None else f"{value:.{digits}f}"


def mean_table(mean: Row) -> list[list[str]]:
    """Rows of text: regions down, metrics across."""
    head = ["region", *(title for _, title, _ in METRICS)]
    rows = [[title, *(number(mean.get(m + region), d) for m, _, d in METRICS)] for region, title in REGIONS]
    return [head, *rows]


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
    step, protocol, mean = report["checkpoint"]["step"], report["protocol"], report["mean"]
    more = {name: mean.get(name) for name in ("flicker", "seconds", "peak_memory_gb", "pck_t")}
    facts = ", ".join(f"{name} {number(value, 3)}" for name, value in more.items() if value is not None)
    parts = [
        f"<title>{html.escape(protocol)}, step {step}</title><style>{STYLE}</style>",
        f"<h1>Protocol {html.escape(protocol)}, step {step}</h1>",
        _html_table(mean_table(mean)),
        f"<p>{facts}. {len(rows)} views, the worst first: what the camera saw, the render, their difference "
        f"(black: none, white: {LARGEST_ERROR:.0%} of the range or more), depth (bright: near).</p>",
    ]
    if report["missing"]:
        parts.append(
            f"<p>{len(report['missing'])} files are missing: {html.escape(', '.join(report['missing'][:20]))}</p>"
        )
    parts += [_view(row, by_name[row["name"]], folder) for row in rows]
    with whole_file(path) as partial:
        partial.write_text("<!doctype html><meta charset='utf-8'>" + "\n".join(parts) + "\n", encoding="utf-8")


def _html_table(rows: list[list[str]]) -> str:
    cells = [["<th>" + html.escape(cell) for cell in rows[0]]] + [
        ["<td>" + html.escape(c) for c in r] for r in rows[1:]
    ]
    return "<table>" + "".join("<tr>" + "".join(row) for row in cells) + "</table>"


def _view(row: Row, view: View, folder: Path) -> str:
    truth, render = (view.truth() * 255.0).round().astype(np.uint8), read_pixels(folder / f"{view.name}.png")
    pictures = [truth, render, error_map(truth, render), read_pixels(folder / f"{view.name}_depth.png")]
    figures = ", ".join(
        f"{title} {number(row[m + region], d)}{' ' + name if region else ''}"
        for region, name in REGIONS
        for m, title, d in METRICS[: 1 if region else 3]
    )
    shown = "".join(f"<img loading=lazy src='{_embedded(picture)}'>" for picture in pictures)
    return f"<h3>{html.escape(row['name'])}</h3><span class=small>{figures}</span><div class=view>{shown}</div>"


def error_map(truth: Frame, render: Frame) -> Frame:
    """Largest difference of the channels; black: none, white: `LARGEST_ERROR` or more."""
    error = np.abs(truth.astype(np.float32) - render.astype(np.float32)).max(-1) / (255.0 * LARGEST_ERROR)
    grey = (255.0 * error.clip(0.0, 1.0)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_HOT), cv2.COLOR_BGR2RGB)


def _embedded(picture: Frame) -> str:
    height, width = picture.shape[:2]
    if width > WIDEST:
        picture = cv2.resize(picture, (WIDEST, round(height * WIDEST / width)), interpolation=cv2.INTER_AREA)
    encoded = iio.imwrite("<bytes>", picture, extension=".jpg", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode()


def write_health_page(path: Path, step: int, rows: list[Row], pictures: dict[str, dict[str, Frame]]) -> None:
    """The figures of a health report with their verdicts, and the layers of some frames.

    Args:
        path: of the page.
        step: of the checkpoint.
        rows: name, value, unit, verdict, meaning, advice of each figure.
        pictures: by frame, then by layer.
    """
    table = [["figure", "value", "unit", "verdict", "what it is", "what to change"]]
    table += [
        [row["name"], number(row["value"], 2), row["unit"], row["verdict"], row["meaning"], row["advice"]]
        for row in rows
    ]
    parts = [f"<title>Health, step {step}</title><style>{STYLE}</style><h1>Health report, step {step}</h1>"]
    parts.append(_html_table(table))
    for frame, layers in pictures.items():
        shown = "".join(
            f"<div><img src='{_embedded(picture)}'><span class=small>{html.escape(name)}</span></div>"
            for name, picture in layers.items()
        )
        parts.append(f"<h3>{html.escape(frame)}</h3><div class=view>{shown}</div>")
    with whole_file(path) as partial:
        partial.write_text("<!doctype html><meta charset='utf-8'>" + "\n".join(parts) + "\n", encoding="utf-8")
