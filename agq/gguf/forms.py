"""What becomes of each linear of a GGUF file in a packed one: its codes as they are, floats, or 8-bit codes anew."""

from collections.abc import Iterable
from dataclasses import dataclass

from agq.formats import integer_format
from agq.formats.weights import BYTE_CODES
from agq.gguf.types import BLOCKS, FLOATS
from agq.models import ModelParts


@dataclass(frozen=True)
class Form:
    """How a linear is stored.

    Attributes:
        exact: its codes and scales are the file's; else it is rounded to 8 bits anew. bits: of a code; 0: floats.
        minimum: a minimum for each group of columns, beside the scale.
    """

    exact: bool
    bits: int
    minimum: bool = False


FLOAT, ROUNDED = Form(True, 0), Form(False, BYTE_CODES.bits)


def form_of(type: str) -> Form:
    """The form of a GGUF type by itself."""
    if type in FLOATS:
        return FLOAT
    row = BLOCKS.get(type)
    return ROUNDED if row is None else Form(True, row.bits, row.minimum)


def together(types: Iterable[str]) -> dict[str, Form]:
    """Type -> form, of linears that are computed as one matrix: one width, and minima for all or none.

    Codes of 4 bits become bytes beside others; floats beside codes are rounded.
    """
    forms = {type: form_of(type) for type in types}
    coded = [form for form in forms.values() if form.bits]
    if not coded:
        return forms
    bits, minimum = max(form.bits for form in coded), any(form.minimum for form in coded)
    signed = {form.minimum for form in coded if form.bits == bits}
    if integer_format(bits).offset and len(signed) > 1:
        bits = BYTE_CODES.bits  # codes -8..7 and 0..15 have no common form of 4 bits
    return {type: Form(form.exact and bool(form.bits), bits, minimum) for type, form in forms.items()}


def settle(parts: ModelParts, types: dict[str, str]) -> dict[str, Form]:
    """Module -> form of every linear. types: module -> GGUF type."""
    found: dict[str, Form] = {}
    for block in parts.blocks():
        for group in block.groups:
            modules = [block.linears[role].module for role in group]
            forms = together(types[module] for module in modules)
            found.update({module: forms[types[module]] for module in modules})
    found[parts.head] = form_of(types[parts.head])
    return found
