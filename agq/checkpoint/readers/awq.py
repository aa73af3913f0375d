"""Folders that AutoAWQ and its successors write as AWQ, in the order `gemm`.

A linear is `qweight` int32 [in, out / 8], `qzeros` int32 [groups, out / 8], `scales` [groups, out]. A word holds eight
outputs of one column, from its low end those of numbers 0, 2, 4, 6, 1, 3, 5, 7.
Layout: AutoAWQ 0.2.9, awq/modules/linear/gemm.py.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from agq.checkpoint.packing import unpack_unsigned
from agq.checkpoint.readers import settings
from agq.checkpoint.readers.gptq import stored_in_words, word_form
from agq.checkpoint.readers.reader import Rows
from agq.checkpoint.readers.words import WordLayout, WordQuantization
from agq.checkpoint.source import TensorSource
from agq.errors import AgqError
from agq.models import Linear

_BITS = 4
_SHARE = 32 // _BITS
# Output of a word's run of eight -> its place in the word.
_PLACE = np.argsort([0, 2, 4, 6, 1, 3, 5, 7])
AGAIN = "save it again in the order gemm, or quantize the 16-bit model with `agq quantize`"


class AwqLayout(WordLayout):
    """Eight outputs in a word, for each column."""

    def shapes(self, linear: Linear, bits: int, groups: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        words = -(-linear.out_features // _SHARE)
        return (linear.in_features, words), (groups, words)

    def codes(self, words: np.ndarray, bits: int, linear: Linear, rows: Rows) -> np.ndarray:
        outputs = np.arange(linear.out_features)[rows]
        first, last = outputs.min() // _SHARE, outputs.max() // _SHARE + 1
        found = _outputs(words[:, first:last])[:, outputs - first * _SHARE]
        return np.ascontiguousarray(found.T)

    def zeros(self, words: np.ndarray, bits: int, linear: Linear) -> np.ndarray:
        return _outputs(words)[:, : linear.out_features]


def _outputs(words: np.ndarray) -> np.ndarray:
    """int32 [n, words] -> uint8 [n, outputs] in order."""
    count = words.shape[1] * _SHARE
    found = unpack_unsigned(words, _BITS, count).reshape(len(words), -1, _SHARE)
    return found[:, :, _PLACE].reshape(len(words), count)


def read_awq(
    table: dict[str, Any], linears: list[Linear], source: TensorSource, where: str, config: Mapping[str, Any]
) -> WordQuantization:
    """Reader of a folder whose `quant_method` is awq. Raises AgqError for what is not read."""
    order = settings.name(table, ("version", "checkpoint_format", "format"), "gemm")
    if order != "gemm":
        raise AgqError(f"{where}: AWQ in the order `{order}` is not read", hint=AGAIN)
    table_of_words = {"bits": table.get("bits"), "group_size": table.get("group_size")}
    table_of_words["sym"] = not settings.flag(table, "zero_point", not settings.flag(table, "sym", False, where), where)
    forms = {
        linear.module: word_form(table_of_words, AwqLayout(), (_BITS,), where)
        for linear in stored_in_words(linears, source)
    }
    return WordQuantization(table, forms, source)
