"""GPTQ and AWQ folders: what is read of every layout, and one clear error for each that is damaged or not read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agq.checkpoint import open_checkpoint, read_linear
from agq.errors import AgqError
from tests.checkpoint.folders import config
from tests.checkpoint.word_folders import Tensors, write_words

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    "table",
    [
        GPTQ,
        GPTQ | {"sym": True, "group_size": -1},
        GPTQ | {"checkpoint_format": "gptq_v2"},
        GPTQ | {"bits": 2},
        GPTQ | {"bits": 3, "checkpoint_format": "gptq_v2"},
        GPTQ | {"bits": 3},
        GPTQ | {"bits": 8, "group_size": -1},
        AWQ,
        AWQ | {"group_size": -1},
    ],
    ids=lambda table: "-".join(str(value) for value in table.values()),
)
def test_codes_are_kept(tmp_path: Path, table: dict[str, Any]) -> None:
    expected = write_words(tmp_path, config("llama"), table)
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.quantization.modules()) == set(expected)
    for module, values in expected.items():
        stored = read_linear(checkpoint, module)
        assert np.array_equal(stored.dequantize(), values)
        assert stored.bits == (8 if table["bits"] == 8 else 4) and (stored.zero is None) == table.get("sym", False)
        some = np.array([5, 0, 17])
        assert np.array_equal(checkpoint.codes(module, some), stored.codes[some])
        assert np.array_equal(checkpoint.codes(module, slice(17, 30)), stored.codes[17:30])


def test_a_zero_point_of_0_borrows_from_its_neighbour() -> None:
    """GPTQModel takes one from every field of a word at once: 0x...50 becomes 0x...3F."""
    from agq.checkpoint.readers.gptq import GptqLayout
    from agq.models import Linear

    word = (0x87654350 - 0x11111111) & 0xFFFFFFFF
    words = np.array([[word]], np.uint32).view(np.int32)
    zeros = GptqLayout(less_one=True).zeros(words, 4, Linear("x", "up", 8, 32, False))
    assert zeros.tolist() == [[0, 5, 3, 4, 5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("packing", "stored"),
    [
        ("auto_round:auto_gptq", GPTQ),
        ("auto_round:gptqmodel", GPTQ | {"checkpoint_format": "gptq_v2"}),
        ("auto_round", GPTQ | {"checkpoint_format": "gptq_v2"}),
        ("auto_round:auto_awq", AWQ),
        ("auto_round:gptq", GPTQ),
        ("auto_round:awq", AWQ),
    ],
)
def test_auto_round_s_own_format(tmp_path: Path, packing: str, stored: dict[str, Any]) -> None:
    """`extra_config`: a linear by its name comes before a pattern that matches it too, and null says nothing."""
    wide = {"bits": 4, "group_size": 64}
    settings = config("llama", intermediate_size=128)
    expected = write_words(tmp_path, settings, stored, of=lambda name: wide if "mlp" in name and name != UP else {})
    table = {"quant_method": "auto-round", "packing_format": packing, "bits": 4, "group_size": 32, "sym": False}
    extra = {r".*\.mlp\..*": {"group_size": 64}, UP: {"group_size": 32, "bits": None}}
    settings["quantization_config"] = table | {"extra_config": extra}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    checkpoint = open_checkpoint(tmp_path)
    for module, values in expected.items():
        assert np.array_equal(read_linear(checkpoint, module).dequantize(), values)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"packing_format": None}, "no `packing_format` says how zero points are stored"),
        ({"act_bits": 8}, "activations of 8 bits are not read"),
        ({"extra_config": {"a{99999999999999}": {}}}, "is not a regular expression"),
    ],
)
def test_what_auto_round_may_mean(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    settings = config("llama")
    write_words(tmp_path, settings, GPTQ)
    table = {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4, "group_size": 32}
    settings["quantization_config"] = table | {"sym": False} | changes
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(AgqError, match=words):
        open_checkpoint(tmp_path)


def test_inputs_that_cannot_be_made_anew_are_told_at_once(tmp_path: Path) -> None:
    """48 columns in groups of 16 would need groups of 32."""
    settings = config("llama", hidden_size=48, num_attention_heads=4, num_key_value_heads=4, intermediate_size=96)
    write_words(tmp_path, settings, GPTQ | {"group_size": 16})
    with pytest.raises(AgqError, match="48 inputs are no multiple of 32"):
        open_checkpoint(tmp_path)


def test_a_zero_point_of_0_in_3_bits() -> None:
    """By hand: 0, 1, 7 and four less one are 7, 0, 6, 3; numbers of 3 bits cross the words, each is moved alone."""
    from agq.checkpoint.readers.gptq import GptqLayout
    from agq.models import Linear

    string = sum(number << 3 * place for place, number in enumerate([7, 0, 6, *[3] * 7, 7, *[3] * 21]))
    words = np.array([[string >> 32 * word & 0xFFFFFFFF for word in range(3)]], np.uint32).view(np.int32)
    zeros = GptqLayout(less_one=True).zeros(words, 3, Linear("x", "up", 32, 32, False))
    assert zeros.tolist() == [[0, 1, 7, *[4] * 7, 0, *[4] * 21]]


def test_gptq_is_symmetric_unless_it_says_otherwise(tmp_path: Path) -> None:
    settings = config("llama")
    write_words(tmp_path, settings, GPTQ | {"sym": True})
    settings["quantization_config"] = {key: value for key, value in GPTQ.items() if key != "sym"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert open_checkpoint(tmp_path).scales(UP).zero is None


def shuffled(columns: int, size: int) -> np.ndarray:
    return np.random.default_rng(columns).permutation(np.arange(columns) // size)


@pytest.mark.parametrize("table", [GPTQ, GPTQ | {"sym": True}, GPTQ | {"bits": 3}], ids=["asym", "sym", "3 bits"])
def test_groups_in_activation_order_are_kept(tmp_path: Path, table: dict[str, Any]) -> None:
    """Codes of a group stand together, and an order says which inputs they multiply."""
    expected = write_words(tmp_path, config("llama"), table | {"desc_act": True}, shuffled)
    checkpoint = open_checkpoint(tmp_path)
    for module, values in expected.items():
        stored, order = read_linear(checkpoint, module), checkpoint.scales(module).order
        assert np.array_equal(stored.dequantize(), values)
        assert (stored.bits, stored.scale.shape[1]) == (4, values.shape[1] // 32)
        assert order.dtype == np.uint32 and np.array_equal(np.sort(order), np.arange(values.shape[1]))
        some = np.array([5, 0, 17])
        assert np.array_equal(checkpoint.codes(module, some), stored.codes[some])
        assert checkpoint.quantization.words(module).endswith("columns in activation order")
    assert checkpoint.notes() == []


def gate_order(order: np.ndarray) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({f"{UP.replace('up', 'gate')}.g_idx": ("I32", order.astype("<i4"))})


def test_one_order_for_what_is_computed_together(tmp_path: Path) -> None:
    """gate numbers its groups otherwise than up; the same columns are together."""
    write_words(tmp_path, config("llama"), GPTQ, shuffled, gate_order(1 - shuffled(64, 32)))
    checkpoint = open_checkpoint(tmp_path)
    orders = [checkpoint.scales(name).order for name in (UP, UP.replace("up", "gate"))]
    assert np.array_equal(*orders) and checkpoint.notes() == []
    values = checkpoint.quantization.values(checkpoint._stored, UP.replace("up", "gate"), slice(None))
    assert np.array_equal(read_linear(checkpoint, UP.replace("up", "gate")).dequantize(), values)


def test_one_order_for_groups_of_two_sizes(tmp_path: Path) -> None:
    """Those of gate, 64 columns, hold two of up each."""
    mixed = np.random.default_rng(1).permutation(128)
    wide = {"group_size": 64}
    table = GPTQ | {"dynamic": {r"+:.*\.gate_proj": wide}}
    settings = config("llama", hidden_size=128, intermediate_size=128)
    expected = write_words(
        tmp_path, settings, table, lambda _, size: mixed // size, of=lambda name: wide if "gate" in name else {}
    )
    checkpoint = open_checkpoint(tmp_path)
    for module, values in expected.items():
        stored = read_linear(checkpoint, module)
        assert np.array_equal(stored.dequantize(), values) and stored.scale.shape[1] == 4
    assert checkpoint.notes() == []


def test_orders_that_cannot_be_one(tmp_path: Path) -> None:
    """No kernel has such groups: 8-bit codes with a scale for each 32 columns, close to the folder's values."""
    expected = write_words(tmp_path, config("llama"), GPTQ, shuffled, gate_order(shuffled(64, 32)[::-1]))
    checkpoint = open_checkpoint(tmp_path)
    rounded = {UP, UP.replace("up", "gate")}
    assert set(checkpoint.quantization.rounded) == rounded
    for module, values in expected.items():
        stored = read_linear(checkpoint, module)
        if module == UP:
            assert (stored.bits, stored.scale.shape[1]) == (8, values.shape[1] // 32)
            step = np.repeat(stored.scale, 32, axis=1)
            assert (np.abs(stored.dequantize() - values) <= step * 0.501).all()
        elif module not in rounded:
            assert np.array_equal(stored.dequantize(), values)
    (note,) = checkpoint.notes()
    assert re.fullmatch(
        r"2 linears stored in 8 bits for each 32 columns \(activation orders of linears that are computed together\): "
        r"relative error 0\.\d+ %",
        note,
    )


def test_whole_groups_in_another_order_are_kept(tmp_path: Path) -> None:
    backwards: Callable[[int, int], np.ndarray] = lambda columns, size: np.arange(columns)[::-1] // size  # noqa: E731
    expected = write_words(tmp_path, config("llama"), GPTQ, backwards)
    checkpoint = open_checkpoint(tmp_path)
    for module, values in expected.items():
        assert np.array_equal(read_linear(checkpoint, module).dequantize(), values)
    assert checkpoint.notes() == []


def test_groups_of_16_columns_are_made_anew(tmp_path: Path) -> None:
    expected = write_words(tmp_path, config("llama"), GPTQ | {"group_size": 16})
    checkpoint = open_checkpoint(tmp_path)
    for module, values in expected.items():
        assert np.abs(read_linear(checkpoint, module).dequantize() - values).max() < 0.01
    assert "groups of 16 columns" in checkpoint.notes()[0]


def test_what_is_computed_together_gets_one_form(tmp_path: Path) -> None:
    """gate in 8 bits and groups of 64 beside up in 4 bits and groups of 32; a block's attention left in floats."""
    wide = {"bits": 8, "group_size": 64, "sym": True}
    table = GPTQ | {"dynamic": {r"+:.*\.gate_proj": wide}}
    settings = config("llama", hidden_size=128, intermediate_size=128)
    expected = write_words(tmp_path, settings, table, of=lambda name: wide if "gate_proj" in name else {})
    checkpoint = open_checkpoint(tmp_path)
    for module, values in expected.items():
        stored = read_linear(checkpoint, module)
        assert np.array_equal(stored.dequantize(), values)
        together = "gate_proj" in module or "up_proj" in module
        assert (stored.bits, stored.scale.shape[1]) == (8 if together else 4, 4)
        assert stored.zero is not None


def drop(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.pop(name) and None


def put(name: str, dtype: str, values: Any) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: (dtype, np.asarray(values))})


