"""Reads compressed-tensors folders: their `quantization_config` checked and matched to modules, codes and scales.

Entries of `config_groups`: config_groups.py. What is written: config_writer.py.
Format: github.com/vllm-project/compressed-tensors 0.20.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from agq.checkpoint.config_groups import STATIC_NOTE, read_group
from agq.checkpoint.module_scheme import PACKED, ModuleScheme, Stored
from agq.checkpoint.packing import check_range, unpack_int, unpack_zero_points
from agq.checkpoint.readers.fp8 import NOTE, Fp8Form
from agq.checkpoint.readers.order import common_order, group_index, together
from agq.checkpoint.readers.reader import FolderQuantization, Rows, linear_of
from agq.checkpoint.source import Scales, TensorSource
from agq.errors import AgqError
from agq.formats import Granularity
from agq.formats.weights import BY_STORED
from agq.models import Linear


class CompressedTensors(FolderQuantization):
    """The reader of compressed-tensors folders. floats: linears that are stored in FP8; type: safetensors dtype that
    they are read as."""

    def __init__(
        self,
        table: dict[str, Any],
        schemes: dict[str, ModuleScheme],
        floats: dict[str, Fp8Form] | None = None,
        type: str = "BF16",
    ):
        self._floats = floats or {}
        # Where columns of a group are scattered: the order of the columns, and the group of each run of them.
        self._orders: dict[str, np.ndarray] = {}
        self._runs: dict[str, np.ndarray] = {}
        self._type = type
        super().__init__(table, schemes, decoded={module: form.words for module, form in self._floats.items()})

    @classmethod
    def from_config(
        cls, table: dict[str, Any], linears: Iterable[Linear], where: str, type: str = "BF16"
    ) -> "CompressedTensors":
        """Reads a `quantization_config`. type: of the model's floats. Raises AgqError for what agq does not compute as
        named."""
        _check_top(table, where)
        groups = table.get("config_groups")
        if not isinstance(groups, dict) or not groups:
            raise AgqError(f"{where}: `quantization_config` has no `config_groups`")
        ignore = _names(table.get("ignore") or [], f"{where}: ignore")
        targets: dict[str, ModuleScheme | Fp8Form] = {}
        for label, group in groups.items():
            place = f"{where}: {label}"
            if not isinstance(group, dict):
                raise AgqError(f"{place} is not an object")
            names = _names(group.get("targets"), f"{place}: targets")
            scheme = read_group(group, table.get("format"), place)
            targets.update({name: scheme for name in names})
        # As compressed_tensors.utils.match_targets: names, then regular expressions, each sorted; then class names.
        ordered = sorted(targets, key=lambda name: ("re:" in name, name))
        schemes: dict[str, ModuleScheme] = {}
        floats: dict[str, Fp8Form] = {}
        for linear in linears:
            if any(_matches(linear.module, item) or _is_class(item) for item in ignore):
                continue
            hits = [item for item in ordered if _matches(linear.module, item)]
            hits += [item for item in ordered if _is_class(item)]
            found = targets[hits[0]] if hits else None
            if isinstance(found, Fp8Form):
                floats[linear.module] = found
            elif found is not None:
                schemes[linear.module] = found
        return cls(table, schemes, floats, type)

    def tensors(self, linear: Linear) -> dict[str, Stored]:
        if (form := self._floats.get(linear.module)) is not None:
            return form.tensors(linear)
        return self._schemes[linear.module].tensors(linear, tuple(BY_STORED))

    def beside(self, linear: Linear) -> set[str]:
        leaves = {"weight_shape", "weight_zero_point"}
        if linear.module in self._floats or STATIC_NOTE in self._schemes[linear.module].note:
            leaves |= {"input_scale", "input_zero_point"}
        return {f"{linear.module}.{leaf}" for leaf in leaves}

    def check_stored(self, source: TensorSource) -> None:
        for module, scheme in self._schemes.items():
            if source.has(f"{module}.weight_g_idx") and not scheme.ordered:
                raise AgqError(
                    f"`{module}` has an activation order (`weight_g_idx`) that config.json does not mention",
                    hint="the config is wrong",
                )
            if source.has(f"{module}.input_scale") and STATIC_NOTE not in scheme.note:
                raise AgqError(
                    f"`{module}` has a static activation scale (`input_scale`) that config.json does not mention",
                    hint="the config is wrong",
                )
            linear = linear_of(source, module)
            shape_name = f"{module}.weight_shape"
            if scheme.format == PACKED and source.has(shape_name):
                shape = source.read_raw(shape_name)[1].reshape(-1).tolist()
                if shape != [linear.out_features, linear.in_features]:
                    raise AgqError(f"`{shape_name}` is {shape}, not {[linear.out_features, linear.in_features]}")
            zero_name = f"{module}.weight_zero_point"
            if scheme.symmetric and source.has(zero_name) and source.read_raw(zero_name)[1].any():
                raise AgqError(f"`{module}` is declared symmetric but has zero points", hint="the config is wrong")
        for modules in together(source.parts, [module for module, scheme in self._schemes.items() if scheme.ordered]):
            self._put_in_order(source, modules)

    def _put_in_order(self, source: TensorSource, modules: list[str]) -> None:
        """Takes the order of linears that are computed as one matrix. Raises AgqError where they have none."""
        group = self._schemes[modules[0]].group_size
        linears = [linear_of(source, module) for module in modules]
        size = group.columns(linears[0].in_features)
        if any(self._schemes[module].group_size != group for module in modules) or linears[0].in_features % size:
            return  # told with all other linears that do not fit
        indices = [_groups_of_columns(source, linear, group) for linear in linears]
        order = common_order(indices, size)
        if order is None:
            names = ", ".join(f"`{module}`" for module in modules)
            raise AgqError(
                f"{names} are computed together, but have different activation orders (`weight_g_idx`)",
                hint="quantize with static activation order instead",
            )
        self._runs |= {module: index[order][::size] for module, index in zip(modules, indices, strict=True)}
        if (order[1:] < order[:-1]).any():
            self._orders |= dict.fromkeys(modules, order)

    def config_problems(self, source: TensorSource) -> Iterable[str]:
        if self.config.get("quantization_status") != "compressed":
            yield "config.json: `quantization_status` is not `compressed`: transformers would load random weights"
        if not self.config.get("format"):
            yield "config.json: `quantization_config` has no `format`"
        if self.config.get("kv_cache_scheme") is not None:
            if not any(name.endswith(".k_scale") for name in source.names()):
                yield "config.json: a `kv_cache_scheme` without stored scales"
        yield from super().config_problems(source)

    def stored_codes(self, source: TensorSource, module: str, rows: Rows) -> np.ndarray:
        codes, order = self._codes(source, module, rows), self._orders.get(module)
        return codes if order is None else codes[:, order]

    def _codes(self, source: TensorSource, module: str, rows: Rows) -> np.ndarray:
        """As `codes`, in the model's order."""
        linear, scheme = linear_of(source, module), self._schemes[module]
        if scheme.format == PACKED:
            words = source.read_raw(f"{module}.weight_packed")[1][rows]
            return unpack_int(words, scheme.stored_bits, linear.in_features)
        codes = np.array(source.read_raw(f"{module}.weight")[1][rows])
        check_range(codes, scheme.stored_bits, f"`{module}.weight`")
        return codes

    def stored_scales(self, source: TensorSource, module: str) -> Scales:
        found = self._of_groups(source, module)
        if (runs := self._runs.get(module)) is None:
            return found
        zero = None if found.zero is None else found.zero[:, runs]
        return Scales(found.scale[:, runs], zero, order=self._orders.get(module))

    def _of_groups(self, source: TensorSource, module: str) -> Scales:
        """Scales by the number of the group."""
        linear, scheme = linear_of(source, module), self._schemes[module]
        rows, groups = linear.out_features, scheme.groups(linear.in_features)
        name = f"{module}.weight_scale"
        scale = source.read(name)
        if not np.isfinite(scale).all() or (scale < 0).any():
            raise AgqError(f"`{name}` holds values that are negative or not finite", hint="quantize the model again")
        scale = np.array(np.broadcast_to(scale.reshape(-1, groups), (rows, groups)))
        if scheme.symmetric:
            return Scales(scale)
        name = f"{module}.weight_zero_point"
        raw = source.read_raw(name)[1]
        if scheme.format == PACKED and scheme.strategy != "tensor":
            return Scales(scale, unpack_zero_points(raw, scheme.stored_bits, rows))
        check_range(raw, scheme.stored_bits, f"`{name}`")
        return Scales(scale, np.array(np.broadcast_to(raw.reshape(-1, groups), (rows, groups))))

    def values(self, source: TensorSource, module: str, rows: Rows) -> np.ndarray:
        return self._floats[module].values(source, linear_of(source, module), rows)

    def float_type(self) -> str:
        return self._type

    def words(self, module: str) -> str:
        scheme = self._schemes.get(module)
        if scheme is None:
            return super().words(module)
        found = [f"stored with {scheme.narrow} bits"] if scheme.narrow else []
        return ", ".join([*found, *(["columns in activation order"] if module in self._orders else [])])

    def notes(self) -> list[str]:
        found = dict.fromkeys(scheme.note for scheme in self._schemes.values() if scheme.note)
        return [*super().notes(), *found, *([NOTE] if self._floats else [])]


def _groups_of_columns(source: TensorSource, linear: Linear, group: Granularity) -> np.ndarray:
    """The group of each column, int [in]: `weight_g_idx`, or where it was never set (-1) as the columns stand."""
    name = f"{linear.module}.weight_g_idx"
    if (source.read_raw(name)[1] == -1).all():
        return np.arange(linear.in_features) // group.columns(linear.in_features)
    return group_index(source, name, linear, group)


def _names(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise AgqError(f"{where} is not a list of names")
    for item in value:
        if item.startswith("re:"):
            try:
                re.compile(item[3:])
            except (re.error, OverflowError, RecursionError) as error:
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
