"""Folders in auto-round's own format: GPTQ's or AWQ's words, as `packing_format` says, and settings of single linears
in `extra_config`.
Layout: auto-round 0.16, auto_round/inference/backend.py and auto_round_extension/torch/.
"""

import re
from collections.abc import Mapping
from typing import Any

from agq.checkpoint.readers.awq import AwqLayout
from agq.checkpoint.readers.gptq import GptqLayout, stored_in_words, word_form
from agq.checkpoint.readers.settings import flag, name
from agq.checkpoint.readers.words import WordLayout, WordQuantization
from agq.checkpoint.source import TensorSource
from agq.errors import AgqError
from agq.models import Linear
from agq.recipe.schemes import FLOAT_INPUT

# packing_format -> layout, and the widths that auto-round writes in it.
_LAYOUTS: dict[str, tuple[WordLayout, tuple[int, ...]]] = {
    "auto_round:auto_gptq": (GptqLayout(less_one=True), (2, 3, 4, 8)),
    "auto_round:gptqmodel": (GptqLayout(less_one=False), (2, 3, 4, 8)),
    "auto_round": (GptqLayout(less_one=False), (2, 3, 4, 8)),
    "auto_round:auto_awq": (AwqLayout(), (4,)),
}
# Other names of layouts, as auto-round's own loader has them.
_ALIASES = {
    "auto": "auto_round:auto_gptq",
    "auto_round:gptq": "auto_round:auto_gptq",
    "auto_round:awq": "auto_round:auto_awq",
}
AGAIN = "export it again as auto_gptq, auto_awq or llm_compressor, or quantize the 16-bit model with `agq quantize`"


def read_auto_round(
    table: dict[str, Any], linears: list[Linear], source: TensorSource, where: str, config: Mapping[str, Any]
) -> WordQuantization:
    """Reader of a folder whose `quant_method` is auto-round. Raises AgqError for what is not read."""
    format = name(table, ("packing_format",), "auto")
    format = _ALIASES.get(format, format)
    if table.get("packing_format") is None and not flag(table, "sym", True, where):
        raise AgqError(f"{where}: no `packing_format` says how zero points are stored", hint=AGAIN)
    if table.get("act_bits") is not None and table["act_bits"] != FLOAT_INPUT.bits:
        raise AgqError(f"{where}: activations of {table['act_bits']!r} bits are not read", hint=AGAIN)
    kind = name(table, ("data_type",), "int")
    if format not in _LAYOUTS or kind != "int":
        raise AgqError(f"{where}: auto-round in the format `{format}` with `{kind}` codes is not read", hint=AGAIN)
    layout, widths = _LAYOUTS[format]
    extra = table.get("extra_config") or {}
    if not isinstance(extra, dict) or not all(isinstance(values, dict) for values in extra.values()):
        raise AgqError(f"{where}: `extra_config` is not an object of objects")
    forms = {}
    for linear in stored_in_words(linears, source):
        own = {key: value for key, value in _of(extra, linear.module, where).items() if value is not None}
        forms[linear.module] = word_form({**table, **own}, layout, widths, where)
    return WordQuantization(table, forms, source)


def _of(extra: dict[str, dict[str, Any]], module: str, where: str) -> dict[str, Any]:
    """The settings of one linear: by its name, else by the first regular expression that is found in it."""
    if module in extra:
        return extra[module]
    for pattern, values in extra.items():
        try:
            if re.search(pattern, module):
                return values
        except (re.error, OverflowError, RecursionError) as error:
            raise AgqError(f"{where}: extra_config: `{pattern}` is not a regular expression: {error}") from error
    return {}
