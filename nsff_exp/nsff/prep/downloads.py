"""Weights from where their authors publish them: resumed, checked, never half there."""

import dataclasses
import hashlib
import http.client
import logging
import re
import urllib.error
import urllib.request
from pathlib import Path

from torchvision.models import AlexNet_Weights
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights
from torchvision.models.optical_flow import Raft_Large_Weights, Raft_Small_Weights

from nsff.cli import progress_bar
from nsff.errors import InputError, UsageError
from nsff.prep.weights import MASK_RCNN, MIDAS, MODELS, RAFT, RAFT_SMALL, places_in_scripts

log = logging.getLogger("nsff")

CHUNK, TIMEOUT = 1 << 20, 30.0  # bytes, seconds
MIDAS_SIZE = 403.0  # MiB, of its tensors; torchvision states the size of its files


@dataclasses.dataclass(frozen=True)
class Download:
    """A file of `models/`. `digest`: the first hexadecimal digits of its SHA-256. `usual`: fetched unless named."""

    name: str
    file: str
    url: str
    digest: str
    mebibytes: float
    what: str
    usual: bool = True


def _of_torchvision(name: str, file: str, weights: object, what: str, usual: bool = True) -> Download:
    url, size = weights.url, weights.meta["_file_size"]  # type: ignore[attr-defined]
    match = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    assert match, url
    return Download(name, Path(file).name, url, match[1], size, what, usual)


DOWNLOADS = (
    _of_torchvision(
        "raft", RAFT, Raft_Large_Weights.C_T_V1, "optical flow (torchvision's port of the published file)"
    ),
    _of_torchvision(
        "raft_small", RAFT_SMALL, Raft_Small_Weights.C_T_V1, "for --small (torchvision's port, too)", usual=False
    ),
    Download(
        "midas", Path(MIDAS).name, "https://github.com/intel-isl/MiDaS/releases/download/v2/model-f46da743.pt",
        "f46da743", MIDAS_SIZE, "disparity, MiDaS v2",
    ),
    Download(
        "midas21", "midas_v21.pt", "https://github.com/isl-org/MiDaS/releases/download/v2_1/model-f6b98070.pt",
        "f6b98070", MIDAS_SIZE, "disparity, MiDaS v2.1", usual=False,
    ),
    _of_torchvision("maskrcnn", MASK_RCNN, MaskRCNN_ResNet50_FPN_Weights.COCO_V1, "things that are able to move"),
    _of_torchvision("lpips", "alexnet.pth", AlexNet_Weights.IMAGENET1K_V1, "LPIPS trunk, for --lpips_trunk"),
)  # fmt: skip


def choose(only: str | None) -> list[Download]:
    """Choose the usual files, or those named in a list with commas.

    Raises:
        UsageError: an unknown name.
    """
    if not only:
        return [item for item in DOWNLOADS if item.usual]
    by_name = {item.name: item for item in DOWNLOADS}
    for name in only.split(","):
        if name not in by_name:
            raise UsageError(f"--only {name}: there is {', '.join(by_name)}")
    return [by_name[name] for name in only.split(",")]


def folder_of(item: Download, folder: Path) -> Path | None:
    """Find the folder that has a file already: the given one or, if it is models/, all that the scripts look in."""
    places = places_in_scripts(f"models/{item.file}") if folder == MODELS else [folder / item.file]
    return next((place.parent for place in places if place.is_file()), None)


def matches(path: Path, digest: str) -> bool:
    """Whether a file has this SHA-256."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            sha.update(block)
    return sha.hexdigest().startswith(digest)


def download(item: Download, folder: Path) -> None:
    """Fetch a file unless it is there. What an earlier run got of it is not fetched again.

    Raises:
        InputError: no network, or the file is not the right one (it is deleted).
    """
    path = folder / item.file
    if path.is_file():
        note = "" if matches(path, item.digest) else " (not the published file; it is used as it is)"
        log.info("%s is there%s", path, note)
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{item.file}.partial"
    try:
        _fetch(item, partial)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"{item.url} cannot be fetched ({reason}); put the file at {path} by hand") from error
    if not matches(partial, item.digest):
        partial.unlink()
        raise InputError(f"{item.url} gave a file that is not {item.file} (its SHA-256 differs); it was deleted")
    partial.replace(path)
    log.info("wrote %s", path)


def _fetch(item: Download, partial: Path) -> None:
    had = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(item.url, headers={"Range": f"bytes={had}-"} if had else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to fetch
            return
        raise
    with response:
        resumed = had and response.status == 206
        total = int(response.headers.get("Content-Length") or 0) + (had if resumed else 0)
        with (
            partial.open("ab" if resumed else "wb") as file,
            progress_bar(
                total=total or None, initial=had if resumed else 0, unit="B", unit_scale=True, desc=item.file
            ) as bar,
        ):
            while block := response.read(CHUNK):
                file.write(block)
                bar.update(len(block))
            if total and file.tell() < total:
                raise ConnectionError(f"the connection broke off at {file.tell()} of {total} bytes; run it again")
