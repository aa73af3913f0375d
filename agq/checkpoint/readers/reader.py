"""What a reader of quantized folders gives: which linears are codes, which tensors hold them, and their values."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from agq.checkpoint.module_scheme import ModuleScheme, Stored, group_problem
from agq.checkpoint.rounding import RoundedTensors
from agq.checkpoint.source import Scales, TensorSource
from agq.errors import AgqError
from agq.formats import PER_ROW, Granularity, PerGroup, groups
from agq.models import Linear, ModelParts
from agq.models.folding import fold_linears

# Rows of outputs: a slice, or their indices.
Rows = slice | np.ndarray
DAMAGED = "the folder is damaged: download it again, or quantize the model again"


class FolderQuantization(ABC):
    """A checked `quantization_config`.

    A linear that the folder stores otherwise than as a matrix of floats has one of three forms here:
    codes and scales as the folder has them; codes of 8 bits with a scale for each 32 columns, made from the folder's
    values (`rounded`); or floats (`decoded`). The first two have a scheme.

    Args:
        config: what config.json says, for records.
        schemes: of linears that are codes. rounded: those of them whose codes are made anew, with the words why.
        decoded: linears that are read as floats -> words for what they are stored as.
    """

    def __init__(
        self,
        config: dict[str, Any],
        schemes: Mapping[str, ModuleScheme],
        rounded: Mapping[str, str] | None = None,
        decoded: Mapping[str, str] | None = None,
    ):
        self.config = config
        self._schemes = dict(schemes)
        self.rounded = dict(rounded or {})
        self.decoded = dict(decoded or {})
        self._made: RoundedTensors | None = None

    # ---- which linears

    def scheme(self, module: str) -> ModuleScheme | None:
        """How a linear's codes are; None: it is read as floats."""
        return self._schemes.get(module)

    def modules(self) -> list[str]:
        """The linears that are codes."""
        return list(self._schemes)

    def stores(self, module: str) -> bool:
        """Whether the folder stores a linear otherwise than as floats."""
        return module in self._schemes or module in self.decoded

    def words(self, module: str) -> str:
        """What is special about a linear's form, for people; "" for codes that are kept."""
        if module in self.rounded:
            return f"made anew: {self.rounded[module]}"
        return self.decoded.get(module, "")

    # ---- what is stored

    @abstractmethod
    def tensors(self, linear: Linear) -> dict[str, Stored]:
        """Tensors of a linear that `stores` names: name -> (dtypes, shapes), any of which may be stored."""

    def beside(self, linear: Linear) -> set[str]:
        """Tensors that may stand beside those of a linear."""
        return set()

    def problems(self, parts: ModelParts) -> list[str]:
        """What cannot be: group sizes that do not divide, a quantized head that is tied to a float embedding."""
        found: dict[str, list[Linear]] = {}
        for linear in parts.all_linears():
            if not self.stores(linear.module):
                continue
            if linear.role == "head" and parts.spec.tied:
                found.setdefault("tied to the embedding, to be listed in `ignore`", []).append(linear)
            group = self.stored_group(linear.module)
            if isinstance(group, PerGroup) and linear.in_features % group.size:
                found.setdefault(group_problem(group, linear.in_features), []).append(linear)
            elif linear.module in self.rounded and linear.in_features % groups.STEP:
                why = f"{self.rounded[linear.module]}, and {linear.in_features} inputs are no multiple of {groups.STEP}"
                found.setdefault(why, []).append(linear)
        return [f"{reason}: {fold_linears(linears)}" for reason, linears in found.items()]

    def stored_group(self, module: str) -> Granularity:
        """What shares a scale in the folder, of a linear that `stores` names."""
        return self._schemes[module].group_size if module in self._schemes else PER_ROW

    def check_stored(self, source: TensorSource) -> None:  # noqa: B027 (most have nothing to check)
        """Cheap checks of stored values, and of tensors that ought not to be there (AgqError)."""

    def config_problems(self, source: TensorSource) -> Iterable[str]:
        """What other loaders get wrong in silence, for `agq verify`."""
        if not self._schemes and not self.decoded:
            yield "config.json: `quantization_config` fits no layer of the model"

    # ---- values

    def codes(self, source: TensorSource, module: str, rows: Rows = slice(None)) -> np.ndarray:
        """Signed codes int8 [rows, in] of a linear that has a scheme."""
        if module in self.rounded:
            return self._rounded(source, module)[0][rows]
        return self.stored_codes(source, module, rows)

    def scales(self, source: TensorSource, module: str) -> Scales:
        """Scales of a linear that has a scheme. Raises AgqError for values that are not finite."""
        if module in self.rounded:
            return Scales(self._rounded(source, module)[1])
        return self.stored_scales(source, module)

    def _rounded(self, source: TensorSource, module: str) -> tuple[np.ndarray, np.ndarray]:
        linear = source.parts.linear(module)
        if linear is None:
            raise AgqError(f"the model has no linear `{module}`")
        if self._made is None:
            self._made = RoundedTensors(
                lambda name, rows: self.values(source, name, rows), f"`{source.path}`", "quantize the model again"
            )
        return self._made.get(module, linear.out_features)

    @abstractmethod
    def stored_codes(self, source: TensorSource, module: str, rows: Rows) -> np.ndarray:
        """Signed codes int8 [rows, in] as the folder has them, columns in the order of `stored_scales`."""

    @abstractmethod
    def stored_scales(self, source: TensorSource, module: str) -> Scales:
        """Scales as the folder has them."""

    def values(self, source: TensorSource, module: str, rows: Rows) -> np.ndarray:
        """float32 [rows, in]: what the folder's codes stand for, where they are not kept as they are."""
        raise NotImplementedError(f"{type(self).__name__} keeps all codes")

    def float_type(self) -> str:
        """safetensors dtype of the linears that are read as floats: that of the model."""
        raise NotImplementedError(f"{type(self).__name__} reads no linear as floats")

    def notes(self) -> list[str]:
        """What was stored otherwise than the folder has it, once the model is packed."""
        found = []
        for why in dict.fromkeys(self.rounded.values()):
            modules = [module for module, one in self.rounded.items() if one == why]
            count, error = self._made.loss(modules) if self._made is not None else (0, 0.0)
            if count:
                linears = f"{count} linear{'s' if count > 1 else ''}"
                found.append(
                    f"{linears} stored in 8 bits for each 32 columns ({why}): relative error {100 * error:.2g} %"
                )
        return found


def linear_of(source: TensorSource, module: str) -> Linear:
    """The model's linear of a name. Raises AgqError where it has none: schemes were read for another model."""
    found = source.parts.linear(module)
    if found is None:
        raise AgqError(f"the model has no linear `{module}`")
    return found
