"""Folders that GPTQModel, AutoGPTQ, optimum and auto-round write as GPTQ.

A linear is `qweight` int32 [in * bits / 32, out], `qzeros` int32 [groups, out * bits / 32], `scales` [groups, out], and
perhaps `g_idx` int32 [in]. Codes of an output stand below each other, as one string of bits from the low end of the
first word; zero points of a group stand beside each other in the same way. `checkpoint_format`: "gptq" has every zero
point less one, "gptq_v2" as it is.
Layout: GPTQModel 7.7, gptqmodel/nn_modules/qlinear/__init__.py and gptqmodel/utils/model.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agq.checkpoint.packing import packed_words, unpack_unsigned
from agq.checkpoint.readers import settings
from agq.checkpoint.readers.reader import Rows
from agq.checkpoint.readers.words import WordForm, WordLayout, WordQuantization
from agq.checkpoint.source import TensorSource
from agq.errors import AgqError
from agq.models import Linear

# Whether zero points are stored less one, by `checkpoint_format`.
_FORMATS = {"gptq": True, "gptq_v2": False}
_BITS = (2, 3, 4, 8)
AGAIN = "save it again in the format gptq or gptq_v2, or quantize the 16-bit model with `agq quantize`"
# Keys that an entry of `dynamic` may set for the modules that it matches.
_DYNAMIC = {"bits", "group_size", "sym", "desc_act", "damp_percent", "mse"}


@dataclass(frozen=True)
class GptqLayout(WordLayout):
    """less_one: every zero point is stored less one."""

    less_one: bool
    ordered = True

    def shapes(self, linear: Linear, bits: int, groups: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        rows, columns = linear.out_features, linear.in_features
        return (packed_words(columns, bits), rows), (groups, packed_words(rows, bits))

    def codes(self, words: np.ndarray, bits: int, linear: Linear, rows: Rows) -> np.ndarray:
        return unpack_unsigned(words[:, rows].T, bits, linear.in_features)

    def zeros(self, words: np.ndarray, bits: int, linear: Linear) -> np.ndarray:
        whole = not 8 % bits  # codes in a byte
        if self.less_one and whole:
            # Zero points of 0 were stored by taking one from each field of a whole word: that borrows from the next.
            ones = 0xFFFFFFFF // ((1 << bits) - 1)
            words = (words.view(np.uint32) + np.uint32(ones)).view(np.int32)
        found = unpack_unsigned(words, bits, linear.out_features)
        if self.less_one and not whole:
            found = (found + np.uint8(1)) & np.uint8((1 << bits) - 1)
        return found


def read_gptq(
    table: dict[str, Any], linears: list[Linear], source: TensorSource, where: str, config: Mapping[str, Any]
) -> WordQuantization:
    """Reader of a folder whose `quant_method` is gptq. Raises AgqError for what is not read."""
    format = settings.name(table, ("checkpoint_format", "format"), "gptq")
    if settings.flag(table, "is_marlin_format", False, where):
        format = "marlin"
    if format not in _FORMATS:
        raise AgqError(f"{where}: GPTQ in the format `{format}` is not read", hint=AGAIN)
    pack = settings.name(table, ("pack_dtype",), "int32").removeprefix("torch.")
    if pack != "int32":
        raise AgqError(f"{where}: codes packed into {pack} words are not read", hint=AGAIN)
    layout = GptqLayout(_FORMATS[format])
    rules = _rules(table.get("dynamic"), where)
    forms = {}
    for linear in stored_in_words(linears, source):
        own = next((values for pattern, values in rules if pattern.match(linear.module)), {})
        if own is not None:
            forms[linear.module] = word_form({**table, **own}, layout, _BITS, where)
    return WordQuantization(table, forms, source)


def stored_in_words(linears: list[Linear], source: TensorSource) -> list[Linear]:
    """Those that have codes in words, and those of the blocks that have nothing: their codes are missing."""
    return [
        linear
        for linear in linears
        if source.has(f"{linear.module}.qweight")
        or (linear.role != "head" and not source.has(f"{linear.module}.weight"))
    ]


def word_form(table: dict[str, Any], layout: WordLayout, bits: tuple[int, ...], where: str) -> WordForm:
    """The form that a config gives a linear. bits: those that the layout is read with."""
    return WordForm(
        settings.width(table, bits, where),
        settings.granularity(table, where),
        settings.flag(table, "sym", True, where),
        layout,
    )


def _rules(value: Any, where: str) -> list[tuple[re.Pattern[str], dict[str, Any] | None]]:
    """`dynamic` of GPTQModel: regular expressions of module names -> what is otherwise there; None: not quantized."""
    if value is None:
        return []
    if not isinstance(value, dict):
        raise AgqError(f"{where}: `dynamic` is not an object")
    rules: list[tuple[re.Pattern[str], dict[str, Any] | None]] = []
    for key, values in value.items():
        try:
            pattern = re.compile(key.removeprefix("+:").removeprefix("-:"))
        except (re.error, OverflowError, RecursionError) as error:
            raise AgqError(f"{where}: dynamic: `{key}` is not a regular expression: {error}") from error
        if key.startswith("-:"):
            rules.append((pattern, None))
            continue
        if not isinstance(values, dict) or (unknown := sorted(set(values) - _DYNAMIC)):
            listed = "" if not isinstance(values, dict) else f": unknown {', '.join(f'`{name}`' for name in unknown)}"
            raise AgqError(f"{where}: dynamic: `{key}`{listed or ' is not an object'}")
        rules.append((pattern, values))
    return rules
