"""The two errors that a user sees. Everything that is the user's to mend is one of them; anything else is a bug."""


class AgqError(Exception):
    """Bad input or a missed gate.

    Args:
        message: what is wrong, in the user's terms, no trailing period, names in backticks.
        hint: what to do about it, or None.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(AgqError):
    """A wrong command line: unknown value, options that exclude each other."""

    exit_code = 2
