"""Linears whose codes stand several to a word of 32 bits, with zero points beside them: what GPTQ's and AWQ's folders
have in common. value = (code - zero point) * scale; codes and zero points are unsigned numbers of a few bits.

Codes are kept: those of 2 to 4 bits as 4, of 5 to 8 bits as 8, moved down by half their range, zero points with them.
Linears that are computed as one matrix get the same form: the widest codes, the smallest groups, one order of the
columns (order.py). Where a group is no multiple of 32 columns, or there is no such order, no kernel has the codes'
form: they become 8-bit codes (`rounded`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agq.checkpoint.module_scheme import ModuleScheme, Stored
from agq.checkpoint.readers.order import common_order, group_index, together
from agq.checkpoint.readers.reader import DAMAGED, FolderQuantization, Rows, linear_of
from agq.checkpoint.source import Scales, TensorSource
from agq.errors import AgqError
from agq.formats import INTEGERS, PER_ROW, Granularity, PerGroup, groups
from agq.formats.weights import BY_STORED, BYTE_CODES
from agq.models import Linear
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
        # The group of each run of columns that share a scale in the linear's scheme; the order of its columns.
        self._runs: dict[str, np.ndarray] = {}
        self._orders: dict[str, np.ndarray] = {}
        self._schemes: dict[str, ModuleScheme] = {}
        rounded: dict[str, str] = {}
        for modules in together(source.parts, list(self._forms)):
            why = self._settle(source, modules)
            rounded.update(dict.fromkeys(modules, why) if why else {})
        super().__init__(config, self._schemes, rounded)

    def _settle(self, source: TensorSource, modules: list[str]) -> str:
        """Gives linears that are computed as one matrix a scheme and an order. Returns why no kernel computes their
        codes, or ""."""
        forms = [self._forms[module] for module in modules]
        linears = [linear_of(source, module) for module in modules]
        sizes = {form.group.size for form in forms if isinstance(form.group, PerGroup)}
        scheme = _scheme(
            max(form.width for form in forms),
            all(form.symmetric for form in forms),
            PerGroup(math.gcd(*sizes)) if sizes else PER_ROW,
        )
        why = next((f"groups of {size} columns" for size in sorted(sizes) if size % groups.STEP), "")
        if not why and not any(linear.in_features % size for linear in linears for size in sizes):
            # Sizes that do not divide the row are told with all other linears that do not fit (`problems`).
            indices = [_index(source, linear, form) for linear, form in zip(linears, forms, strict=True)]
            size = scheme.group_size.columns(linears[0].in_features)
            order = common_order(indices, size)
            if order is None:
                why = "activation orders of linears that are computed together"
            else:
                moved = order if (order[1:] < order[:-1]).any() else None
                for module, index in zip(modules, indices, strict=True):
                    self._runs[module] = index[order][::size]
                    if moved is not None:
                        self._orders[module] = moved
        if why:
            scheme = _scheme(BYTE_CODES.bits, True, PerGroup(groups.STEP))
        self._schemes.update(dict.fromkeys(modules, scheme))
        return why

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
        if module in self.rounded or form is None:
            return super().words(module)
        found = [f"stored with {form.bits} bits"] if form.bits != self._schemes[module].bits else []
        return ", ".join([*found, *(["columns in activation order"] if module in self._orders else [])])

    # ---- values

    def stored_codes(self, source: TensorSource, module: str, rows: Rows) -> np.ndarray:
        form = self._forms[module]
        codes = self._unsigned(source, module, rows)
        codes -= np.uint8(form.middle)  # below the middle it wraps, and is negative as int8
        order = self._orders.get(module)
        return codes.view(np.int8) if order is None else codes.view(np.int8)[:, order]

    def _unsigned(self, source: TensorSource, module: str, rows: Rows) -> np.ndarray:
        form = self._forms[module]
        words = source.read_raw(f"{module}.qweight")[1]
        return form.layout.codes(words, form.bits, linear_of(source, module), rows)

    def stored_scales(self, source: TensorSource, module: str) -> Scales:
        scale, zero = (values[:, self._runs[module]] for values in self._of_groups(source, module))
        signed = (zero - np.uint8(self._forms[module].middle)).view(np.int8)
        return Scales(scale, None if self._schemes[module].symmetric else signed, order=self._orders.get(module))

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
        of_column = _index(source, linear, form)
        values = self._unsigned(source, module, rows).astype(np.float32)
        values -= zero[rows][:, of_column]
        values *= scale[rows][:, of_column]
        return values


def _index(source: TensorSource, linear: Linear, form: WordForm) -> np.ndarray:
    """The group of each column, int [in]. Raises AgqError as `group_index`."""
    name = f"{linear.module}.g_idx"
    if form.layout.ordered and source.has(name):
        return group_index(source, name, linear, form.group)
    return np.arange(linear.in_features) // form.group.columns(linear.in_features)


def _scheme(bits: int, symmetric: bool, group: Granularity) -> ModuleScheme:
    strategy = "group" if isinstance(group, PerGroup) else "channel"
    return ModuleScheme(bits, symmetric, group, strategy, "words", FLOAT_INPUT, scale_types=_SCALE_TYPES)
