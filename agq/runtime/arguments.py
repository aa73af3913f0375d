"""Types of what a caller from Python gives, checked before anything is done with it."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any


def whole(name: str, value: Any) -> int | None:
    """A whole number, or None. TypeError for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    return int(value)


def real(name: str, value: Any, default: float) -> float:
    """A number; None: the default. TypeError for anything else."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    return float(value)


def stop_texts(stop: Any) -> tuple[str, ...]:
    """One text or several. TypeError for anything else."""
    texts = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, Sequence) else (stop,)
    if wrong := [item for item in texts if not isinstance(item, str)]:
        raise TypeError(f"stop must be texts, not {type(wrong[0]).__name__}")
    return texts
