"""Machines that are not here: kernel tables put together from the documented figures of `machines.yaml`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from agq.artifact.linear_info import LinearInfo
from agq.artifact.schema import ArtifactModel
from agq.errors import UsageError
from agq.formats.cache import CACHES
from agq.planning.kernel_table import Attention, Curve, KernelTable, Point, format_name
from agq.runtime.engine_inputs import CHUNK
from agq.structured import nearest

_FILE = Path(__file__).with_name("machines.yaml")
# A name that stands for one of the others.
_ALIASES = {"apple-m": "apple-m1", "snapdragon": "snapdragon-870", "pi": "pi5", "amx": "xeon-amx"}
_TOKENS = (1, 4, 16, 64, CHUNK)
# Shares of a card's or a computer's memory that a model may take: the system has the rest.
_FREE = {"agq": 0.85, "vLLM": 0.9}
# Float operations, in multiply-accumulates, as the kernels take them on processors that were measured: for a channel of
# an input that is normed and quantized, or of q, k and v that are turned and stored; for a token of a prompt beside its
# keys, and for a query's channel with a key: in a prompt, and alone.
_CHANNEL, _TOKEN, _PAIR, _ALONE = 50, 100, 5, 10
# Tokens that vLLM computes at once by default.
_VLLM_CHUNK = 2048


@dataclass(frozen=True)
class Machine:
    """A row of machines.yaml, whose head says what the fields are."""

    key: str
    name: str
    serves: str
    level: str
    threads: int
    memory: tuple[int, ...]
    bandwidth: float
    rates: dict[str, float]
    reach: dict[str, float]
    call: float
    forward: float
    sources: tuple[str, ...]

    @property
    def card(self) -> bool:
        """A graphics card, which agq does not compute on: vLLM serves the quantized folder there."""
        return self.serves != "agq"

    @property
    def free(self) -> int:
        """Bytes that a model may take of the first of `memory`."""
        return int(_FREE[self.serves] * self.memory[0] * 1e9)


@cache
def machines() -> dict[str, Machine]:
    """By their names."""
    found = {}
    for key, values in yaml.safe_load(_FILE.read_text(encoding="utf-8")).items():
        row: dict[str, Any] = {**values, "key": key}
        row |= {name: tuple(row[name]) for name in ("memory", "sources")}
        assert set(row) == {field.name for field in fields(Machine)}
        found[key] = Machine(**row)
    return found


def machine(name: str) -> Machine:
    """The machine of a name, in any case: `pi4`, or `pi4-4gb` with another memory.

    Raises:
        UsageError: there is none, or none with such a memory.
    """
    known = machines()
    wanted = name.lower()
    size = re.fullmatch(r"(.+)-(\d+)gb", wanted)
    key = size[1] if size else wanted
    found = known.get(_ALIASES.get(key, key))
    if found is None:
        near = nearest(key, known)
        raise UsageError(
            f"unknown machine `{name}`", hint=near if near.startswith("did") else f"machines: {', '.join(known)}"
        )
    if size is None:
        return found
    if int(size[2]) not in found.memory:
        sizes = ", ".join(f"{found.key}-{item}gb" for item in sorted(found.memory))
        raise UsageError(f"there is no `{found.key}` with {size[2]} GB", hint=f"there are: {sizes}")
    return Machine(**{**vars(found), "memory": (int(size[2]),)})


def rate(machine: Machine, info: LinearInfo, floats: bool = False) -> float | None:
    """Multiply-accumulates a second of a linear's kernels; None: there is none. floats: weights and inputs are 8-bit
    floats, where the machine computes those."""
    if floats and machine.card:
        kind = "fp8"
    elif not info.activations.quantized:
        kind = "float"
    else:
        kind = "int4" if info.activations.coarse else "int8"
    found = machine.rates.get(kind)
    return None if found is None else found * 1e9 * machine.reach["rates"]


def computes(machine: Machine, model: ArtifactModel, floats: bool = False) -> bool:
    """Whether all linears of `model` have a rate."""
    return all(rate(machine, info, floats) is not None for info in model.linears.values())


def estimate(machine: Machine, model: ArtifactModel, floats: bool = False) -> KernelTable:
    """The table of `machine` for `model`, which it computes. floats: of the blocks' linears, see `rate`."""
    read = machine.bandwidth * 1e9 * machine.reach["bandwidth"]
    call = machine.call * 1e-6
    operations = (machine.rates["float"] if not machine.card else 100 * machine.bandwidth) * 1e9
    most = _VLLM_CHUNK if machine.card else CHUNK
    tokens = sorted({*_TOKENS, most})
    linears = {}
    for name, info in model.linears.items():
        speed = rate(machine, info, floats and name.startswith("blocks."))
        assert speed is not None
        weights = info.out * info.inputs
        nbytes = sum(size.nbytes for size in info.tensors("").values()) / weights
        points = (Point(count, call, max(nbytes / read, count / speed)) for count in tokens)
        linears[format_name(info)] = Curve(tuple(points))
    each = _proportional(tokens, call, _CHANNEL / operations)
    attention = {}
    for bits, row in CACHES.items():
        stored = row.head_bytes(model.spec.head_dim) / model.spec.head_dim / (model.spec.heads / model.spec.kv_heads)
        stored = stored / 2 if machine.card else stored  # 16-bit floats
        attention[bits] = Attention(
            call, max(stored / read, _ALONE / operations), _TOKEN / operations, _PAIR / operations
        )
    return KernelTable(
        machine=machine.name,
        level=machine.level,
        threads=machine.threads,
        measured=False,
        memory=machine.free,
        bandwidth=machine.bandwidth * 1e9,
        peak=max(machine.rates.values()) * 1e9,
        instruction="documented",
        linears=linears,
        inputs=dict.fromkeys(linears, each),
        kv_store=dict.fromkeys(CACHES, each),
        attention=attention,
        forward=Curve((Point(1, machine.forward * 1e-6, 0.0), Point(most, machine.forward * 1e-6, 0.0))),
        most=most,
        sources=machine.sources,
    )


def _proportional(tokens: Iterable[int], call: float, unit: float) -> Curve:
    """What costs `unit` for each token and unit."""
    return Curve(tuple(Point(count, call, count * unit) for count in tokens))
