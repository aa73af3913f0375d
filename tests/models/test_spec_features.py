"""A new feature or family: old descriptions load, and what does not use it is stored as before."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path

import pytest

from agq.errors import AgqError
from agq.models import FAMILIES, ModelSpec, RopeSpec, parts, spec_from_config
from agq.models.fields import added
from tests.models.published import (
    ALL,
    GALACTICA,
    LLAMA_32_1B_INSTRUCT,
    TINYLLAMA,
)


@dataclass(frozen=True)
class WiderRope(RopeSpec):
    """Rotary positions with one more feature."""

    share: float = added(1.0, 5)


@dataclass(frozen=True)
class WiderSpec(ModelSpec):
    """A decoder with one more feature, as a family with it would declare it."""

    head_norm: bool = added(False, 5)


@pytest.mark.parametrize("config", ALL)
def test_a_new_feature_is_a_field_with_a_default(config: dict) -> None:
    """Descriptions of today load and mean the default; what does not use the feature is stored as today."""
    today = spec_from_config(config).to_dict()
    old = WiderSpec.from_dict(json.loads(json.dumps(today)))
    assert old.head_norm is False and json.dumps(old.to_dict()) == json.dumps(today)
    new = replace(old, head_norm=True)
    assert new.to_dict() == {**today, "head_norm": True}
    assert WiderSpec.from_dict(json.loads(json.dumps(new.to_dict()))) == new
    with pytest.raises(AgqError, match="unknown `head_norm`"):
        ModelSpec.from_dict(new.to_dict())
    with pytest.raises(AgqError, match="`head_norm` must be true or false"):
        WiderSpec.from_dict({**today, "head_norm": "no"})


def test_a_new_feature_inside_rope(monkeypatch: pytest.MonkeyPatch) -> None:
    today = spec_from_config(LLAMA_32_1B_INSTRUCT).to_dict()
    monkeypatch.setattr("agq.models.spec.RopeSpec", WiderRope)
    old = ModelSpec.from_dict(today)
    assert old.rope.share == 1.0 and old.to_dict() == today
    new = replace(old, rope=replace(old.rope, share=0.5))
    assert new.to_dict()["rope"] == {**today["rope"], "share": 0.5}
    assert ModelSpec.from_dict(new.to_dict()) == new


def test_defaults_of_earlier_fields_are_stored() -> None:
    """Every artifact so far names them: bytes stay what they were."""
    stored = spec_from_config(GALACTICA).to_dict()
    earlier = [item.name for item in fields(ModelSpec) if not item.metadata]
    assert list(stored) == earlier and stored["rope"] is None
    assert stored["position_offset"] == 2 and stored["norm_affine"] is False and stored["embed_norm"] is False


def test_a_matrix_before_the_head_is_for_an_embedding_as_wide_as_the_blocks() -> None:
    spec = spec_from_config({**TINYLLAMA, "tie_word_embeddings": True})
    assert replace(spec, head_matrix=True).to_dict() == {**spec.to_dict(), "head_matrix": True}
    for change in ({"tied": False}, {"embed_dim": spec.hidden // 2}):
        with pytest.raises(AgqError, match="`head_matrix` is for a head that is an embedding as wide as the blocks"):
            replace(spec, head_matrix=True, **change)


def test_a_family_is_one_row_and_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up family: LLaMA's arithmetic under other names."""
    (tmp_path / "agq_test_family.py").write_text(
        "from dataclasses import replace\n"
        "from agq.models import llama\n"
        "def spec(config):\n"
        "    return replace(llama.spec(config), family='alpaca')\n"
        "def parts(spec):\n"
        "    return replace(llama.parts(spec), base_prefix='decoder.', embed='decoder.embed')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AgqError, match="`alpaca` is not supported"):
        spec_from_config({**TINYLLAMA, "model_type": "alpaca"})
    monkeypatch.setitem(FAMILIES, "alpaca", "agq_test_family")
    spec = spec_from_config({**TINYLLAMA, "model_type": "alpaca"})
    assert spec.family == "alpaca" and parts(spec).embed == "decoder.embed"
    assert ModelSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_module_is_complete(family: str) -> None:
    module = import_module(FAMILIES[family])
    assert callable(module.spec) and callable(module.parts)
