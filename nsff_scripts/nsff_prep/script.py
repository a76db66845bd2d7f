"""What all preparation scripts share: one clear line and an exit status for what went wrong."""

import argparse
import logging
import sys
from collections.abc import Callable
from typing import NoReturn

log = logging.getLogger("nsff_prep")


class PrepError(Exception):
    """What the user can mend: what, where, what to run."""


class UsageError(PrepError):
    """A command line that cannot be followed."""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the command line; no abbreviated options."""

    def __init__(self, description: str | None):
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see --help")


def run_script(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a script; exits with 0 if all went well, 2 for a wrong command line, 130 interrupted, 1 for anything else."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    try:
        main(sys.argv[1:])
    except PrepError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        print(f"error: cannot read or write{where} ({error.strerror or error})", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; files that were finished stay", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
