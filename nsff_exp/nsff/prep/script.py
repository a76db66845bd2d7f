"""What all preparation scripts share: one clear line and an exit status for what went wrong, and how much is said."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from tqdm import tqdm

log = logging.getLogger("nsff")

RED, YELLOW = 31, 33


class PrepError(Exception):
    """What the user can mend: what, where, what to run."""

    def __str__(self) -> str:
        return super().__str__().replace("\n", "\\n")  # a file may be called so; it is one line nevertheless


class UsageError(PrepError):
    """A command line that cannot be followed."""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the command line. Options may be abbreviated where that is unambiguous."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        messages = self.add_argument_group("messages")
        messages.add_argument("--quiet", action="store_true", help="no progress, only warnings, errors and results")
        messages.add_argument("--verbose", action="store_true", help="more lines, and where an error came from")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see --help")


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
    """Say as much as `--quiet` and `--verbose` ask for."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if _is_given("--quiet", argv):
        log.setLevel(logging.WARNING)
        tqdm.__init__ = _silent
    else:
        log.setLevel(logging.DEBUG if _is_given("--verbose", argv) else logging.INFO)
        if not sys.stderr.isatty():
            tqdm.__init__ = _seldom


def _is_given(option: str, argv: list[str]) -> bool:
    """Tell whether an option, or an abbreviation of it, is typed; the parser refuses ambiguous ones later."""
    return any(option.startswith(word) and word.startswith("--") and word != "--" for word in argv)


def run_script(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a script; exits with 0 if all went well, 2 for a wrong command line, 130 interrupted, 1 for anything else."""
    set_up_messages(sys.argv)
    status = 0
    error: Exception | None = None
    try:
        main(sys.argv[1:])
    except PrepError as caught:
        status, error, text = 2 if isinstance(caught, UsageError) else 1, caught, str(caught)
    except OSError as caught:
        where = f" {caught.filename}" if caught.filename else ""
        status, error, text = 1, caught, f"cannot read or write{where} ({caught.strerror or caught})"
    except KeyboardInterrupt:
        status = 130
        print("interrupted; files that were finished stay", file=sys.stderr)
    if error is not None:
        log.debug("where it came from", exc_info=error)
        print(f"{coloured('error:', RED)} {text}", file=sys.stderr)
    sys.exit(status)
