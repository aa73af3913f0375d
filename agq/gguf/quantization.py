"""Which linears of a GGUF file are codes, and how."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agq.checkpoint.module_scheme import ModuleScheme
from agq.formats import PerGroup
from agq.gguf.forms import Form
from agq.gguf.reader import GgufFile
from agq.gguf.types import GROUP
from agq.recipe import ActivationScheme

# What scales may be in a packed file: GGUF's own are f16, or products of them and integers.
_SCALE_TYPES = ("f16", "bf16")


@dataclass(frozen=True)
class GgufQuantization:
    """Which linears of a file are codes. `config`: for records."""

    schemes: dict[str, ModuleScheme]
    config: dict[str, Any]

    def scheme(self, module: str) -> ModuleScheme | None:
        """How a linear is stored; None: as floats."""
        return self.schemes.get(module)

    def modules(self) -> list[str]:
        """The linears that are codes."""
        return list(self.schemes)


def quantization(forms: Mapping[str, Form], activations: ActivationScheme, file: GgufFile) -> GgufQuantization | None:
    """The linears of `forms` that are codes; None where there are none. activations: of their inputs."""
    schemes = {
        module: ModuleScheme(form.bits, True, PerGroup(GROUP), "group", "gguf", activations, form.minimum, _SCALE_TYPES)
        for module, form in forms.items()
        if form.bits
    }
    if not schemes:
        return None
    counts = Counter(tensor.type for tensor in file.tensors.values())
    return GgufQuantization(schemes, {"quant_method": "gguf", "types": dict(counts.most_common())})
