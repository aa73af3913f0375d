"""The stages at which the linears of a block that read the same input are quantized, so that later ones see what the
earlier ones really put out ("true-sequential")."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from agq.numerics.hadamard import fwht
from agq.quantization.solvers.hessian import Hessian
from agq.reference.block import Linear
from agq.reference.stream import Stream

# Called with roles that share an input: with a sample of it before it is gathered (it may change the linears' input
# transforms), and with its Hessian afterwards (it may change their weights).
Choose = Callable[[tuple[str, ...], Tensor], None]
Solve = Callable[[tuple[str, ...], Hessian], None]


def rotated(linear: Linear, x: Tensor) -> Tensor:
    """The input of a linear as its activation quantizer sees it."""
    return fwht(x, linear.hadamard) if linear.hadamard else x


def run_stages(
    stream: Stream, target: Stream | None, groups: tuple[tuple[str, ...], ...], choose: Choose, solve: Solve
) -> None:
    """Passes all windows through a block; between two stages `solve` may replace the weights of the stage's linears.

    target: the float model's stream, for methods that need its inputs; it advances too.
    """
    for stage, roles in enumerate(groups):
        linear = stream.block.linears[roles[0]]
        hessian = Hessian(linear.weight.shape[1], stream.hidden.device, cross=target is not None)
        for index, part in enumerate(stream.parts()):
            x = stream.input(stage, part)
            if index == 0:
                choose(roles, rotated(linear, x))
            wanted = None
            if target is not None:
                wanted = rotated(linear, target.input(stage, part))
            hessian.add(linear.transform(x), wanted)
        solve(roles, hessian)
    stream.finish()
    if target is not None:
        target.finish()


def gather_hessians(
    stream: Stream, target: Stream | None, groups: tuple[tuple[str, ...], ...], choose: Choose
) -> list[tuple[tuple[str, ...], Hessian]]:
    """Hessians of all groups of linears of an unchanged block; the hidden states are not advanced."""
    linears, device = stream.block.linears, stream.hidden.device
    found = {
        roles[0]: (roles, Hessian(linears[roles[0]].weight.shape[1], device, target is not None)) for roles in groups
    }
    for index, part in enumerate(stream.parts()):
        inputs, _ = stream.block.inputs(stream.hidden.get(part), stream.positions)
        wanted = target.block.inputs(target.hidden.get(part), target.positions)[0] if target is not None else {}
        for roles, hessian in found.values():
            linear = linears[roles[0]]
            if index == 0:
                choose(roles, rotated(linear, inputs[roles[0]]))
            hessian.add(linear.transform(inputs[roles[0]]), rotated(linear, wanted[roles[0]]) if wanted else None)
    return list(found.values())
