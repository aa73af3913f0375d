"""One entry of `config_groups` in a folder's `quantization_config`, read and checked.

Known: integer weights of 4 and 8 bits per group, channel or tensor, symmetric or asymmetric, and no or dynamic
activation quantization. Whatever else an entry asks for is an error that names it.
Format: github.com/vllm-project/compressed-tensors 0.20.
"""

from collections.abc import Collection
from typing import Any

from agq.checkpoint.module_scheme import INT, PACKED, WHOLE, ModuleScheme
from agq.errors import AgqError
from agq.formats import ACTIVATIONS, INTEGERS, PER_ROW, PerGroup, any_of
from agq.formats.activations import QUANTIZED
from agq.formats.limits import GROUP
from agq.recipe import ActivationScheme
from agq.recipe.schemes import FLOAT_INPUT

SUPPORTED = (
    f"agq reads integer weights of {any_of(INTEGERS)} bits with dynamic activations of {any_of(ACTIVATIONS)} bits"
)
_FORMATS = {PACKED: PACKED, INT: INT, "naive-quantized": INT}
_CALIBRATION_KEYS = {"observer", "observer_kwargs", "scale_dtype", "zp_dtype"}  # say how it was made, not what it is
_ARGS = {"num_bits", "type", "symmetric", "group_size", "strategy", "block_structure", "dynamic", "actorder"}


def read_group(group: dict[str, Any], outer_format: Any, where: str) -> ModuleScheme:
    """The scheme of an entry. outer_format: the config's own `format`, for entries without one.

    Raises AgqError, with `where` before it: something that agq does not compute as named.
    """
    if unknown := sorted(set(group) - {"targets", "weights", "input_activations", "output_activations", "format"}):
        raise AgqError(f"{where}: unknown {', '.join(f'`{key}`' for key in unknown)}")
    name = group.get("format") or outer_format
    if not isinstance(name, str) or name not in _FORMATS:
        raise AgqError(f"{where}: format `{name}` is not supported", hint=f"supported: {', '.join(_FORMATS)}")
    if group.get("output_activations") is not None:
        raise AgqError(f"{where}: quantized outputs (`output_activations`) are not supported")
    weights = _weights(group.get("weights"), f"{where}: weights")
    return ModuleScheme(
        **weights, format=_FORMATS[name], activations=_activations(group.get("input_activations"), where)
    )


def _args(value: Any, where: str, allowed: Collection[int]) -> dict[str, Any]:
    """Checks what weights and activations have in common. allowed: their widths."""
    if not isinstance(value, dict):
        raise AgqError(f"{where}: not an object")
    if unknown := sorted(set(value) - _ARGS - _CALIBRATION_KEYS):
        raise AgqError(f"{where}: unknown {', '.join(f'`{key}`' for key in unknown)}")
    kind, bits = value.get("type", "int"), value.get("num_bits", 8)
    if kind != "int" or type(bits) is not int or bits not in allowed:
        raise AgqError(f"{where}: {bits!r}-bit `{kind}` is not supported", hint=SUPPORTED)
    if value.get("block_structure") is not None or value.get("strategy") == "block":
        raise AgqError(f"{where}: scales per block are not supported", hint=SUPPORTED)
    if type(value.get("symmetric", True)) is not bool:
        raise AgqError(f"{where}: `symmetric` is not true or false")
    size = value.get("group_size")
    if size is not None and (type(size) is not int or not (size == WHOLE or 0 < size <= GROUP)):
        raise AgqError(f"{where}: `group_size` is {size!r}")
    return value


def _weights(value: Any, where: str) -> dict[str, Any]:
    args = _args(value, where, INTEGERS)
    if args.get("dynamic", False) is not False:
        raise AgqError(f"{where}: dynamic weights are not supported")
    if args.get("actorder") not in (None, False, "weight", "static"):
        raise AgqError(
            f"{where}: activation order `{args['actorder']}` is not supported", hint="supported: static (`weight`)"
        )
    size, strategy = args.get("group_size"), args.get("strategy")
    if strategy is None:
        strategy = "tensor" if size is None else "channel" if size == WHOLE else "group"
    if strategy not in ("group", "channel", "tensor"):
        raise AgqError(f"{where}: strategy `{strategy}` is not supported", hint="supported: group, channel, tensor")
    if (strategy == "group") != (size is not None and size > 0):
        raise AgqError(f"{where}: strategy `{strategy}` and group size {size} contradict each other")
    return {
        "bits": args.get("num_bits", 8),
        "symmetric": args.get("symmetric", True),
        "group_size": PerGroup(size) if strategy == "group" and size is not None else PER_ROW,
        "strategy": strategy,
    }


def _activations(value: Any, where: str) -> ActivationScheme:
    if value is None:
        return FLOAT_INPUT
    where = f"{where}: input_activations"
    args = _args(value, where, QUANTIZED)
    if args.get("dynamic", False) is not True:
        raise AgqError(f"{where}: static activation scales are not supported", hint=SUPPORTED)
    strategy, size = args.get("strategy"), args.get("group_size")
    if strategy not in ("token", "group") or (strategy == "group") != (size is not None and size > 0):
        raise AgqError(f"{where}: strategy `{strategy}` is not supported", hint="supported: token, group")
    bits, symmetric = args.get("num_bits", 8), args.get("symmetric", True)
    if not symmetric and not QUANTIZED[bits].asymmetric:
        raise AgqError(f"{where}: asymmetric {bits}-bit activations are not supported", hint="use symmetric ones")
    try:
        return ActivationScheme(bits, symmetric, PER_ROW if size is None or strategy != "group" else PerGroup(size))
    except AgqError as error:
        raise AgqError(f"{where}: {error.message}", hint=error.hint) from error
