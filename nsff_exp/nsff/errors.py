"""Errors that a user can mend: one line that says what, where, and what to run."""

import re

ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # of terminals, in the messages of some libraries


def reason_of(error: Exception, max_length: int = 120) -> str:
    """The message of another program's error as one line, without colours, cut after a word."""
    text = " ".join(ESCAPES.sub("", str(error)).split())
    return text if len(text) <= max_length else text[:max_length].rpartition(" ")[0].rstrip(".,:;([") + " ..."


class InputError(Exception):
    """An input that cannot be used. Exit status 1."""

    def __str__(self) -> str:
        return super().__str__().replace("\n", "\\n")  # a file name may contain one: the message stays one line


class UsageError(InputError):
    """A wrong command line or config file. Exit status 2."""
