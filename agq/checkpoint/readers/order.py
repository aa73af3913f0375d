"""Groups whose columns do not stand side by side (GPTQ's `desc_act`, compressed-tensors' `actorder`): an order of the
columns in which they do. A kernel reads inputs in that order, so codes and scales stay as they are.

Linears that read one input and are computed as one matrix (query, key and value; gate and up) need one order for all.
"""

from collections.abc import Sequence

import numpy as np

from agq.checkpoint.readers.reader import DAMAGED
from agq.checkpoint.source import TensorSource
from agq.errors import AgqError
from agq.formats import Granularity
from agq.models import Linear, ModelParts


def group_index(source: TensorSource, name: str, linear: Linear, group: Granularity) -> np.ndarray:
    """Tensor `name`: the group of each column, int32 [in].

    Raises:
        AgqError: it is not int32 [in], or names other groups than there are, or not all of them as often.
    """
    dtype, index = source.read_raw(name)
    if dtype != "I32" or index.shape != (linear.in_features,):
        raise AgqError(f"`{name}` is {dtype} {list(index.shape)}, not I32 [{linear.in_features}]", hint=DAMAGED)
    count, size = group.scales(linear.in_features), group.columns(linear.in_features)
    if index.min() < 0 or index.max() >= count:
        raise AgqError(f"`{name}` names groups outside 0..{count - 1}", hint=DAMAGED)
    if (np.bincount(index, minlength=count) != size).any():
        raise AgqError(f"`{name}` does not give {size} columns to each of {count} groups", hint=DAMAGED)
    return index


def common_order(indices: Sequence[np.ndarray], size: int) -> np.ndarray | None:
    """An order of the columns, uint32 [in], in which each run of `size` columns is in one group of each index.

    indices: int [in] each, the groups of the columns. None: there is no such order.
    """
    if all(runs_of(index, size) is not None for index in indices):
        return np.arange(len(indices[0]), dtype=np.uint32)
    order = np.lexsort(tuple(indices)[::-1])  # stable: columns of the same groups stay in their order
    fits = all(runs_of(index[order], size) is not None for index in indices)
    return order.astype(np.uint32) if fits else None


def runs_of(index: np.ndarray, size: int) -> np.ndarray | None:
    """The group of each run of `size` columns, int [in / size]; None where one has columns of several groups."""
    runs = index.reshape(-1, size)
    return runs[:, 0] if (runs == runs[:, :1]).all() else None


def together(parts: ModelParts, modules: Sequence[str]) -> list[list[str]]:
    """`modules` by the matrix that they are computed as."""
    found = [[block.linears[role].module for role in roles] for block in parts.blocks() for roles in block.groups]
    inside = {module for some in found for module in some}
    found = [[module for module in some if module in set(modules)] for some in found]
    return [some for some in found if some] + [[module] for module in modules if module not in inside]
