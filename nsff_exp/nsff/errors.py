"""What can go wrong by a user's hand: one line that says what, where, and what to run."""


class InputError(Exception):
    """What the user gave cannot be used; the message says what, where, and what to run. Exit status 1."""

    def __str__(self) -> str:
        return super().__str__().replace("\n", "\\n")  # a file may be called so; it is one line nevertheless


class UsageError(InputError):
    """The command line or the config file is wrong. Exit status 2."""
