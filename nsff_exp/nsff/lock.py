"""One run at a time writes checkpoints into a folder."""

import contextlib
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from nsff.errors import InputError

log = logging.getLogger("nsff")

LOCK, HOLDER = ".running.lock", ".running.json"


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if it is not there; who holds it stands in a file beside the lock.

    The system frees the lock of a process that died, however it did: what it left is recognised by its note.

    Raises:
        InputError: another run holds it, its process and machine are named; or it cannot be written.
    """
    lock, note = FileLock(folder / LOCK), folder / HOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{folder.absolute()} is in use by {_describe(note)}; wait for it, stop it, or choose another --expname"
        ) from error
    except NotImplementedError:  # some network disks
        log.warning("%s cannot be locked on this disk: see to it that one run at a time uses it", folder)
        yield
        return
    except OSError as error:
        raise InputError(f"cannot write to {folder.absolute()} ({error.strerror}); set --basedir") from error
    try:
        if note.is_file():
            log.info("%s ended without a word; going on from its last checkpoint", _describe(note))
        facts = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        note.write_text(json.dumps(facts) + "\n")
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _describe(note: Path) -> str:
    try:
        facts = json.loads(note.read_text())
        return f"process {facts['pid']} on {facts['host']} (since {facts['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"
