"""Download of weights from where their authors publish them, with a check of the SHA-256."""

import dataclasses
import hashlib
import http.client
import logging
import re
import urllib.error
from pathlib import Path

import torch
from torchvision.models import AlexNet_Weights
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights
from torchvision.models.optical_flow import Raft_Large_Weights, Raft_Small_Weights

from nsff.errors import InputError, UsageError
from nsff.prep.weights import MASK_RCNN, MIDAS, MODELS, RAFT, RAFT_SMALL, places_in_scripts

log = logging.getLogger("nsff")

MIDAS_SIZE = 403.0  # MiB of its tensors; torchvision states the sizes of its files.


@dataclasses.dataclass(frozen=True)
class Download:
    """A file of `models/`.

    Attributes:
        name: name for `--only`.
        file: name of the file.
        url: address of the file.
        digest: first hexadecimal digits of its SHA-256.
        mebibytes: size of the file.
        purpose: use of the file, for `--list`.
        by_default: downloaded without `--only`.
    """

    name: str
    file: str
    url: str
    digest: str
    mebibytes: float
    purpose: str
    by_default: bool = True


def _from_torchvision(name: str, file: str, weights: object, purpose: str, by_default: bool = True) -> Download:
    url, size = weights.url, weights.meta["_file_size"]  # type: ignore[attr-defined]
    match = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    assert match, url
    return Download(name, Path(file).name, url, match[1], size, purpose, by_default)


DOWNLOADS = (
    _from_torchvision(
        "raft", RAFT, Raft_Large_Weights.C_T_V1, "optical flow (torchvision's port of the published file)"
    ),
    _from_torchvision(
        "raft_small", RAFT_SMALL, Raft_Small_Weights.C_T_V1, "for --small (torchvision's port, too)", by_default=False
    ),
    Download(
        "midas", Path(MIDAS).name, "https://github.com/intel-isl/MiDaS/releases/download/v2/model-f46da743.pt",
        "f46da743", MIDAS_SIZE, "disparity, MiDaS v2",
    ),
    Download(
        "midas21", "midas_v21.pt", "https://github.com/isl-org/MiDaS/releases/download/v2_1/model-f6b98070.pt",
        "f6b98070", MIDAS_SIZE, "disparity, MiDaS v2.1", by_default=False,
    ),
    _from_torchvision("maskrcnn", MASK_RCNN, MaskRCNN_ResNet50_FPN_Weights.COCO_V1, "masks of movable things"),
    _from_torchvision("lpips", "alexnet.pth", AlexNet_Weights.IMAGENET1K_V1, "LPIPS trunk, for --lpips_trunk"),
)  # fmt: skip


def select_downloads(only: str | None) -> list[Download]:
    """Select the default files, or those named in a comma-separated list.

    Raises:
        UsageError: an unknown name.
    """
    if not only:
        return [item for item in DOWNLOADS if item.by_default]
    by_name = {item.name: item for item in DOWNLOADS}
    for name in only.split(","):
        if name not in by_name:
            raise UsageError(f"--only {name} is unknown; choose from {', '.join(by_name)}")
    return [by_name[name] for name in only.split(",")]


def installed_folder(item: Download, folder: Path) -> Path | None:
    """Find the folder that holds a file already; for models/, all places that the scripts look in are searched."""
    places = places_in_scripts(f"models/{item.file}") if folder == MODELS else [folder / item.file]
    return next((place.parent for place in places if place.is_file()), None)


def has_digest(path: Path, digest: str) -> bool:
    """Check that the SHA-256 of a file starts with these hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(digest)


def download(item: Download, folder: Path) -> None:
    """Download a file unless it exists; it appears under its name only once its SHA-256 is verified.

    Raises:
        InputError: the server cannot be reached, or sends another file.
    """
    path = folder / item.file
    if path.is_file():
        note = "" if has_digest(path, item.digest) else " (not the published file; used as it is)"
        log.info("%s exists%s", path, note)
        return
    folder.mkdir(parents=True, exist_ok=True)
    log.info("downloading %s (%.0f MiB)", item.file, item.mebibytes)
    try:
        torch.hub.download_url_to_file(item.url, str(path), item.digest, progress=log.isEnabledFor(logging.INFO))
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"{item.url} cannot be downloaded ({reason}); run download_models.py again, or put the file at {path}"
        ) from error
    except RuntimeError as error:  # the SHA-256 differs
        raise InputError(
            f"{item.url} gave a file that is not {item.file} (its SHA-256 differs), or the connection broke off; "
            "run download_models.py again"
        ) from error
    log.info("wrote %s", path)
