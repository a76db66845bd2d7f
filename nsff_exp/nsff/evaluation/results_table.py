"""Scores of many scenes in one table, with their mean and the published scores of the same protocol."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import torch

from nsff.config import Config
from nsff.distributed import SINGLE_PROCESS, LostProcess, ProcessGroup
from nsff.errors import InputError, UsageError
from nsff.evaluation.evaluator import PageWriter, evaluate, require_all_views
from nsff.evaluation.scores import EvaluationReport, MeanScore, mean_of, mean_of_images, read_report
from nsff.evaluation.tables import cells, latex, markdown, number
from nsff.io import read_text, write_text

log = logging.getLogger("nsff")

PUBLISHED = Path(__file__).with_name("published.json")
PUBLISHED_PROTOCOL = "dynamicnerf"  # the only one with published scores in that file
SCENES = ("jumping", "skating", "truck", "umbrella", "balloon1", "balloon2", "playground")
MEAN = f"mean of {len(SCENES)} scenes"  # name of such an entry in that file
HEADER = ["scene", "PSNR", "SSIM", "LPIPS", "PSNR moving", "PSNR static", "flicker"]


@dataclasses.dataclass(frozen=True)
class PublishedScore:
    """Published scores of a method on a scene, whole image; `source` is the citation."""

    method: str
    scene: str
    source: str
    psnr: float
    ssim: float | None = None
    lpips: float | None = None


def evaluate_all(
    configs: list[Config],
    device: torch.device,
    group: ProcessGroup = SINGLE_PROCESS,
    write_page: PageWriter | None = None,
) -> Path:
    """Evaluate scene after scene; write `results_<protocol>.md`, `.tex` and `.json` beside their experiments.

    Args:
        configs: of the experiments.
        device: to render on.
        group: processes that share the views of each scene.
        write_page: writes a page per scene, see `evaluate`.

    Returns:
        The path of the Markdown table.

    Raises:
        InputError: some scenes could not be evaluated, or lack files; the table has the others.
        LostProcess: a process of the group has ended.
        UsageError: two configs are of the same experiment, or of different protocols.
    """
    folders = [config.experiment_dir for config in configs]
    if repeated := [folder for folder in folders if folders.count(folder) > 1]:
        raise UsageError(f"several configs are of the same experiment, {repeated[0]}: give each once")
    if len(protocols := sorted({config.protocol for config in configs})) > 1:
        raise UsageError(f"the configs name the protocols {', '.join(protocols)}: give one for all by --protocol")
    reports: dict[str, EvaluationReport] = {}
    failed: list[str] = []
    for config, scene in zip(configs, _scene_names(configs), strict=True):
        try:
            path = evaluate(config, device, group, write_page)
            with group.share_errors():
                reports[scene] = read_report(path)
            require_all_views(reports[scene], config)
        except LostProcess:
            raise
        except InputError as error:
            failed.append(scene)
            if group.is_main:
                log.error("%s: %s", scene, error)
    if not reports:
        raise InputError(f"none of the {len(configs)} scenes could be evaluated, see the errors above")
    protocol, folder = configs[0].protocol, Path(configs[0].basedir)
    path = folder / f"results_{protocol}.md"
    with group.share_errors():
        if group.is_main:
            means = {scene: report.mean for scene, report in reports.items()}
            rows = score_table(means, protocol)
            text = markdown(rows) + _incomplete(reports) + _citations(published_scores(list(means), protocol))
            scenes = {scene: mean.to_json() for scene, mean in means.items()}
            _write(path, text, rows, {"protocol": protocol, "scenes": scenes, "failed": failed})
            print(text)
    if failed:
        raise InputError(f"{len(failed)} of {len(configs)} scenes could not be evaluated in full: {', '.join(failed)}")
    return path


def _scene_names(configs: list[Config]) -> list[str]:
    """Names of the rows: those of the experiments, with their frames or folders where several have one name."""
    folders = [config.experiment_dir for config in configs]
    columns = (
        [config.expname for config in configs],
        [folder.name for folder in folders],
        [str(path) for path in folders],
    )
    rows = zip(*columns, strict=True)
    return [next(name for name, column in zip(row, columns, strict=True) if column.count(name) == 1) for row in rows]


def _write(path: Path, text: str, rows: list[list[str]], content: dict[str, Any]) -> None:
    for suffix, written in ((".md", text), (".tex", latex(rows)), (".json", json.dumps(content, indent=1) + "\n")):
        write_text(path.with_suffix(suffix), written)


def score_table(means: dict[str, MeanScore], protocol: str) -> list[list[str]]:
    """Rows of text: header, scenes, their mean, then published scores, each with the number of its source."""
    rows = [HEADER, *(_row(scene, mean) for scene, mean in means.items())]
    if len(means) > 1:
        rows.append(_row(f"mean of {len(means)}", _mean_of_scenes(list(means.values()))))
    published = published_scores(list(means), protocol)
    numbers = {source: number for number, source in enumerate(dict.fromkeys(entry.source for entry in published), 1)}
    for entry in published:
        title = f"{entry.method}, {entry.scene} (published [{numbers[entry.source]}])"
        rows.append([title, number(entry.psnr, 2), number(entry.ssim, 4), number(entry.lpips, 4), "-", "-", "-"])
    return rows


def _mean_of_scenes(means: list[MeanScore]) -> MeanScore:
    """Every scene counts the same, however many views it has."""
    return MeanScore(mean_of_images([mean.image for mean in means]), flicker=mean_of(mean.flicker for mean in means))


def _row(title: str, mean: MeanScore) -> list[str]:
    image = mean.image
    others = (image.moving.psnr, image.static.psnr, mean.flicker)
    return [title, *cells(image.whole), *(number(value, 2) for value in others)]


def published_scores(expnames: list[str], protocol: str) -> list[PublishedScore]:
    """Entries of `published.json` for the scenes of these experiments, and the published means if all seven are given.

    Scores of different protocols cannot be compared: protocols other than `PUBLISHED_PROTOCOL` have none.

    Args:
        expnames: names of experiments; `balloon1_view0` and `balloon1-2_ndc_5f` are both of scene balloon1.
        protocol: of the scores they are compared with.

    Returns:
        Scene by scene.
    """
    if protocol != PUBLISHED_PROTOCOL:
        return []
    content = json.loads(read_text(PUBLISHED))
    scenes = [scene for scene in SCENES if any(name.lower().startswith(scene) for name in expnames)]
    titles = [*scenes, MEAN] if len(scenes) == len(SCENES) else scenes
    entries = [entry for scene in titles for entry in content[protocol] if entry["scene"] == scene]
    return [PublishedScore(**entry | {"source": content["sources"][entry["source"]]}) for entry in entries]


def _citations(published: list[PublishedScore]) -> str:
    """The numbered sources of published scores, for below the table."""
    sources = dict.fromkeys(entry.source for entry in published)
    return "".join(f"\n[{number}] {source}.\n" for number, source in enumerate(sources, 1))


def _incomplete(reports: dict[str, EvaluationReport]) -> str:
    """A line that names the scenes with fewer scored views than the protocol has."""
    fewer = [
        f"{scene} ({len(report.views)} of {report.views_of_protocol} views)"
        for scene, report in reports.items()
        if len(report.views) < report.views_of_protocol
    ]
    return f"\nNot over all views of the protocol: {', '.join(fewer)}.\n" if fewer else ""
