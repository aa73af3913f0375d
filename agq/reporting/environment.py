"""Reading settings from AGQ_* variables."""

import os

from agq.errors import UsageError

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"", "0", "false", "no", "off"}


def flag(name: str) -> bool:
    """Whether a variable is switched on; UsageError for anything that is neither on nor off."""
    value = os.environ.get(name, "").strip().lower()
    if value in _TRUE or value in _FALSE:
        return value in _TRUE
    raise UsageError(f"environment variable {name} is `{value}`", hint="use 1 or 0")


def number(name: str) -> int:
    """A variable as a whole number, 0 where it is not set; on/off words count as 1 and 0."""
    value = os.environ.get(name, "").strip().lower()
    if value.isdigit():
        return int(value)
    return int(flag(name))
