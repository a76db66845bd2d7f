"""What all scripts share: one clear line and an exit status for errors, how much is said, and the device."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import configargparse
import torch
from tqdm import tqdm

from nsff.config import Config
from nsff.errors import InputError, UsageError

log = logging.getLogger("nsff")

RED, YELLOW = 31, 33


@contextlib.contextmanager
def memory_advice(config: Config) -> Iterator[None]:
    """Where a render does not fit a GPU: which option to lower, and to what.

    Raises:
        InputError: instead of torch.OutOfMemoryError within.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"the GPU has not enough memory to render {config.netchunk} points at once; "
            f"--netchunk {max(1, config.netchunk // 4)} needs about a quarter"
        ) from error


class LineFormatter(logging.Formatter):
    """`warning: ` or `error: ` before what is one."""

    def format(self, record: logging.LogRecord) -> str:
        heads = {logging.WARNING: coloured("warning:", YELLOW) + " ", logging.ERROR: coloured("error:", RED) + " "}
        return heads.get(record.levelno, "") + super().format(record)


def coloured(word: str, colour: int) -> str:
    """In colour on a terminal, plain in a file or where NO_COLOR is set (no-color.org)."""
    return f"\033[{colour}m{word}\033[0m" if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else word


_bar = tqdm.__init__


def _silent(bar: tqdm, *given: Any, **options: Any) -> None:
    """A progress bar that shows nothing."""
    _bar(bar, *given, **{**options, "disable": True})


def _seldom(bar: tqdm, *given: Any, **options: Any) -> None:
    """A progress bar for a file: a line every ten seconds."""
    _bar(bar, *given, **{"mininterval": 10.0, **options})


def set_up_messages(argv: list[str]) -> None:
    """`--quiet`: warnings and errors only, no progress bars; `--verbose`: more lines, and where an error came from."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if "--quiet" in argv:
        log.setLevel(logging.WARNING)
        tqdm.__init__ = _silent
    else:
        log.setLevel(logging.DEBUG if "--verbose" in argv else logging.INFO)
        if not sys.stderr.isatty():
            tqdm.__init__ = _seldom
    if os.environ.get("RANK", "0") != "0":  # of torchrun's processes, one tells how it goes
        log.setLevel(logging.ERROR)


def run_script(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a script: one clear line instead of a traceback for what the user can mend.

    Exits with 0 if all went well, 2 for a wrong command line, 1 for anything else, 130 if interrupted.
    """
    set_up_messages(sys.argv)
    status = 0
    error: Exception | None = None
    try:
        main(sys.argv[1:])
    except InputError as caught:
        status, error, text = 2 if isinstance(caught, UsageError) else 1, caught, str(caught)
    except KeyboardInterrupt:
        status = 130
        print("interrupted", file=sys.stderr)
    if error is not None:
        log.debug("where it came from", exc_info=error)
        print(f"{coloured('error:', RED)} {text}", file=sys.stderr)
    sys.exit(status)


class Parser(configargparse.ArgumentParser):
    """Says in one line what is wrong with the command line."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; see --help")


def add_message_options(parser: Parser) -> None:
    """`--quiet` and `--verbose`, which the script heard before anything was read (`script.set_up_messages`)."""
    messages = parser.add_argument_group("messages")
    messages.add_argument("--quiet", action="store_true", help="no progress, only warnings, errors and results")
    messages.add_argument("--verbose", action="store_true", help="more lines, and where an error came from")
