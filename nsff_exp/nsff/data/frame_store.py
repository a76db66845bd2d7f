"""Where the frames and priors of a scene are kept: in memory, or, where they are many, in files mapped into it.

Mapped files are uncompressed; the system reads pages of them as they are looked at and drops them when it needs room,
so that memory does not grow with the length of the clip.
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

log = logging.getLogger("nsff")

DONE = "done.json"
Reader = Callable[[int], np.ndarray]


class FrameCache:
    """Arrays with one row a frame, filled by a reader a row at a time.

    Args:
        folder: for files, if they are needed.
        n_frames: rows of each array.
        limit_gb: arrays beyond so much together are kept in files.
        sources: files that the rows are read from: when one changes, the cache is made again.
        rules: constants by which the rows are made, as text: when one changes, too.
    """

    def __init__(self, folder: Path, n_frames: int, limit_gb: float, sources: list[Path], rules: str = ""):
        self.folder, self.n_frames, self.limit, self.sources = folder, n_frames, limit_gb * 1e9, sources
        self.rules = rules
        self.maps: list[np.memmap] = []

    def fill(self, readers: dict[str, Reader]) -> dict[str, Tensor]:
        """The arrays by name; a reader gives the row of a frame by its place.

        Raises:
            InputError: a source cannot be read, or the files cannot be written.
        """
        first = {name: read(0) for name, read in readers.items()}
        size = self.n_frames * sum(row.nbytes for row in first.values())
        if size <= self.limit:
            return {name: self._in_memory(first[name], read) for name, read in readers.items()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):  # several processes may start at once
                if not self._is_done():
                    log.info("%.1f GB of frames and priors go to files in %s", size / 1e9, self.folder)
                    for name, read in readers.items():
                        self._write(name, first[name], read)
                    (self.folder / DONE).write_text(json.dumps(self._stamp()))
        except OSError as error:
            raise InputError(
                f"cannot write to {self.folder} ({error.strerror or error}): {size / 1e9:.1f} GB are needed; "
                f"make room, or keep them in memory with --cache_gb {size / 1e9 + 0.1:.1f}"
            ) from error
        return {name: self._mapped(name) for name in readers}

    def forget(self) -> None:
        """Let go of the pages that were looked at; they are read again when they are wanted."""
        for array in self.maps:
            array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

    def _in_memory(self, first: np.ndarray, read: Reader) -> Tensor:
        array = np.empty((self.n_frames, *first.shape), first.dtype)
        for index in range(self.n_frames):
            array[index] = first if index == 0 else read(index)
        return torch.from_numpy(array)

    def _write(self, name: str, first: np.ndarray, read: Reader) -> None:
        shape, path = (self.n_frames, *first.shape), self.folder / f"{name}.npy"
        array = np.lib.format.open_memmap(path, "w+", first.dtype, shape)
        with path.open("rb+") as file:  # a map into a file that the disk has no room for would end the process
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        for index in range(self.n_frames):
            array[index] = first if index == 0 else read(index)
            if index % 16 == 0:
                array.flush()
                array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
        array.flush()

    def _mapped(self, name: str) -> Tensor:
        array = np.load(self.folder / f"{name}.npy", mmap_mode="r+")
        self.maps.append(array)
        return torch.from_numpy(array)

    def _stamp(self) -> str:
        facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self.sources if path.is_file()]
        return hashlib.sha256(json.dumps([self.rules, facts]).encode()).hexdigest()

    def _is_done(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.folder / DONE).read_text()) == self._stamp()
        return False
