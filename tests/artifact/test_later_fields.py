"""A field that a later version adds to a linear: files that lack it, and files that have it."""

from dataclasses import dataclass, replace

import pytest

from agq.artifact.linear_info import LinearInfo
from agq.errors import AgqError
from agq.formats import PerGroup
from agq.models.fields import added

SHAPE = (48, 64)
LINEAR = LinearInfo(*SHAPE, "u4", "bf16", PerGroup(32), act_bits=8)


@dataclass(frozen=True)
class Later(LinearInfo):
    cap: float = added(0.0, 99)


def test_files_of_earlier_versions_have_the_default() -> None:
    stored = LINEAR.to_dict()
    assert LinearInfo.from_dict(stored, "head", SHAPE) == LINEAR and (stored["in"], stored["group"]) == (64, 32)
    later = Later.from_dict(stored, "head", SHAPE)
    assert later.cap == 0.0 and later.to_dict() == stored


def test_a_value_is_stored_and_earlier_versions_refuse_it() -> None:
    later = replace(Later.from_dict(LINEAR.to_dict(), "head", SHAPE), cap=2.0)
    assert Later.from_dict(later.to_dict(), "head", SHAPE) == later
    with pytest.raises(AgqError, match="unknown `cap`"):
        LinearInfo.from_dict(later.to_dict(), "head", SHAPE)
    with pytest.raises(AgqError, match="wrong type"):
        Later.from_dict({**later.to_dict(), "cap": 2}, "head", SHAPE)


@pytest.mark.parametrize("key", sorted(LINEAR.to_dict()))
def test_every_other_key_is_needed(key: str) -> None:
    """Whatever its default in Python."""
    stored = LINEAR.to_dict()
    del stored[key]
    with pytest.raises(AgqError, match=f"no `{key}`"):
        LinearInfo.from_dict(stored, "head", SHAPE)
