"""Linears whose codes stand several to a word of 32 bits, with zero points beside them: what GPTQ's and AWQ's folders
have in common. value = (code - zero point) * scale; codes and zero points are unsigned numbers of a few bits.

Codes are kept: those of 2 to 4 bits as 4, of 5 to 8 bits as 8, moved down by half their range, zero points with them.
Linears that are computed as one matrix get the same form: the widest codes, the smallest groups. Where columns of a
group do not stand side by side (GPTQ's `desc_act`), or a group is no multiple of 32 columns, no kernel has the codes'
form: they become 8-bit codes (`rounded`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agq.checkpoint.module_scheme import ModuleScheme, Stored
from agq.checkpoint.readers.reader import DAMAGED, FolderQuantization, Rows, linear_of
from agq.checkpoint.source import Scales, TensorSource
from agq.errors import AgqError
from agq.formats import INTEGERS, PER_ROW, Granularity, PerGroup, groups
from agq.formats.weights import BY_STORED, BYTE_CODES
from agq.models import Linear, ModelParts
from agq.recipe.schemes import FLOAT_INPUT

# What scales may be in a packed file: folders have f16 or bf16 ones.
_SCALE_TYPES = ("f16", "bf16")
FLOATS = tuple(BY_STORED)


class WordLayout(ABC):
    """How codes and zero points stand in words: `qweight` and `qzeros` of a linear."""

    # Whether a linear may have `g_idx`: int32 [in], the group of each column.
    ordered = False

    @abstractmethod
    def shapes(self, linear: Linear, bits: int, groups: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of `qweight` and `qzeros`, int32."""

    @abstractmethod
    def codes(self, words: np.ndarray, bits: int, linear: Linear, rows: Rows) -> np.ndarray:
        """`qweight` -> codes uint8 [rows, in]."""

    @abstractmethod
    def zeros(self, words: np.ndarray, bits: int, linear: Linear) -> np.ndarray:
        """`qzeros` -> zero points uint8 [groups, out]."""


@dataclass(frozen=True)
class WordForm:
    """How one linear stands in a folder. symmetric: config.json says that all zero points are in the middle."""

    bits: int
    group: Granularity
    symmetric: bool
    layout: WordLayout

    @property
    def middle(self) -> int:
        """The zero point of symmetric codes, and what makes signed codes of them."""
        return 1 << (self.bits - 1)

    @property
    def width(self) -> int:
        """Bits of the codes that hold these."""
        return next(bits for bits in INTEGERS if bits >= self.bits)


class WordQuantization(FolderQuantization):
    """A reader of such folders.

    Args:
        forms: of each linear that is stored so. source: its tensors, for the order of columns.

    Raises:
        AgqError: an order of columns that is none.
    """

    def __init__(self, config: dict[str, Any], forms: Mapping[str, WordForm], source: TensorSource):
        self._forms = dict(forms)
        self._orders: dict[str, np.ndarray] = {}
        rounded: dict[str, str] = {}
        for module, form in self._forms.items():
            linear = linear_of(source, module)
            if form.layout.ordered and source.has(f"{module}.g_idx"):
                order = group_order(source, linear, form)
                if order is None:
                    rounded[module] = "activation order"
                else:
                    self._orders[module] = order
            if isinstance(form.group, PerGroup) and form.group.size % groups.STEP:
                rounded[module] = f"groups of {form.group.size} columns"
        schemes = _settled(source.parts, self._forms, rounded)
        super().__init__(config, schemes, rounded)

    def tensors(self, linear: Linear) -> dict[str, Stored]:
        form, name = self._forms[linear.module], linear.module
        count = form.group.scales(linear.in_features)
        weights, zeros = form.layout.shapes(linear, form.bits, count)
        return {
            f"{name}.qweight": (("I32",), (weights,)),
            f"{name}.qzeros": (("I32",), (zeros,)),
            f"{name}.scales": (FLOATS, ((count, linear.out_features),)),
        }

    def beside(self, linear: Linear) -> set[str]:
        found = {f"{linear.module}.g_idx"} if self._forms[linear.module].layout.ordered else set()
        # Libraries store a bias of zeros where the model has none.
        return found | {f"{linear.module}.bias"}

    def stored_group(self, module: str) -> Granularity:
        return self._forms[module].group

    def check_stored(self, source: TensorSource) -> None:
        for module in self._forms:
            linear, name = linear_of(source, module), f"{module}.bias"
            if not linear.bias and source.has(name) and source.read(name).any():
                raise AgqError(f"`{name}` is a bias that the model does not have", hint=DAMAGED)

    def words(self, module: str) -> str:
        form = self._forms.get(module)
        if module in self.rounded or form is None or form.bits == self._schemes[module].bits:
            return super().words(module)
        return f"stored with {form.bits} bits"

    # ---- values

    def stored_codes(self, source: TensorSource, module: str, rows: Rows) -> np.ndarray:
        form = self._forms[module]
        codes = self._unsigned(source, module, rows)
        codes -= np.uint8(form.middle)  # below the middle it wraps, and is negative as int8
        return codes.view(np.int8)

    def _unsigned(self, source: TensorSource, module: str, rows: Rows) -> np.ndarray:
        form = self._forms[module]
        words = source.read_raw(f"{module}.qweight")[1]
        return form.layout.codes(words, form.bits, linear_of(source, module), rows)

    def stored_scales(self, source: TensorSource, module: str) -> Scales:
        form, scheme, linear = self._forms[module], self._schemes[module], linear_of(source, module)
        scale, zero = self._of_groups(source, module)
        if (order := self._orders.get(module)) is not None:
            scale, zero = scale[:, order], zero[:, order]
        share = scheme.groups(linear.in_features) // scale.shape[1]
        scale = np.repeat(scale, share, axis=1) if share > 1 else scale
        if scheme.symmetric:
            return Scales(scale)
        zero = np.repeat(zero, share, axis=1) if share > 1 else zero
        return Scales(scale, (zero - np.uint8(form.middle)).view(np.int8))

    def _of_groups(self, source: TensorSource, module: str) -> tuple[np.ndarray, np.ndarray]:
        """(scale float32, zero points uint8), both [out, groups]."""
        form = self._forms[module]
        scale = np.ascontiguousarray(source.read(f"{module}.scales").T)
        if not np.isfinite(scale).all():
            raise AgqError(f"`{module}.scales` holds values that are not finite", hint=DAMAGED)
        words = source.read_raw(f"{module}.qzeros")[1]
        zero = np.ascontiguousarray(form.layout.zeros(words, form.bits, linear_of(source, module)).T)
        if form.symmetric and (zero != form.middle).any():
            raise AgqError(
                f"`{module}` is declared symmetric but has zero points other than {form.middle}",
                hint="config.json's `sym` or `checkpoint_format` is wrong, or the folder is damaged",
            )
        return scale, zero

    def values(self, source: TensorSource, module: str, rows: Rows) -> np.ndarray:
        linear, form = linear_of(source, module), self._forms[module]
        scale, zero = self._of_groups(source, module)
        if form.layout.ordered and source.has(f"{module}.g_idx"):
            of_column = source.read_raw(f"{module}.g_idx")[1]
        else:
            of_column = np.arange(linear.in_features) // form.group.columns(linear.in_features)
        values = self._unsigned(source, module, rows).astype(np.float32)
        values -= zero[rows][:, of_column]
        values *= scale[rows][:, of_column]
        return values


