"""What formats take: bits a weight, bytes of the packed file, or time on a machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agq.artifact.documents import read_documents
from agq.artifact.linear_info import LinearInfo
from agq.artifact.schema import ArtifactModel
from agq.artifact.writer import artifact_bytes
from agq.checkpoint import Checkpoint
from agq.checkpoint.compressed_tensors import PACKED, quantization_config
from agq.errors import AgqError, UsageError
from agq.formats.weights import BY_STORED
from agq.planning.kernel_table import KernelTable, format_name
from agq.planning.machines import Machine, estimate
from agq.planning.machines import machine as find_machine
from agq.planning.roofline import decode_seconds
from agq.planning.sizes import Footprint, linear_info, packed_as
from agq.planning.use_cases import DEFAULT
from agq.quantization.allocation.items import PLACES, Item, all_schemes, overrides_of
from agq.quantization.report import LayerReport
from agq.quantization.transforms.plan import TransformPlan
from agq.quantization.writer import module_schemes
from agq.recipe import Recipe, Scheme
from agq.reporting.output import human_size
from agq.structured import plain
from agq.tokenizer.files import read_tokenizer_files
from agq.version import __version__

# Costs are whole numbers: times in picoseconds.
_PICOSECONDS = 1e12
# Of a layer's report in the file's header: numbers as long as they come.
_NUMBER = 0.12345678901234567
# Bytes that an account may be longer: of tuning, of a head that was measured.
_MARGIN = 2048
# What a folder says of its calibration text, about.
_TEXT = "calibration.txt (as it is), 128 x 2048 of 1000000 tokens, random crops, seed 0"


@dataclass(frozen=True)
class Costs:
    """What a target counts.

    Attributes:
        each: of each item with each of its schemes, whole numbers. rest: of what is not chosen. most: that there may
            be in all. words: a sum for people. figure: a sum as the option of the target writes it.
    """

    each: tuple[tuple[int, ...], ...]
    rest: int
    most: int
    words: Callable[[int], str]
    figure: Callable[[int], float]

    def total(self, chosen: Sequence[int]) -> int:
        """Of a choice for each item."""
        return self.rest + sum(row[choice] for row, choice in zip(self.each, chosen, strict=True))

    @property
    def least(self) -> int:
        """Of the cheapest choices."""
        return self.rest + sum(min(row) for row in self.each)


class File:
    """The packed file that a quantized folder will become.

    items: whose schemes are chosen. model: with the recipe's own schemes.
    """

    def __init__(
        self, checkpoint: Checkpoint, recipe: Recipe, transforms: TransformPlan, items: Sequence[Item]
    ) -> None:
        self.checkpoint, self.recipe, self.items = checkpoint, recipe, items
        source, floats = checkpoint.spec, BY_STORED[checkpoint.dtype(f"{checkpoint.parts.embed}.weight")].name
        spec = transforms.spec(source)
        if transforms.behind_matrix(source):
            spec = replace(spec, tied=True, head_matrix=True)
        own = {
            f"blocks.{block.index}.{place}": recipe.scheme_for(block.linears[roles[0]].module)
            for block in checkpoint.parts.blocks()
            for place, roles in zip(PLACES, block.groups, strict=True)
        }
        made = packed_as(spec, checkpoint.parts, recipe, own, floats)
        self.model = replace(made, documents={name: len(data) for name, data in _documents(checkpoint).items()})

    def info(self, item: Item, scheme: Scheme) -> LinearInfo:
        """An item with a scheme."""
        own = self.model.linears[item.name]
        return replace(linear_info(scheme), out=own.out, inputs=own.inputs, bias=own.bias, hadamard=own.hadamard)

    def with_schemes(self, schemes: Sequence[Scheme]) -> ArtifactModel:
        """The file with a scheme for each item."""
        chosen = {item.name: self.info(item, scheme) for item, scheme in zip(self.items, schemes, strict=True)}
        return replace(self.model, linears={**self.model.linears, **chosen})

    def bytes(self, schemes: Sequence[Scheme]) -> int:
        """Of the file with a scheme for each item: tensors as they are padded, documents, and a header with an account
        of the making that is about as long as it will be."""
        model, mixed = self.with_schemes(schemes), self._mixed()
        by_scheme: dict[Scheme, list[str]] = {}
        layers = []
        for module, scheme in module_schemes(self.checkpoint.parts, mixed).items():
            by_scheme.setdefault(scheme, []).append(module)
            report = LayerReport(module, scheme.name, mixed.method, _NUMBER, _NUMBER, 0.01, False)
            layers.append(report.to_dict())
        config = quantization_config(
            [(modules, scheme.weights, scheme.activations) for scheme, modules in by_scheme.items()],
            ["lm_head"],
            PACKED,
        )
        written = len(json.dumps({"quantization_config": config}, indent=2))
        documents = {**model.documents, "config.json": model.documents.get("config.json", 0) + written}
        account: dict[str, Any] = {
            "version": __version__,
            "recipe": mixed.to_dict(),
            "scheme": self.recipe.scheme.to_dict(),
            "calibration": {**plain(mixed.calibration), "sha256": "0" * 64, "tokens_sha256": "0" * 64, "data": _TEXT},
            "report": {
                "layers": layers,
                "fallbacks": 0,
                "allocation": [
                    {
                        "linears": item.name,
                        "chosen": item.base.describe(),
                        "losses": {scheme.describe(): 0.0001234 for scheme in item.schemes},
                    }
                    for item in self.items
                ],
            },
        }
        source = {"name": self.checkpoint.path.name, "sha256": "0" * 64}
        return _MARGIN + artifact_bytes(replace(model, documents=documents), account, source, f"agq {__version__}")

    def _mixed(self) -> Recipe:
        """The recipe with about as many overrides as a choice may need: blocks have all schemes in turn."""
        schemes = [item.schemes[item.block % len(item.schemes)] for item in self.items]
        overrides = overrides_of(self.checkpoint.parts, self.items, schemes)
        return replace(self.recipe, overrides=(*overrides, *self.recipe.overrides))


def _documents(checkpoint: Checkpoint) -> dict[str, bytes]:
    try:
        return read_documents(checkpoint, read_tokenizer_files(checkpoint.text, f"`{checkpoint.path}`"))
    except AgqError:  # a model without a tokenizer can be quantized; packing says what is missing
        return {}


def _stored(info: LinearInfo, padded: bool) -> int:
    """Bytes of an item in the file, with its bias; not padded: of codes and scales alone."""
    sizes = info.tensors("").items()
    return sum(size.stored if padded else size.nbytes for name, size in sizes if padded or name != ".bias")


def _table(file: File, of: Callable[[LinearInfo], int]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(of(file.info(item, scheme)) for scheme in item.schemes) for item in file.items)


def bits_costs(file: File, bits: float) -> Costs:
    """Bits a weight of the blocks' linears, as `agq pack` counts them: costs in bytes."""
    blocks = {name: info for name, info in file.model.linears.items() if name.startswith("blocks.")}
    weights = sum(info.out * info.inputs for info in blocks.values())
    chosen = {item.name for item in file.items}
    rest = sum(_stored(info, False) for name, info in blocks.items() if name not in chosen)
    return Costs(
        _table(file, lambda info: _stored(info, False)),
        rest,
        int(bits * weights / 8 + 1e-6),
        lambda total: f"{8 * total / weights:.4g} bits a weight",
        lambda total: 8 * total / weights,
    )


