"""Figures of an evaluation as text: Markdown, LaTeX, CSV, and the lines that are printed."""

import csv
import io
from pathlib import Path
from typing import Any

from nsff.io import atomic_write

Row = dict[str, Any]

METRICS = (("psnr", "PSNR", 2), ("ssim", "SSIM", 4), ("lpips", "LPIPS", 4))
REGIONS = (("", "whole"), ("_dynamic", "moving"), ("_static", "still"))
PRINTED = (
    ("mean_psnr", "psnr"), ("mean_ssim", "ssim"), ("mean_lpips", "lpips"), ("mean_psnr dy", "psnr_dynamic"),
    ("mean_ssim dy", "ssim_dynamic"), ("mean_lpips dy", "lpips_dynamic"),
)  # fmt: skip


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
        with atomic_write(path.with_suffix(suffix)) as partial:
            partial.write_text(content)
