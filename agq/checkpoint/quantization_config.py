"""A folder's `quantization_config`: which linear is quantized how. Read, checked, matched to modules; and written.

Known: `pack-quantized` and `int-quantized` (`naive-quantized` has the same bytes) with 4- and 8-bit integer weights per
group, channel or tensor, symmetric or asymmetric, and no or dynamic activation quantization. Whatever else a config
asks for is an error that names it: nothing is computed otherwise than it is called.
Format: github.com/vllm-project/compressed-tensors 0.20.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from agq.checkpoint.packing import packed_words
from agq.checkpoint.source import TensorSource
from agq.errors import AgqError
from agq.formats import ACTIVATIONS, INTEGERS, PER_ROW, Granularity, PerGroup, any_of, groups
from agq.formats.activations import QUANTIZED
from agq.formats.limits import GROUP
from agq.models import Linear, ModelParts
from agq.models.folding import fold_linears
from agq.recipe import ActivationScheme, WeightScheme
from agq.recipe.schemes import FLOAT_INPUT

PACKED, INT = "pack-quantized", "int-quantized"
# How compressed-tensors writes a whole row where it names no strategy.
_WHOLE = -1
_FORMATS = {PACKED: PACKED, INT: INT, "naive-quantized": INT}
_CALIBRATION_KEYS = {"observer", "observer_kwargs", "scale_dtype", "zp_dtype"}  # say how it was made, not what it is
_ARGS = {"num_bits", "type", "symmetric", "group_size", "strategy", "block_structure", "dynamic", "actorder"}
_SUPPORTED = (
    f"agq reads integer weights of {any_of(INTEGERS)} bits with dynamic activations of {any_of(ACTIVATIONS)} bits"
)


# Types and shapes, any of which a tensor may have.
Stored = tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]


@dataclass(frozen=True)
class ModuleScheme:
    """How one linear is quantized. `group_size` PER_ROW with strategy "tensor": one scale for all rows. `minimum`: each
    group has a float that is added to code * scale (GGUF)."""

    bits: int
    symmetric: bool
    group_size: Granularity
    strategy: str
    format: str
    activations: ActivationScheme
    minimum: bool = False

    def groups(self, columns: int) -> int:
        """Scales per row."""
        return self.group_size.scales(columns)

    def tensors(self, linear: Linear, floats: tuple[str, ...]) -> dict[str, Stored]:
        """Name -> (dtypes, shapes), any of which may be stored."""
        rows, columns, bits = linear.out_features, linear.in_features, self.bits
        groups = self.groups(columns)
        name = linear.module
        expected: dict[str, Stored] = {}
        if self.format == PACKED:
            expected = {f"{name}.weight_packed": (("I32",), ((rows, packed_words(columns, bits)),))}
        else:
            expected = {f"{name}.weight": (("I8",), ((rows, columns),))}
        scale_shapes: tuple[tuple[int, ...], ...] = ((rows, groups),)
        if self.strategy == "channel":
            scale_shapes += ((rows,),)
        elif self.strategy == "tensor":
            scale_shapes = ((1,), (), (1, 1))
        expected[f"{name}.weight_scale"] = (floats, scale_shapes)
        if not self.symmetric:
            if self.format == PACKED and self.strategy != "tensor":
                zero: Stored = (("I32",), ((packed_words(rows, bits), groups),))
            else:
                zero = (("I8",), scale_shapes)
            expected[f"{name}.weight_zero_point"] = zero
        return expected


class CompressedTensors:
    """A checked `quantization_config`: module name -> ModuleScheme."""

    def __init__(self, schemes: dict[str, ModuleScheme], config: dict[str, Any]):
        self._schemes = schemes
        self.config = config

    @classmethod
    def from_config(cls, config: dict[str, Any], linears: Iterable[Linear], where: str) -> "CompressedTensors | None":
        """Reads config.json's `quantization_config`; None when there is none.

        Raises:
            AgqError: another quantization method, or something in it that agq does not compute as named.
        """
        table = config.get("quantization_config") or config.get("compression_config")
        if table is None:
            return None
        if not isinstance(table, dict):
            raise AgqError(f"{where}: `quantization_config` is not an object")
        method = table.get("quant_method")
        if method != "compressed-tensors":
            raise AgqError(
                f"{where}: weights quantized by `{method}` cannot be read", hint="agq reads compressed-tensors folders"
            )
        _check_top(table, where)
        groups = table.get("config_groups")
        if not isinstance(groups, dict) or not groups:
            raise AgqError(f"{where}: `quantization_config` has no `config_groups`")
        ignore = _names(table.get("ignore") or [], f"{where}: ignore")
        targets: dict[str, ModuleScheme] = {}
        for label, group in groups.items():
            place = f"{where}: {label}"
            if not isinstance(group, dict):
                raise AgqError(f"{place} is not an object")
            names = _names(group.get("targets"), f"{place}: targets")
            scheme = _scheme(group, table.get("format"), place)
            targets.update({name: scheme for name in names})
        # As compressed_tensors.utils.match_targets: names, then regular expressions, each sorted; then class names.
        ordered = sorted(targets, key=lambda name: ("re:" in name, name))
        schemes = {}
        for linear in linears:
            if any(_matches(linear.module, item) or _is_class(item) for item in ignore):
                continue
            hits = [item for item in ordered if _matches(linear.module, item)]
            hits += [item for item in ordered if _is_class(item)]
            if hits:
                schemes[linear.module] = targets[hits[0]]
        return cls(schemes, table)

    def scheme(self, module: str) -> ModuleScheme | None:
        """How a linear is quantized; None: it is stored in floating point."""
        return self._schemes.get(module)

    def modules(self) -> list[str]:
        """The quantized linears."""
        return list(self._schemes)

    def problems(self, parts: ModelParts, tied: bool) -> list[str]:
        """What cannot be: group sizes that do not divide, a quantized head that is tied to a float embedding."""
        found: dict[str, list[Linear]] = {}
        for linear in parts.all_linears():
            scheme = self._schemes.get(linear.module)
            if scheme is None:
                continue
            what = []
            if linear.role == "head" and tied:
                what.append("tied to the embedding, to be listed in `ignore`")
            if isinstance(scheme.group_size, PerGroup) and linear.in_features % scheme.group_size.size:
                what.append(group_problem(scheme.group_size, linear.in_features))
            for reason in what:
                found.setdefault(reason, []).append(linear)
        return [f"{reason}: {fold_linears(linears)}" for reason, linears in found.items()]

    def check_stored(self, checkpoint: TensorSource) -> None:
        """Cheap checks of stored values and of tensors that ought not to be there (AgqError)."""
        for module, scheme in self._schemes.items():
            if checkpoint.has(f"{module}.weight_g_idx"):
                raise AgqError(
                    f"`{module}` was quantized with activation order in groups (`weight_g_idx`): not supported",
                    hint="quantize with static activation order instead",
                )
            if checkpoint.has(f"{module}.input_scale"):
                raise AgqError(f"`{module}` has a static activation scale (`input_scale`)", hint=_SUPPORTED)
            linear = checkpoint.parts.linear(module)
            if linear is None:  # schemes were read for another model
                raise AgqError(f"the model has no linear `{module}`")
            shape_name = f"{module}.weight_shape"
            if scheme.format == PACKED and checkpoint.has(shape_name):
                shape = checkpoint.read_raw(shape_name)[1].reshape(-1).tolist()
                if shape != [linear.out_features, linear.in_features]:
                    raise AgqError(f"`{shape_name}` is {shape}, not {[linear.out_features, linear.in_features]}")
            zero_name = f"{module}.weight_zero_point"
            if scheme.symmetric and checkpoint.has(zero_name) and checkpoint.read_raw(zero_name)[1].any():
                raise AgqError(f"`{module}` is declared symmetric but has zero points", hint="the config is wrong")


def group_problem(group: PerGroup, columns: int, what: str = "group size") -> str:
    """Says that a group size does not fit, and which ones would."""
    choices = ", ".join(map(str, [*groups.fitting([columns]), _WHOLE]))
    rule = f"is not a multiple of {groups.STEP} that divides {columns} inputs"
    return f"{what} {group.size} {rule} (possible: {choices})"


def _names(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise AgqError(f"{where} is not a list of names")
    for item in value:
        if item.startswith("re:"):
            try:
                re.compile(item[3:])
            except re.error as error:
                raise AgqError(f"{where}: `{item}` is not a regular expression: {error}") from error
    return value


def _matches(module: str, target: str) -> bool:
    return re.match(target[3:], module) is not None if target.startswith("re:") else target == module


def _is_class(target: str) -> bool:
    return target in ("Linear", "Module")


def _check_top(table: dict[str, Any], where: str) -> None:
    """The parts of a quantization_config that concern the whole model."""
    status = table.get("quantization_status", "compressed")
    if status != "compressed":
        raise AgqError(f"{where}: quantization status is `{status}`, not `compressed`", hint="save it compressed")
    sparsity = table.get("sparsity_config") or {}
    if not isinstance(sparsity, dict) or sparsity.get("format", "dense") != "dense":
        raise AgqError(f"{where}: sparse weights (`sparsity_config`) are not supported", hint="save them dense")
    transform = table.get("transform_config") or {}
    if not isinstance(transform, dict) or transform.get("config_groups"):
        raise AgqError(
            f"{where}: transforms at run time (`transform_config`) are not supported", hint="fuse them into the weights"
        )


def _scheme(group: dict[str, Any], outer_format: Any, where: str) -> ModuleScheme:
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
        raise AgqError(f"{where}: {bits!r}-bit `{kind}` is not supported", hint=_SUPPORTED)
    if value.get("block_structure") is not None or value.get("strategy") == "block":
        raise AgqError(f"{where}: scales per block are not supported", hint=_SUPPORTED)
    if type(value.get("symmetric", True)) is not bool:
        raise AgqError(f"{where}: `symmetric` is not true or false")
    size = value.get("group_size")
    if size is not None and (type(size) is not int or not (size == _WHOLE or 0 < size <= GROUP)):
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
        strategy = "tensor" if size is None else "channel" if size == _WHOLE else "group"
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
        raise AgqError(f"{where}: static activation scales are not supported", hint=_SUPPORTED)
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


def _size(group: Granularity) -> int | None:
    """A granularity as a folder written by agq states it beside its strategy."""
    return group.size if isinstance(group, PerGroup) else None


def quantization_config(
    groups: list[tuple[list[str], WeightScheme, ActivationScheme]], ignore: list[str], format: str = PACKED
) -> dict[str, Any]:
    """The `quantization_config` of a folder, as transformers and vLLM load it.

    Args:
        groups: (targets, weights, activations) of each group. Dynamic activations per token load everywhere; those per
            group or asymmetric in compressed-tensors and transformers, not in vLLM.
        ignore: module names (or "re:" patterns) that stay in floating point.
        format: "pack-quantized" for 4-bit, "int-quantized" for 8-bit weights; a mixture of weights with 4 and 8 bits
            is packed.
    """
    table = {}
    for index, (targets, weights, activations) in enumerate(groups):
        acts = None
        if activations.quantized:
            acts = {
                "num_bits": activations.bits,
                "type": "int",
                "symmetric": activations.symmetric,
                "strategy": "token" if _size(activations.group_size) is None else "group",
                "dynamic": True,
                "group_size": _size(activations.group_size),
            }
        table[f"group_{index}"] = {
            "targets": list(targets),
            "format": format,
            "weights": {
                "num_bits": weights.bits,
                "type": "int",
                "symmetric": weights.symmetric,
                "strategy": "channel" if _size(weights.group_size) is None else "group",
                "group_size": _size(weights.group_size),
                "dynamic": False,
            },
            "input_activations": acts,
            "output_activations": None,
        }
    return {
        "quant_method": "compressed-tensors",
        "version": "0.20.0",
        "quantization_status": "compressed",
        "format": format,
        "config_groups": table,
        "ignore": list(ignore),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
        "sparsity_config": {},
        "transform_config": {},
        "moe_sparsity_config": None,
    }
