"""A folder's `quantization_config`: which linear is quantized how. Read, checked, and matched to modules.

Entries of `config_groups`: config_groups.py. What is written: config_writer.py.
Format: github.com/vllm-project/compressed-tensors 0.20.
"""

import re
from collections.abc import Iterable
from typing import Any

from agq.checkpoint.config_groups import SUPPORTED, read_group
from agq.checkpoint.module_scheme import PACKED, ModuleScheme, group_problem
from agq.checkpoint.source import TensorSource
from agq.errors import AgqError
from agq.formats import PerGroup
from agq.models import Linear, ModelParts
from agq.models.folding import fold_linears


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
            scheme = read_group(group, table.get("format"), place)
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
                raise AgqError(f"`{module}` has a static activation scale (`input_scale`)", hint=SUPPORTED)
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
