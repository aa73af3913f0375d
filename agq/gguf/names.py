"""Names and orders: which tensor of a GGUF file is which of Hugging Face's, and in which order its rows stand."""

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map
from gguf.constants import MODEL_TENSOR_SKIP, MODEL_TENSORS, TENSOR_NAMES

from agq.gguf.metadata import Architecture
from agq.models import ModelParts, ModelSpec
from agq.models.parts import HEADS

_LEAVES = (".weight", ".bias")


class Names:
    """Hugging Face's names of a model's tensors in a GGUF file of some architecture, by the `gguf` package's table."""

    def __init__(self, architecture: str, parts: ModelParts):
        kinds = {name: kind for kind, name in MODEL_ARCH_NAMES.items()}
        kind = MODEL_ARCH(kinds[architecture])
        self._table = get_tensor_name_map(kind, parts.spec.layers)
        computed = set(MODEL_TENSORS[kind]) - set(MODEL_TENSOR_SKIP.get(kind, ()))
        self._computed = {
            TENSOR_NAMES[tensor].format(bid=layer) for tensor in computed for layer in range(parts.spec.layers)
        }
        self._prefix = parts.base_prefix

    def stored(self, name: str) -> str | None:
        """The name in the file of tensor `name`, such as `model.layers.0.self_attn.q_proj.weight`; None: unknown."""
        found = self._table.get_name(name, _LEAVES) or self._table.get_name(name.removeprefix(self._prefix), _LEAVES)
        return str(found) if found else None

    def computed(self, stored: str) -> bool:
        """Whether a tensor of the file belongs to what the architecture computes: a weight of its table, or a bias or
        scale beside one."""
        return stored.rpartition(".")[0] in self._computed


def row_orders(parts: ModelParts, architecture: Architecture) -> dict[str, np.ndarray]:
    """Module -> order, for linears whose rows the converter to GGUF has sorted: Hugging Face's row r is the file's row
    order[r]. Biases go along."""
    spec = parts.spec
    orders = {}
    for block in parts.blocks():
        for role, linear in block.linears.items():
            if role == "qkv" and parts.qkv_order == HEADS:
                orders[linear.module] = _fused(spec)
            elif role in ("q", "k") and architecture.rotated:
                orders[linear.module] = _neighbours(linear.out_features, spec.head_dim)
    return orders


def _neighbours(rows: int, head_dim: int) -> np.ndarray:
    """RoPE in GGUF turns channels 2j and 2j + 1, in Hugging Face's models j and j + head_dim / 2."""
    return np.arange(rows).reshape(-1, head_dim // 2, 2).transpose(0, 2, 1).reshape(-1)


def _fused(spec: ModelSpec) -> np.ndarray:
    """[3, heads, head_dim] in the file, [heads, 3, head_dim] in the folder."""
    return np.arange(3 * spec.q_size).reshape(3, spec.heads, spec.head_dim).transpose(1, 0, 2).reshape(-1)