def size_costs(file: File, most: int) -> Costs:
    """Bytes of the packed file."""
    each = _table(file, lambda info: _stored(info, True))
    own = [item.schemes[0] for item in file.items]
    rest = file.bytes(own) - sum(row[0] for row in each)
    return Costs(each, rest, most, lambda total: human_size(total), float)


def speed_costs(file: File, board: str, rate: float) -> tuple[Costs, Costs]:
    """Time between two tokens of an answer on a machine, and the memory that running there takes, for the use case
    that `agq recommend` plans for by default.

    Raises:
        UsageError: no such machine, or a graphics card.
    """
    there = computer(board)
    models = [file.with_schemes([_or_base(item, scheme) for item in file.items]) for scheme in all_schemes(file.items)]
    tables = [estimate(there, model) for model in (file.model, *models)]
    table = tables[0]
    for other in tables[1:]:
        table = replace(table, linears={**other.linears, **table.linears}, inputs={**other.inputs, **table.inputs})

    def seconds(info: LinearInfo) -> int:
        return round(_PICOSECONDS * _linear_seconds(table, info))

    each = _table(file, seconds)
    steps = DEFAULT.answer - 1
    whole = decode_seconds(file.model, table, steps, DEFAULT.prompt, 1, file.model.kv_bits) / steps
    rest = round(_PICOSECONDS * whole) - sum(seconds(file.model.linears[item.name]) for item in file.items)
    time = Costs(
        each,
        rest,
        int(_PICOSECONDS / rate),
        lambda total: f"{_PICOSECONDS / total:.3g} tokens/s",
        lambda total: _PICOSECONDS / total,
    )
    return time, _memory_costs(file, there)


def _memory_costs(file: File, there: Machine) -> Costs:
    stored = _table(file, lambda info: _stored(info, True))
    own = sum(_stored(file.model.linears[item.name], True) for item in file.items)
    rest = Footprint(file.model).at(DEFAULT.tokens).peak - own
    return Costs(stored, rest, there.free, lambda total: f"{human_size(total)} of memory", float)


def computer(board: str) -> Machine:
    """The machine of a name on which agq itself runs. Raises UsageError."""
    there = find_machine(board)
    if there.card:
        raise UsageError(
            f"`board: {board}` is a graphics card, which agq does not run on", hint="name a computer, such as pi5"
        )
    return there


def _linear_seconds(table: KernelTable, info: LinearInfo) -> float:
    """Of one token through a linear (agq/planning/roofline.py)."""
    row = format_name(info)
    return table.linears[row].seconds(1, info.out * info.inputs) + table.inputs[row].seconds(1, info.inputs)


def _or_base(item: Item, scheme: Scheme) -> Scheme:
    return scheme if scheme in item.schemes else item.base
