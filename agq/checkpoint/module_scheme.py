"""How one linear of a quantized folder is stored: its numbers, and the tensors that hold them."""

from dataclasses import dataclass

from agq.checkpoint.packing import packed_words
from agq.formats import Granularity, PerGroup, groups
from agq.formats.weights import SCALE
from agq.models import Linear
from agq.recipe import ActivationScheme

# Forms of codes in a folder: several in a word of 32 bits, a byte each, FP8.
PACKED, INT, FLOAT = "pack-quantized", "int-quantized", "float-quantized"
# How compressed-tensors writes a whole row where it names no strategy.
WHOLE = -1

# Types and shapes, any of which a tensor may have.
Stored = tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]


@dataclass(frozen=True)
class ModuleScheme:
    """How one linear is quantized.

    Attributes:
        bits: of the codes as they are packed and computed.
        group_size: PER_ROW with strategy "tensor": one scale for all rows.
        minimum: each group has a float that is added to code * scale (GGUF).
        scale_types: of scales and minima in a packed file: the first one that holds them exactly, else float32.
        narrow: bits of the folder's codes where they are fewer; 0: the same.
        note: what is computed otherwise than the folder says, for people; "": nothing.
        ordered: `weight_g_idx` says which group each column belongs to.
    """

    bits: int
    symmetric: bool
    group_size: Granularity
    strategy: str
    format: str
    activations: ActivationScheme
    minimum: bool = False
    scale_types: tuple[str, ...] = (SCALE,)
    narrow: int = 0
    note: str = ""
    ordered: bool = False

    @property
    def stored_bits(self) -> int:
        """Of the folder's codes."""
        return self.narrow or self.bits

    def groups(self, columns: int) -> int:
        """Scales per row."""
        return self.group_size.scales(columns)

    def tensors(self, linear: Linear, floats: tuple[str, ...]) -> dict[str, Stored]:
        """Name -> (dtypes, shapes), any of which may be stored."""
        rows, columns, bits = linear.out_features, linear.in_features, self.stored_bits
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
        if self.ordered:
            expected[f"{name}.weight_g_idx"] = (("I32",), ((columns,),))
        return expected


def group_problem(group: PerGroup, columns: int, what: str = "group size") -> str:
    """Says that a group size does not fit, and which ones would."""
    choices = ", ".join(map(str, [*groups.fitting([columns]), WHOLE]))
    rule = f"is not a multiple of {groups.STEP} that divides {columns} inputs"
    return f"{what} {group.size} {rule} (possible: {choices})"
