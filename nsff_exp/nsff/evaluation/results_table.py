"""The figures of many scenes in one table, with their mean and the published figures of the same protocol."""

import json
import logging
from pathlib import Path
from typing import Any

from nsff.config import Config
from nsff.distributed import SINGLE_PROCESS, ProcessGroup, pick_device
from nsff.errors import InputError, UsageError
from nsff.evaluation.evaluator import PageWriter, evaluate, mean_of, require_all_views
from nsff.evaluation.tables import latex, markdown, number
from nsff.io import atomic_write, writing_to

log = logging.getLogger("nsff")

PUBLISHED = Path(__file__).with_name("published.json")
PUBLISHED_PROTOCOL = "dynamicnerf"  # the only one with published figures in that file
SCENES = ("jumping", "skating", "truck", "umbrella", "balloon1", "balloon2", "playground")
MEAN = f"mean of {len(SCENES)} scenes"  # name of such an entry in that file
COLUMNS = (
    ("psnr", "PSNR", 2), ("ssim", "SSIM", 4), ("lpips", "LPIPS", 4), ("psnr_dynamic", "PSNR moving", 2),
    ("psnr_static", "PSNR still", 2), ("flicker", "flicker", 2),
)  # fmt: skip


def evaluate_all(
    configs: list[Config], group: ProcessGroup = SINGLE_PROCESS, write_page: PageWriter | None = None
) -> Path:
    """Evaluate scene after scene; write `results_<protocol>.md`, `.tex` and `.json` where their experiments are.

    Args:
        configs: of the experiments.
        group: the processes that share the views of each.
        write_page: makes a page of each scene, see `evaluate`.

    Returns:
        The path of the Markdown table.

    Raises:
        InputError: some scenes could not be evaluated, or lack files; the table has what could be had.
    """
    folders = [config.experiment_dir for config in configs]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise UsageError(f"several configs are of one experiment, {twice[0]}: give each once")
    reports: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    for config in configs:
        try:
            report = json.loads(evaluate(config, pick_device(config), group, write_page).read_text())
            reports[config.expname] = report
            require_all_views(report, config)
        except InputError as error:
            failed.append(config.expname)
            log.error("%s: %s", config.expname, error)
    if not reports:
        raise InputError(f"none of the {len(configs)} scenes could be evaluated")
    protocol, folder = configs[0].protocol, Path(configs[0].basedir)
    path = folder / f"results_{protocol}.md"
    if group.is_main:
        means = {scene: report["mean"] for scene, report in reports.items()}
        rows = score_table(means, protocol)
        text = markdown(rows) + _incomplete(reports) + _sources(published_figures(list(means), protocol))
        _write(path, text, rows, {"protocol": protocol, "scenes": means, "failed": failed})
        print(text)
    group.barrier()
    if failed:
        raise InputError(f"{len(failed)} of {len(configs)} scenes could not be evaluated in full: {', '.join(failed)}")
    return path


def _write(path: Path, text: str, rows: list[list[str]], content: dict[str, Any]) -> None:
    with writing_to(path.parent):
        for suffix, written in ((".md", text), (".tex", latex(rows)), (".json", json.dumps(content, indent=1) + "\n")):
            with atomic_write(path.with_suffix(suffix)) as partial:
                partial.write_text(written)


def score_table(means: dict[str, dict[str, Any]], protocol: str) -> list[list[str]]:
    """Rows of text: scenes, their mean, then published figures, each with the number of its source."""
    rows = [["scene", *(title for _, title, _ in COLUMNS)]]
    rows += [_row(scene, mean) for scene, mean in means.items()]
    if len(means) > 1:
        every = [{name: mean.get(name) for name, _, _ in COLUMNS} for mean in means.values()]
        rows.append(_row(f"mean of {len(means)}", mean_of(every)))
    published = published_figures(list(means), protocol)
    numbers = {source: number for number, source in enumerate(dict.fromkeys(e["source"] for e in published), 1)}
    rows += [_row(f"{e['method']}, {e['scene']} (published [{numbers[e['source']]}])", e) for e in published]
    return rows


def published_figures(expnames: list[str], protocol: str) -> list[dict[str, Any]]:
    """Entries of `published.json` for the scenes of these experiments, with the means where all seven are there.

    Like stands beside like only: other protocols have none.

    Args:
        expnames: names of experiments; `balloon1_view0` and `balloon1-2_ndc_5f` are both of scene balloon1.
        protocol: of the figures that they stand beside.

    Returns:
        Scene by scene; `source` is spelled out.
    """
    if protocol != PUBLISHED_PROTOCOL:
        return []
    content = json.loads(PUBLISHED.read_text())
    scenes = [scene for scene in SCENES if any(name.lower().startswith(scene) for name in expnames)]
    wanted = [*scenes, MEAN] if len(scenes) == len(SCENES) else scenes
    chosen = [entry for scene in wanted for entry in content[protocol] if entry["scene"] == scene]
    return [entry | {"source": content["sources"][entry["source"]]} for entry in chosen]


def _row(title: str, mean: dict[str, Any]) -> list[str]:
    return [title, *(number(mean.get(name), digits) for name, _, digits in COLUMNS)]


def _sources(published: list[dict[str, Any]]) -> str:
    """The numbered sources of published figures, for below the table."""
    sources = dict.fromkeys(entry["source"] for entry in published)
    return "".join(f"\n[{number}] {source}.\n" for number, source in enumerate(sources, 1))


def _incomplete(reports: dict[str, dict[str, Any]]) -> str:
    """A line about scenes of which fewer views were scored than the protocol has."""
    counts = {scene: (len(report["views"]), report["views_of_protocol"]) for scene, report in reports.items()}
    fewer = [f"{scene} ({scored} of {all_} views)" for scene, (scored, all_) in counts.items() if scored < all_]
    return f"\nNot over all views of the protocol: {', '.join(fewer)}.\n" if fewer else ""
