"""Store the frames and priors of a scene in memory or, above a size limit, in memory-mapped files.

Mapped files are uncompressed. The system reads their pages on access and drops them under memory pressure, so resident
memory does not grow with the length of the video.
"""

import contextlib
import hashlib
import json
import logging
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from nsff.errors import InputError
from nsff.io import read_text

log = logging.getLogger("nsff")

STAMP_FILE = "done.json"  # written last: without it, or with another stamp, the files are rebuilt
ROWS_PER_FLUSH = 16  # rows written between releases of their pages
CHUNK_BYTES = 1 << 24  # written at once where the system cannot allocate
CPU = torch.device("cpu")
Reader = Callable[[int], np.ndarray]


class FrameCache:
    """Arrays with one row per frame, filled row by row and kept in memory or in files.

    Args:
        folder: Folder of the files; created only if they are needed.
        n_frames: Number of rows of each array.
        limit_gb: Total size in GB above which all arrays go to files.
        sources: Files that the rows are read from; the files are rebuilt when the size or time of one changes.
        rules: Constants that the rows depend on, as text; the files are rebuilt when it changes.
    """

    def __init__(self, folder: Path, n_frames: int, limit_gb: float, sources: list[Path], rules: str = ""):
        self.folder, self.n_frames, self.limit_bytes, self.sources = folder, n_frames, limit_gb * 1e9, sources
        self.rules = rules
        self.maps: list[np.memmap] = []

    def fill(self, readers: dict[str, Reader], device: torch.device = CPU) -> dict[str, Tensor]:
        """Fill one array per reader, which maps a row index to the row.

        Rows of one reader all have the shape and type of its first. Files that are up to date are mapped, not rebuilt.

        Args:
            readers: by the name of the array.
            device: of arrays that are kept in memory; each row goes there as it is read. Mapped ones stay on the CPU.

        Raises:
            InputError: A source cannot be read, or the files cannot be written.
        """
        first = {name: read(0) for name, read in readers.items()}
        size = self.n_frames * sum(row.nbytes for row in first.values())
        if size <= self.limit_bytes:
            return {name: self._in_memory(first[name], read, device) for name, read in readers.items()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):  # several processes of one run may get here at once
                if not self._is_up_to_date():
                    log.info(
                        "writing %.1f GB of frames and priors to memory-mapped files in %s", size / 1e9, self.folder
                    )
                    for name, read in readers.items():
                        self._write(name, first[name], read)
                    (self.folder / STAMP_FILE).write_text(json.dumps(self._stamp()), encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"cannot write to {self.folder} ({error.strerror or error}): {size / 1e9:.1f} GB are needed; "
                f"free disk space, or keep the arrays in memory with --cache_gb {size / 1e9 + 0.1:.1f}"
            ) from error
        return {name: self._mapped(name) for name in readers}

    def release_pages(self) -> None:
        """Release the resident pages of mapped files; the next access reads them from the disk again."""
        for array in self.maps:
            array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

    def _in_memory(self, first: np.ndarray, read: Reader, device: torch.device) -> Tensor:
        rows = torch.empty((self.n_frames, *first.shape), dtype=torch.from_numpy(first).dtype, device=device)
        for index in range(self.n_frames):
            rows[index] = torch.from_numpy(first if index == 0 else read(index))
        return rows

    def _write(self, name: str, first: np.ndarray, read: Reader) -> None:
        shape, path = (self.n_frames, *first.shape), self.folder / f"{name}.npy"
        array = np.lib.format.open_memmap(path, "w+", first.dtype, shape)
        _allocate(path, array.offset)
        for index in range(self.n_frames):
            array[index] = first if index == 0 else read(index)
            if index % ROWS_PER_FLUSH == 0:
                array.flush()
                array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
        array.flush()

    def _mapped(self, name: str) -> Tensor:
        array = np.load(self.folder / f"{name}.npy", mmap_mode="r+")
        self.maps.append(array)
        return torch.from_numpy(array)

    def _stamp(self) -> str:
        """Digest of the rules and of path, size and modification time of all sources."""
        states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self.sources if path.is_file()]
        return hashlib.sha256(json.dumps([self.rules, states]).encode()).hexdigest()

    def _is_up_to_date(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return json.loads(read_text(self.folder / STAMP_FILE)) == self._stamp()
        return False


def _allocate(path: Path, offset: int) -> None:
    """Claim the disk space of a file: a write through a map to a full disk would kill the process with SIGBUS.

    Args:
        path: of the file.
        offset: bytes of its header; what follows is not written yet.

    Raises:
        OSError: the disk has too little space.
    """
    size = path.stat().st_size
    with path.open("rb+") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:  # macOS has no such call: a file full of zeros has its space as well
            file.seek(offset)
            for start in range(offset, size, CHUNK_BYTES):
                file.write(bytes(min(CHUNK_BYTES, size - start)))
