"""The figures of many scenes in one table, with their mean and what was published."""

import json
import logging
from pathlib import Path
from typing import Any

from nsff.clips import whole_file, writing_to
from nsff.config import InputError, load_config
from nsff.evaluator import evaluate, mean_of, require_all_views
from nsff.report import latex, markdown, number
from nsff.script import pick_device
from nsff.workers import ALONE, Workers

log = logging.getLogger("nsff")

PUBLISHED = Path(__file__).with_name("published.json")
COLUMNS = (
    ("psnr", "PSNR", 2), ("ssim", "SSIM", 4), ("lpips", "LPIPS", 4), ("psnr_dynamic", "PSNR moving", 2),
    ("psnr_static", "PSNR still", 2), ("flicker", "flicker", 2),
)  # fmt: skip


def evaluate_all(configs: list[str], options: list[str], workers: Workers = ALONE) -> Path:
    """Evaluate scene after scene; write `results_<protocol>.md`, `.tex` and `.json` where their experiments are.

    Args:
        configs: config files.
        options: for all of them, as typed.
        workers: the processes that share the views of each.

    Returns:
        The path of the Markdown table.

    Raises:
        InputError: some scenes could not be evaluated, or lack files; the table has what could be had.
    """
    loaded = [load_config(["--config", path, *options], "evaluate_all.py") for path in configs]
    means: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    for config in loaded:
        try:
            report = json.loads(evaluate(config, pick_device(config), workers).read_text())
            means[config.expname] = report["mean"]
            require_all_views(report, config)
        except InputError as error:
            failed.append(config.expname)
            log.error("%s: %s", config.expname, error)
    if not means:
        raise InputError(f"none of the {len(configs)} scenes could be evaluated")
    protocol, folder = loaded[0].protocol, Path(loaded[0].basedir)
    rows = score_table(means, protocol)
    path = folder / f"results_{protocol}.md"
    if workers.first:
        _write(path, rows, {"protocol": protocol, "scenes": means, "failed": failed})
        print(markdown(rows))
    workers.wait()
    if failed:
        raise InputError(f"{len(failed)} of {len(configs)} scenes could not be evaluated in full: {', '.join(failed)}")
    return path


def _write(path: Path, rows: list[list[str]], content: dict[str, Any]) -> None:
    with writing_to(path.parent):
        for suffix, text in ((".md", markdown(rows) + _source(content["protocol"])), (".tex", latex(rows))):
            with whole_file(path.with_suffix(suffix)) as partial:
                partial.write_text(text)
        with whole_file(path.with_suffix(".json")) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n")


def score_table(means: dict[str, dict[str, Any]], protocol: str) -> list[list[str]]:
    """Rows of text: scenes, their mean, then the published ones of the protocol."""
    rows = [["scene", *(title for _, title, _ in COLUMNS)]]
    rows += [_row(scene, mean) for scene, mean in means.items()]
    if len(means) > 1:
        every = [{name: mean.get(name) for name, _, _ in COLUMNS} for mean in means.values()]
        rows.append(_row(f"mean of {len(means)}", mean_of(every)))
    published = json.loads(PUBLISHED.read_text()).get(protocol, [])
    rows += [_row(f"{entry['method']}, {entry['scene']} (published)", entry) for entry in published]
    return rows


def _row(title: str, mean: dict[str, Any]) -> list[str]:
    return [title, *(number(mean.get(name), digits) for name, _, digits in COLUMNS)]


def _source(protocol: str) -> str:
    published = json.loads(PUBLISHED.read_text())
    return f"\n{published['source']}.\n" if protocol in published else ""
