"""Effective bits of activations: worked by hand, and the same of a folder and of what is packed from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agq.artifact import effective as packed
from agq.artifact import open_artifact
from agq.artifact.pack import pack
from agq.checkpoint import effective as folders
from agq.checkpoint import open_checkpoint
from agq.formats import PER_ROW, Granularity, PerGroup, activation_format
from agq.formats.effective import LinearInput, Width, activation_bits, mean_words
from tests.checkpoint.folders import config, write_folder, write_quantized

GOLDEN = Path(__file__).parent.parent / "golden"
SCHEME = {
    "weights": {"bits": 4, "symmetric": True, "group_size": 32},
    "activations": {"bits": 4, "symmetric": False, "group_size": -1},
}


def item(bits: int, group: Granularity, products: int) -> LinearInput:
    return LinearInput(activation_format(bits), group, f"{bits} {group}", products)


def test_the_mean_counts_multiplications() -> None:
    """SmolLM2-135M, q, k, v of 28 of 30 blocks in 8 bits: docs/results.md says 4.58."""
    qkv, rest = 576 * (576 + 2 * 192), 576 * 576 + 3 * 576 * 1536
    coarse, wide = PerGroup(64), PER_ROW
    inputs = [item(8 if index > 1 else 4, wide if index > 1 else coarse, qkv) for index in range(30)]
    found = activation_bits([*inputs, *[item(4, coarse, rest)] * 30], Width(4, coarse))
    assert found is not None and found.coarse
    assert found.mean == pytest.approx(4 + 4 * 28 / 30 * qkv / (qkv + rest)) and f"{found.mean:.2f}" == "4.58"
    assert found.raised_products == pytest.approx(28 / 30 * qkv / (qkv + rest))
    assert found.raised_inputs == pytest.approx(28 / 60) and found.inputs == 60
    assert [(kind.bits, kind.inputs, kind.raised) for kind in found.kinds] == [(4, 32, False), (8, 28, True)]
    assert found.describe() == "4.58; 28 of 60 inputs are finer than the scheme says, 15 % of multiply-accumulates"


def test_smaller_groups_are_finer_and_cost_no_bits() -> None:
    found = activation_bits([item(4, PerGroup(32), 3), item(4, PerGroup(128), 1)], Width(4, PerGroup(128)))
    assert found is not None and found.mean == 4
    assert (found.raised_inputs, found.raised_products) == (0.5, 0.75)
    assert Width(4, PerGroup(128)).finer(Width(4, PER_ROW)) and not Width(4, PER_ROW).finer(Width(4, PerGroup(32)))
    assert not Width(4, PerGroup(32)).finer(Width(8, PER_ROW)) and Width(8, PER_ROW).finer(Width(4, PerGroup(32)))


def test_without_a_scheme_nothing_is_raised() -> None:
    found = activation_bits([item(8, PER_ROW, 1), item(4, PER_ROW, 1)], None)
    assert found is not None and found.mean == 6 and found.raised_inputs == 0
    assert found.describe() == "6" and mean_words(found.mean) == "6 activation bits"


def test_floats_count_as_sixteen_and_alone_as_none() -> None:
    assert activation_bits([item(16, PER_ROW, 5)], None) is None and activation_bits([], None) is None
    mixed = activation_bits([item(16, PER_ROW, 1), item(8, PER_ROW, 3)], None)
    assert mixed is not None and mixed.mean == 10 and not mixed.coarse


def test_a_folder_and_its_packed_file_agree(tmp_path: Path) -> None:
    folder = write_quantized(tmp_path / "model", config("llama"))
    parts = open_checkpoint(folder).parts
    four, eight = SCHEME["activations"], {"bits": 8, "symmetric": True, "group_size": -1}
    wide = {parts.block(1).linears[role].module for role in "qkv"}
    small = {parts.block(0).linears["down"].module}
    table = {
        linear.module: eight
        if linear.module in wide
        else {**four, "group_size": 32}
        if linear.module in small
        else four
        for linear in parts.block_linears()
    }
    (folder / "agq.json").write_text(json.dumps({"format": 1, "scheme": SCHEME, "activations": table}))
    found = folders.effective_bits(open_checkpoint(folder))
    # Of a block q, k, v are 64 x 128, o 64 x 64, gate and up 64 x 192, down 96 x 64: 30720 multiplications.
    assert found is not None and found.mean == pytest.approx(4 + 4 * 8192 / 61440)
    assert [(kind.words, kind.inputs, kind.raised) for kind in found.kinds] == [
        ("4 per token asym", 6, False),
        ("8 per token", 1, True),
        ("4 g32 asym", 1, True),
    ]
    pack(folder, tmp_path / "packed")
    assert packed.effective_bits(open_artifact(tmp_path / "packed")) == found


def test_static_activations_have_their_own_bits() -> None:
    """opt-agile: of a block down, 3/8 of the multiplications, has 8 bits, the others 4."""
    found = packed.effective_bits(open_artifact(GOLDEN / "abi4" / "opt-agile.agq.safetensors"))
    assert found is not None and found.mean == 5.5


def test_a_model_of_floats_has_none(tmp_path: Path) -> None:
    assert folders.effective_bits(open_checkpoint(write_folder(tmp_path, config("opt")))) is None
