"""Which kernels compute which linear of an artifact."""

from dataclasses import dataclass
from typing import Any

from agq.artifact.reader import Artifact
from agq.native.library import Library, text
from agq.runtime import descriptor
from agq.runtime.engine_inputs import CHUNK


@dataclass(frozen=True)
class LinearPlan:
    """How one linear is computed: bits of weights and activations, accumulator, kernels for one token and for many."""

    name: str
    weights: str
    activations: str
    accumulator: str
    decode_kernel: str
    prefill_kernel: str


def linear_plans(library: Library, artifact: Artifact, model: Any, prefill: int = CHUNK) -> list[LinearPlan]:
    """How each linear of an artifact is computed by a library; `model` as descriptor.build_model makes it."""
    plans = []
    for name, info in artifact.linears.items():
        linear = library.ffi.addressof(descriptor.linear_of(model, model.blocks, name))
        weights, activations = info.words()
        plans.append(
            LinearPlan(
                name,
                weights,
                activations,
                text(library.c.agq_linear_accumulator(linear)),
                text(library.c.agq_linear_kernel(linear, 1)),
                text(library.c.agq_linear_kernel(linear, prefill)),
            )
        )
    return plans
