"""Which `quant_method` of a config.json is read by which module, and what is said of those that are not read."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agq.checkpoint.quantization_config import CompressedTensors
from agq.checkpoint.readers.auto_round import read_auto_round
from agq.checkpoint.readers.awq import read_awq
from agq.checkpoint.readers.fp8 import float_type, read_fp8
from agq.checkpoint.readers.gptq import read_gptq
from agq.checkpoint.readers.reader import FolderQuantization
from agq.checkpoint.source import TensorSource
from agq.errors import AgqError
from agq.models import Linear


def _compressed_tensors(
    table: dict[str, Any], linears: list[Linear], source: TensorSource, where: str, config: Mapping[str, Any]
) -> FolderQuantization:
    return CompressedTensors.from_config(table, linears, where, float_type(config))


# quantization_config, the model's linears, the stored tensors, the file for errors, config.json -> reader.
Reader = Callable[[dict[str, Any], list[Linear], TensorSource, str, Mapping[str, Any]], FolderQuantization]
READERS: dict[str, Reader] = {
    "compressed-tensors": _compressed_tensors,
    "gptq": read_gptq,
    "awq": read_awq,
    "auto-round": read_auto_round,
    "intel/auto-round": read_auto_round,
    "fp8": read_fp8,
    "fbgemm_fp8": read_fp8,
}
_FROM_FLOATS = "take the model in 16 bits: `agq quantize` or `agq pack` makes codes of it"
# quant_method -> what to do; every other one gets the last line.
REFUSED = {
    "bitsandbytes": "its `from_pretrained(...).dequantize()` and `save_pretrained` make a folder that agq reads",
    "gguf": "give the GGUF file itself",
}


def read_quantization(
    config: dict[str, Any], linears: Iterable[Linear], source: TensorSource, where: str
) -> FolderQuantization | None:
    """The reader of a folder's quantization; None where config.json has none.

    Args:
        config: config.json. linears: of the model. source: the tensors as they are stored. where: for errors.

    Raises:
        AgqError: a method that is not read, or something in its table that is not.
    """
    table = config.get("quantization_config") or config.get("compression_config")
    if table is None:
        return None
    if not isinstance(table, dict):
        raise AgqError(f"{where}: `quantization_config` is not an object")
    method = table.get("quant_method")
    reader = READERS.get(method) if isinstance(method, str) else None
    if reader is None:
        known = ", ".join(READERS)
        hint = REFUSED.get(str(method), _FROM_FLOATS)
        raise AgqError(f"{where}: weights quantized by `{method}` cannot be read (read: {known})", hint=hint)
    return reader(table, list(linears), source, where, config)
