"""The command line of every script: parser, messages, progress bars, exit status."""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

try:
    import configargparse
    from tqdm import tqdm
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing}; run make install once, and source .venv/bin/activate in this shell")

from nsff.errors import InputError, UsageError

log = logging.getLogger("nsff")

RED, YELLOW = 31, 33  # ANSI colour codes
FILE_INTERVAL = 10.0  # seconds between lines of a progress bar that goes to a file


class Parser(configargparse.ArgumentParser):
    """A parser with `--quiet` and `--verbose` that reports a wrong command line in one line.

    Options may be abbreviated where that is unambiguous, as in the published scripts.
    """

    def __init__(self, description: str | None = None, **options: Any):
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, add_config_file_help=False,
            **options,
        )  # fmt: skip
        _add_message_options(self.add_argument_group("messages"))

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see --help")


def _add_message_options(group: Any) -> None:
    group.add_argument("--quiet", action="store_true", help="no progress, only warnings, errors and results")
    group.add_argument("--verbose", action="store_true", help="more lines, and tracebacks of errors")


class LineFormatter(logging.Formatter):
    """Prefixes warnings and errors with `warning: ` and `error: `."""

    def format(self, record: logging.LogRecord) -> str:
        heads = {logging.WARNING: coloured("warning:", YELLOW) + " ", logging.ERROR: coloured("error:", RED) + " "}
        return heads.get(record.levelno, "") + super().format(record)


def coloured(word: str, colour: int) -> str:
    """The word in an ANSI colour on a terminal; plain in a file or where NO_COLOR is set (no-color.org)."""
    return f"\033[{colour}m{word}\033[0m" if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else word


def set_up_messages(argv: list[str]) -> None:
    """Set the log level from `--quiet` and `--verbose`, before any option that may fail is parsed.

    Of several processes, the main one reports progress and the others only errors.
    """
    flags = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    _add_message_options(flags)
    given, _ = flags.parse_known_args(argv)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    log.setLevel(logging.WARNING if given.quiet else logging.DEBUG if given.verbose else logging.INFO)
    if os.environ.get("RANK", "0") != "0":
        log.setLevel(logging.ERROR)


def progress_bar(*given: Any, disable: bool = False, **options: Any) -> tqdm:
    """A tqdm bar that `--quiet` hides; it writes a line every ten seconds where standard error is a file."""
    interval = 0.1 if sys.stderr.isatty() else FILE_INTERVAL
    hidden = disable or not log.isEnabledFor(logging.INFO)
    return tqdm(*given, disable=hidden, **{"mininterval": interval, **options})


def run_script(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a script's `main` and exit.

    Exit status: 0 if all went well, 2 for a wrong command line, 130 if interrupted, 1 for any other error that a user
    can mend, which is one line on standard error.
    """
    set_up_messages(sys.argv[1:])
    status, in_group = 0, int(os.environ.get("WORLD_SIZE", "1")) > 1
    error: Exception | None = None
    try:
        main(sys.argv[1:])
    except InputError as caught:
        status, error, text = 2 if isinstance(caught, UsageError) else 1, caught, str(caught)
    except OSError as caught:
        where = f" {caught.filename}" if caught.filename else ""
        status, error, text = 1, caught, f"cannot read or write{where} ({caught.strerror or caught})"
    except KeyboardInterrupt:
        status = 130
        print("interrupted; files that were finished stay", file=sys.stderr)
    except Exception:
        if not in_group:
            raise
        status = 1
        traceback.print_exc()
    if error is not None:
        log.debug("traceback", exc_info=error)
        print(f"{coloured('error:', RED)} {text}", file=sys.stderr)
    if in_group:
        # At once: leaving the interpreter would wait for collectives that others have not reached, and background
        # threads of a process group now and then abort it (exit status -6).
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
