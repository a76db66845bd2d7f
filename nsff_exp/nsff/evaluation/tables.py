"""Scores of an evaluation as text: Markdown, LaTeX, CSV, and the printed means."""

import csv
import io
from pathlib import Path

from nsff.evaluation.scores import EvaluationReport, MeanScore, RegionScores
from nsff.io import write_text


def number(value: float | None, digits: int) -> str:
    """Format a score, or a dash where it is undefined."""
    return "-" if value is None else f"{value:.{digits}f}"


def cells(scores: RegionScores) -> list[str]:
    """PSNR, SSIM and LPIPS of a region as text."""
    return [number(scores.psnr, 2), number(scores.ssim, 4), number(scores.lpips, 4)]


def mean_table(mean: MeanScore) -> list[list[str]]:
    """Rows of text: regions down, metrics across; the first row is the header."""
    return [
        ["region", "PSNR", "SSIM", "LPIPS"],
        ["whole", *cells(mean.image.whole)],
        ["moving", *cells(mean.image.moving)],
        ["static", *cells(mean.image.static)],
    ]


def mean_lines(mean: MeanScore) -> str:
    """The means by the names that the published evaluation prints, one per line; `nan` where a score is undefined."""
    whole, moving = mean.image.whole, mean.image.moving
    values = {
        "mean_psnr": whole.psnr, "mean_ssim": whole.ssim, "mean_lpips": whole.lpips,
        "mean_psnr dy": moving.psnr, "mean_ssim dy": moving.ssim, "mean_lpips dy": moving.lpips,
    }  # fmt: skip
    return "".join(f"{name} {'nan' if value is None else f'{value:.4f}'}\n" for name, value in values.items())


def markdown(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is the header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| --- |" + " ---: |" * (len(rows[0]) - 1), *lines[1:]]) + "\n"


def latex(rows: list[list[str]]) -> str:
    """A LaTeX tabular (booktabs); the first row is the header."""
    lines = [" & ".join(cell.replace("_", r"\_").replace("%", r"\%") for cell in row) + r" \\" for row in rows]
    body = "\n".join([lines[0], r"\midrule", *lines[1:]])
    columns = "l" + "r" * (len(rows[0]) - 1)
    return rf"\begin{{tabular}}{{{columns}}}" + f"\n\\toprule\n{body}\n\\bottomrule\n" + r"\end{tabular}" + "\n"


def write_tables(path: Path, report: EvaluationReport) -> None:
    """Write the views as .csv and the means as .md and .tex beside the JSON file `path`."""
    rows = [view.to_json() for view in report.views]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    table = mean_table(report.mean)
    for suffix, content in ((".csv", text.getvalue()), (".md", markdown(table)), (".tex", latex(table))):
        write_text(path.with_suffix(suffix), content)
