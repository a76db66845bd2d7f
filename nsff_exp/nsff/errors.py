"""Errors that a user can mend: one line that says what, where, and what to run."""


class InputError(Exception):
    """An input that cannot be used. Exit status 1."""

    def __str__(self) -> str:
        return super().__str__().replace("\n", "\\n")  # a file name may contain one: the message stays one line


class UsageError(InputError):
    """A wrong command line or config file. Exit status 2."""
