"""Locks on an experiment folder and on folders of results, so that one run at a time writes into them."""

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
from nsff.io import read_text, write_text

log = logging.getLogger("nsff")

LOCK_FILE, OWNER_FILE = ".running.lock", ".running.json"


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder, made if missing, and write the owner's process and machine beside the lock.

    The operating system frees the lock of a process that died; the owner file that remains tells of the crash.

    Raises:
        InputError: another run holds the lock (its process and machine are named), or the folder cannot be written.
    """
    lock, owner_file = FileLock(folder / LOCK_FILE), folder / OWNER_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{folder.absolute()} is in use by {_describe_owner(owner_file)}; "
            "wait for it, stop it, or choose another --expname"
        ) from error
    except NotImplementedError:  # some network file systems
        log.warning("%s cannot be locked on this file system: make sure that only one run uses it", folder)
        yield
        return
    except OSError as error:
        raise InputError(f"cannot write to {folder.absolute()} ({error.strerror}); set --basedir") from error
    try:
        if owner_file.is_file():
            log.info(
                "the previous run (%s) did not shut down cleanly; resuming from its last checkpoint",
                _describe_owner(owner_file),
            )
        owner = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        write_text(owner_file, json.dumps(owner) + "\n")
        yield
    finally:
        owner_file.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def lock_results(folder: Path) -> Iterator[None]:
    """Lock a folder of renders or scores, by a file beside it: the folder itself may be moved aside.

    Raises:
        InputError: another process writes into it.
    """
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"{folder.absolute()} is being written by another run; wait for it, or stop it") from error
    except NotImplementedError:  # some network file systems
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _describe_owner(owner_file: Path) -> str:
    try:
        owner = json.loads(read_text(owner_file))
        return f"process {owner['pid']} on {owner['host']} (since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"