def group_order(source: TensorSource, linear: Linear, form: WordForm) -> np.ndarray | None:
    """Which group each run of columns belongs to, int [groups]; None where a run has columns of several groups.

    Raises:
        AgqError: `g_idx` is not int32 [in], or names other groups than there are, or not all of them as often.
    """
    name = f"{linear.module}.g_idx"
    dtype, index = source.read_raw(name)
    if dtype != "I32" or index.shape != (linear.in_features,):
        raise AgqError(f"`{name}` is {dtype} {list(index.shape)}, not I32 [{linear.in_features}]", hint=DAMAGED)
    if isinstance(form.group, PerGroup) and linear.in_features % form.group.size:
        return None  # told with all other linears that it does not fit
    count, size = form.group.scales(linear.in_features), form.group.columns(linear.in_features)
    if index.min() < 0 or index.max() >= count:
        raise AgqError(f"`{name}` names groups outside 0..{count - 1}", hint=DAMAGED)
    if (np.bincount(index, minlength=count) != size).any():
        raise AgqError(f"`{name}` does not give {size} columns to each of {count} groups", hint=DAMAGED)
    runs = index.reshape(count, size)
    return runs[:, 0] if (runs == runs[:, :1]).all() else None


def _settled(parts: ModelParts, forms: Mapping[str, WordForm], rounded: dict[str, str]) -> dict[str, ModuleScheme]:
    """Module -> scheme; `rounded` gets those that are computed together with one of its own."""
    together = [[block.linears[role].module for role in roles] for block in parts.blocks() for roles in block.groups]
    inside = {module for modules in together for module in modules}
    together += [[module] for module in forms if module not in inside]
    found = {}
    for modules in together:
        stored = [module for module in modules if module in forms]
        if why := next((rounded[module] for module in stored if module in rounded), None):
            rounded.update(dict.fromkeys(stored, why))
            scheme = _scheme(BYTE_CODES.bits, True, PerGroup(groups.STEP))
        else:
            of = [forms[module] for module in stored]
            sizes = {form.group.size for form in of if isinstance(form.group, PerGroup)}
            scheme = _scheme(
                max((form.width for form in of), default=0),
                all(form.symmetric for form in of),
                PerGroup(math.gcd(*sizes)) if sizes else PER_ROW,
            )
        found.update(dict.fromkeys(stored, scheme))
    return found


def _scheme(bits: int, symmetric: bool, group: Granularity) -> ModuleScheme:
    strategy = "group" if isinstance(group, PerGroup) else "channel"
    return ModuleScheme(bits, symmetric, group, strategy, "words", FLOAT_INPUT, scale_types=_SCALE_TYPES)
