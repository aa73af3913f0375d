"""One entry of `config_groups` in a folder's `quantization_config`, read and checked.

Known: integer weights of 2 to 8 bits per group, channel or tensor, symmetric or asymmetric, with no or quantized
activations; FP8 weights, which are read as floats. Integer activations that no kernel computes as the entry says
(static scales; zero points of 8 bits) get a scale for each token, and a note says so. Whatever else an entry asks for
is an error that names it.
Format: github.com/vllm-project/compressed-tensors 0.20.
"""

from collections.abc import Collection
from typing import Any

from agq.checkpoint.module_scheme import INT, PACKED, WHOLE, ModuleScheme
from agq.checkpoint.readers.fp8 import Fp8Form
from agq.errors import AgqError
from agq.formats import ACTIVATIONS, INTEGERS, PER_ROW, PerGroup, any_of
from agq.formats.activations import QUANTIZED
from agq.formats.limits import GROUP
from agq.formats.weights import FP8
from agq.recipe import ActivationScheme
from agq.recipe.schemes import FLOAT_INPUT

_WIDTHS = range(2, 9)
SUPPORTED = (
    f"agq reads integer weights of 2 to 8 bits with activations of {any_of(ACTIVATIONS)} bits, and FP8 weights; "
    "of others take the model in 16 bits"
)
_NAIVE = "naive-quantized"
_FORMATS = {PACKED: PACKED, INT: INT, _NAIVE: INT}
_FP8_FORMATS = ("float-quantized", _NAIVE)
STATIC_NOTE = "static activation scales are left out: inputs get a scale for each token as they come"
_ASYM_NOTE = "asymmetric 8-bit activations are computed symmetrically"
_CALIBRATION_KEYS = {"observer", "observer_kwargs", "scale_dtype", "zp_dtype"}  # say how it was made, not what it is
# Words of `actorder`: groups stay where the columns stand; `weight_g_idx` says which group a column belongs to.
_PLAIN_ORDERS, _GROUP_ORDERS = ("weight", "static"), ("group", "dynamic")
_ARGS = {"num_bits", "type", "symmetric", "group_size", "strategy", "block_structure", "dynamic", "actorder"}


def read_group(group: dict[str, Any], outer_format: Any, where: str) -> ModuleScheme | Fp8Form:
    """The form of an entry's linears. outer_format: the config's own `format`, for entries without one.

    Raises AgqError, with `where` before it: something that agq does not compute as named.
    """
    if unknown := sorted(set(group) - {"targets", "weights", "input_activations", "output_activations", "format"}):
        raise AgqError(f"{where}: unknown {', '.join(f'`{key}`' for key in unknown)}")
    name = group.get("format") or outer_format
    if not isinstance(name, str) or name not in (*_FORMATS, *_FP8_FORMATS):
        raise AgqError(f"{where}: format `{name}` is not supported", hint=SUPPORTED)
    if group.get("output_activations") is not None:
        raise AgqError(f"{where}: quantized outputs (`output_activations`) are not supported")
    weights = group.get("weights")
    if name in _FP8_FORMATS and isinstance(weights, dict) and weights.get("type") == "float":
        return _fp8(weights, f"{where}: weights")
    if name not in _FORMATS:
        raise AgqError(f"{where}: format `{name}` is for FP8 weights", hint=SUPPORTED)
    scheme = _weights(weights, f"{where}: weights")
    activations, note = _activations(group.get("input_activations"), where)
    return ModuleScheme(**scheme, format=_FORMATS[name], activations=activations, note=note)


def _fp8(args: dict[str, Any], where: str) -> Fp8Form:
    width, strategy = args.get("num_bits", FP8.bits), args.get("strategy")
    if width != FP8.bits or not args.get("symmetric", True):
        raise AgqError(f"{where}: {width!r}-bit `float` is not supported", hint=SUPPORTED)
    if strategy in ("tensor", "channel"):
        return Fp8Form(int(strategy == "channel"), 0)
    block = args.get("block_structure")
    if strategy != "block" or not isinstance(block, list) or [type(size) for size in block] != [int, int]:
        raise AgqError(f"{where}: FP8 with strategy `{strategy}` is not supported", hint=SUPPORTED)
    if min(block) < 1:
        raise AgqError(f"{where}: `block_structure` is {block!r}")
    return Fp8Form(*block)


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
    args = _args(value, where, _WIDTHS)
    if args.get("dynamic", False) is not False:
        raise AgqError(f"{where}: dynamic weights are not supported")
    order = args.get("actorder")
    if order not in (None, False, *_PLAIN_ORDERS, *_GROUP_ORDERS):
        raise AgqError(f"{where}: activation order `{order}` is not supported", hint="supported: group, weight, static")
    size, strategy = args.get("group_size"), args.get("strategy")
    if strategy is None:
        strategy = "tensor" if size is None else "channel" if size == WHOLE else "group"
    if strategy not in ("group", "channel", "tensor"):
        raise AgqError(f"{where}: strategy `{strategy}` is not supported", hint="supported: group, channel, tensor")
    if (strategy == "group") != (size is not None and size > 0):
        raise AgqError(f"{where}: strategy `{strategy}` and group size {size} contradict each other")
    if order in _GROUP_ORDERS and strategy != "group":
        raise AgqError(f"{where}: strategy `{strategy}` and activation order `{order}` contradict each other")
    bits = args.get("num_bits", 8)
    return {
        "bits": min(width for width in INTEGERS if width >= bits),
        "narrow": 0 if bits in INTEGERS else bits,
        "symmetric": args.get("symmetric", True),
        "group_size": PerGroup(size) if strategy == "group" and size is not None else PER_ROW,
        "strategy": strategy,
        "ordered": order in _GROUP_ORDERS,
    }


def _activations(value: Any, where: str) -> tuple[ActivationScheme, str]:
    """(scheme that is computed, where it is another one than the entry's: in words)."""
    if value is None:
        return FLOAT_INPUT, ""
    where = f"{where}: input_activations"
    args = _args(value, where, QUANTIZED)
    dynamic, strategy, size = args.get("dynamic", False), args.get("strategy"), args.get("group_size")
    bits, symmetric = args.get("num_bits", 8), args.get("symmetric", True)
    notes = []
    if dynamic is False and strategy in ("tensor", None):
        notes.append(STATIC_NOTE)
        strategy = "token"
    elif dynamic is not True:
        raise AgqError(f"{where}: activations that are dynamic: {dynamic} are not supported", hint=SUPPORTED)
    if strategy not in ("token", "group") or (strategy == "group") != (size is not None and size > 0):
        raise AgqError(f"{where}: strategy `{strategy}` is not supported", hint="read: token, group, static tensor")
    if not symmetric and not QUANTIZED[bits].asymmetric:
        notes.append(_ASYM_NOTE)
        symmetric = True
    try:
        group = PER_ROW if size is None or strategy != "group" else PerGroup(size)
        return ActivationScheme(bits, symmetric, group), "; ".join(notes)
    except AgqError as error:
        raise AgqError(f"{where}: {error.message}", hint=error.hint) from error
