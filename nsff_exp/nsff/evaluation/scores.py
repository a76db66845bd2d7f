"""Scores of held-out views, their means and the report of an evaluation, with their form in JSON and CSV files."""

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nsff.errors import InputError
from nsff.io import read_text

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RegionScores:
    """Image metrics over one region. None where a metric is undefined: empty region, or LPIPS without weights.

    Attributes:
        psnr: in dB; infinite for equal images.
        ssim: structural similarity, 1 for equal images.
        lpips: perceptual distance, 0 for equal images.
    """

    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None


@dataclasses.dataclass(frozen=True)
class ImageScores:
    """Metrics of one view: over the whole image, its moving part, and the rest."""

    whole: RegionScores
    moving: RegionScores
    static: RegionScores

    def to_json(self) -> Json:
        """Flat keys: `psnr`, `ssim`, `lpips`, then each with `_dynamic`, then each with `_static`."""
        return {
            f"{metric}{suffix}": value
            for suffix, region in (("", self.whole), ("_dynamic", self.moving), ("_static", self.static))
            for metric, value in dataclasses.asdict(region).items()
        }

    @staticmethod
    def from_json(values: Json) -> "ImageScores":
        """The inverse of `to_json`; a key that is missing reads as None."""
        return ImageScores(*(
            RegionScores(*(values.get(f"{metric}{suffix}") for metric in ("psnr", "ssim", "lpips")))
            for suffix in ("", "_dynamic", "_static")
        ))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ViewScore:
    """Scores of one held-out view.

    Attributes:
        name: of the view, like `00003/cam06`.
        image: its metrics.
        seconds: wall time of the render.
        peak_memory_gb: peak memory of the render, in GB.
        flicker: temporal instability in grey levels, see `evaluator.flicker`.
    """

    name: str
    image: ImageScores
    seconds: float | None = None
    peak_memory_gb: float | None = None
    flicker: float | None = None

    def to_json(self) -> Json:
        cost = {"seconds": self.seconds, "peak_memory_gb": self.peak_memory_gb, "flicker": self.flicker}
        return {"name": self.name, **self.image.to_json(), **cost}

    @staticmethod
    def from_json(values: Json) -> "ViewScore":
        cost = (values.get(key) for key in ("seconds", "peak_memory_gb", "flicker"))
        return ViewScore(values["name"], ImageScores.from_json(values), *cost)


@dataclasses.dataclass(frozen=True)
class KeypointScore:
    """PCK-T of a scene, 0..1; None without annotated key points."""

    pck_t: float | None


@dataclasses.dataclass(frozen=True)
class MeanScore:
    """Means over views, each over the views in which the score is defined; None if it is defined in none.

    Attributes:
        image: mean metrics.
        seconds: mean wall time per render.
        peak_memory_gb: mean peak memory per render, in GB.
        flicker: mean temporal instability, in grey levels.
        keypoints: key-point transfer; None for protocols without it.
    """

    image: ImageScores
    seconds: float | None = None
    peak_memory_gb: float | None = None
    flicker: float | None = None
    keypoints: KeypointScore | None = None

    def to_json(self) -> Json:
        cost = {"seconds": self.seconds, "peak_memory_gb": self.peak_memory_gb, "flicker": self.flicker}
        keypoints = dataclasses.asdict(self.keypoints) if self.keypoints else {}
        return {**self.image.to_json(), **cost, **keypoints}

    @staticmethod
    def from_json(values: Json) -> "MeanScore":
        keypoints = KeypointScore(values["pck_t"]) if "pck_t" in values else None
        image, seconds, peak = ImageScores.from_json(values), values.get("seconds"), values.get("peak_memory_gb")
        return MeanScore(image, seconds, peak, values.get("flicker"), keypoints)


@dataclasses.dataclass(frozen=True)
class CheckpointSource:
    """The checkpoint a report was made from."""

    path: str
    step: int


@dataclasses.dataclass(frozen=True)
class EvaluationReport:
    """Content of `metrics_<protocol>.json`.

    Attributes:
        protocol: name of the protocol.
        mean: over `views`.
        views: scores per view.
        missing: paths of the missing files of views that were left out.
        views_of_protocol: number of views of the full protocol, without `--every` and before any were left out.
        checkpoint: that was evaluated.
        command: command line that made the report.
        versions: of Python and the libraries, by name.
    """

    protocol: str
    mean: MeanScore
    views: list[ViewScore]
    missing: list[str]
    views_of_protocol: int
    checkpoint: CheckpointSource
    command: str
    versions: dict[str, str]

    def to_json(self) -> Json:
        """The content of `metrics_<protocol>.json`."""
        return {
            "protocol": self.protocol,
            "mean": self.mean.to_json(),
            "views": [view.to_json() for view in self.views],
            "missing": self.missing,
            "views_of_protocol": self.views_of_protocol,
            "checkpoint": dataclasses.asdict(self.checkpoint),
            "command": self.command,
            "versions": self.versions,
        }

    @staticmethod
    def from_json(values: Json) -> "EvaluationReport":
        """The report that `to_json` wrote."""
        return EvaluationReport(
            protocol=values["protocol"],
            mean=MeanScore.from_json(values["mean"]),
            views=[ViewScore.from_json(view) for view in values["views"]],
            missing=values["missing"],
            views_of_protocol=values["views_of_protocol"],
            checkpoint=CheckpointSource(values["checkpoint"]["path"], values["checkpoint"]["step"]),
            command=values["command"],
            versions=values["versions"],
        )


def read_report(path: Path) -> EvaluationReport:
    """Read `metrics_<protocol>.json`.

    Raises:
        InputError: the file is missing, cut off or of another kind.
    """
    try:
        return EvaluationReport.from_json(json.loads(read_text(path)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a complete report; delete it and run evaluation.py again") from error


def mean_of_views(views: list[ViewScore]) -> MeanScore:
    """Mean of every score over the views in which it is defined."""
    return MeanScore(
        mean_of_images([view.image for view in views]),
        mean_of(view.seconds for view in views),
        mean_of(view.peak_memory_gb for view in views),
        mean_of(view.flicker for view in views),
    )


def mean_of_images(images: list[ImageScores]) -> ImageScores:
    """Mean of every metric over the images in which it is defined."""
    rows = [image.to_json() for image in images]
    return ImageScores.from_json({key: mean_of(row[key] for row in rows) for key in rows[0]})


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None if all are."""
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None


def finite_or_null(value: Any) -> Any:
    """Replace infinity and NaN, which JSON lacks, by None, in nested dicts and lists as well."""
    if isinstance(value, dict):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite_or_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