def spoil(name: str, value: float) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name][1].flat[3] = value

    return change


EVEN = np.arange(64, dtype="<i4") // 32


@pytest.mark.parametrize(
    ("table", "change", "words"),
    [
        (GPTQ, put(f"{UP}.g_idx", "I32", np.where(EVEN, 2, 0).astype("<i4")), "`.*up_proj.g_idx` names groups outside"),
        (GPTQ, put(f"{UP}.g_idx", "I32", -EVEN), "g_idx` names groups outside 0..1"),
        (GPTQ, put(f"{UP}.g_idx", "I32", np.zeros(64, "<i4")), "g_idx` does not give 32 columns to each of 2 groups"),
        (GPTQ, put(f"{UP}.g_idx", "I32", EVEN[:32]), r"g_idx` is I32 \[32\], not I32 \[64\]"),
        (GPTQ, put(f"{UP}.g_idx", "I64", EVEN.astype("<i8")), "g_idx` is I64"),
        (GPTQ, drop(f"{UP}.qzeros"), "lacks 1 tensors: .*up_proj.qzeros"),
        (GPTQ, drop(f"{UP}.qweight"), "lacks 1 tensors: .*up_proj.qweight"),
        (AWQ, drop(f"{UP}.scales"), "lacks 1 tensors: .*up_proj.scales"),
        (GPTQ, put(f"{UP}.qweight", "I32", np.zeros((4, 96), "<i4")), r"does not fit .*qweight`: of shape \[4, 96\]"),
        (AWQ, put(f"{UP}.qweight", "I32", np.zeros((96, 8), "<i4")), r"does not fit .*qweight`: of shape \[96, 8\]"),
        (AWQ, put(f"{UP}.scales", "I32", np.zeros((2, 96), "<i4")), "does not fit .*scales`: I32, not"),
        (GPTQ, put(f"{UP}.bias", "F16", np.ones(96, "<f2")), "`.*up_proj.bias` is a bias that the model does not have"),
        (AWQ | {"group_size": 24}, None, "group size 24 is not a multiple of 32 that divides 64"),
        (GPTQ | {"bits": 5}, None, "codes of 5 bits"),
        (GPTQ | {"bits": "4"}, None, "codes of '4' bits"),
        (AWQ | {"bits": 8}, None, "codes of 8 bits"),
        (GPTQ | {"group_size": 0}, None, "`group_size` is 0"),
        (GPTQ | {"sym": 1}, None, "`sym` is 1, not true or false"),
        (GPTQ | {"checkpoint_format": "marlin"}, None, "the format `marlin`"),
        (GPTQ | {"checkpoint_format": "gptq_p"}, None, "the format `gptq_p`"),
        (GPTQ | {"is_marlin_format": True}, None, "the format `marlin`"),
        (GPTQ | {"pack_dtype": "int16"}, None, "int16 words"),
        (GPTQ | {"dynamic": {"+:(": {}}}, None, "not a regular expression"),
        (GPTQ | {"dynamic": {"x": 4}}, None, "`x` is not an object"),
        (GPTQ | {"dynamic": {"x": {"colour": 1}}}, None, "unknown `colour`"),
        (GPTQ | {"dynamic": []}, None, "`dynamic` is not an object"),
        (AWQ | {"version": "gemv"}, None, "the order `gemv`"),
    ],
)
def test_one_error_names_what_is_wrong(
    tmp_path: Path, table: dict[str, Any], change: Callable[[Tensors], None] | None, words: str
) -> None:
    sound = {"bits": 4, "group_size": 32, "checkpoint_format": "gptq"} | {
        key: value for key, value in table.items() if key in ("quant_method", "sym") and type(value) is not int
    }
    settings = config("llama")
    write_words(tmp_path, settings, sound, change=change)
    (tmp_path / "config.json").write_text(json.dumps({**settings, "quantization_config": table}))
    with pytest.raises(AgqError, match=words) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (spoil(f"{UP}.scales", np.nan), "up_proj.scales` holds values that are not finite"),
        (spoil(f"{UP}.qzeros", 0), "is declared symmetric but has zero points other than 8"),
    ],
)
def test_values_that_cannot_be(tmp_path: Path, change: Callable[[Tensors], None], words: str) -> None:
    write_words(tmp_path, config("llama"), GPTQ | {"sym": True}, change=change)
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(AgqError, match=words):
        checkpoint.scales(UP)


@pytest.mark.parametrize("method", ["bitsandbytes", "hqq", "quanto", "eetq", "aqlm", "gguf", None, 4])
def test_other_methods_are_refused_by_name(tmp_path: Path, method: object) -> None:
    write_words(tmp_path, config("llama"), GPTQ)
    settings = {**config("llama"), "quantization_config": {"quant_method": method}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(AgqError, match=f"quantized by `{method}` cannot be read") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.hint
