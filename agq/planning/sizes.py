"""The packed file that a model would become with a scheme, and the memory that running it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agq.artifact.linear_info import LinearInfo
from agq.artifact.schema import ArtifactModel, linear_shapes
from agq.artifact.sources import fused_linears
from agq.formats import PER_ROW
from agq.formats.activations import WIDE
from agq.formats.cache import AUTO, CACHES, DEFAULT_TABLE, FLOAT_CACHE, TABLES
from agq.formats.groups import Fitted, fit
from agq.formats.weights import BYTE_CODES, EXACT, SCALE
from agq.models import ModelParts, ModelSpec
from agq.models import parts as parts_of
from agq.planning.stand_in import StandIn
from agq.recipe.changes import RecipeChanges
from agq.recipe.recipe import Recipe
from agq.recipe.resolve import effective_recipe, fit_hadamard
from agq.recipe.schemes import Scheme
from agq.runtime.engine import Engine

# Resident memory of `agq run` beside model and engine: Python 3.11 with numpy; and for each entry and merge of the
# tokenizer, while it is read: measured with 21 thousand, 98 thousand and 776 thousand of them (scripts/fits.py).
PROCESS_BYTES, ENTRY_BYTES = 48_000_000, 390
# Entries and merges for a token of the vocabulary: of the tokenizers that were measured 2.0 to 3.2.
_ENTRIES = 3
# Activations and captured graphs of vLLM.
_CARD_BYTES = 2_000_000_000
# Positions of the engines that are asked for their bytes: whole blocks of the cache.
_POSITIONS = (256, 768)
# Codes of one byte with a scale for each row, and inputs as they are.
_BYTES = LinearInfo(0, 0, BYTE_CODES.name, SCALE)
# What 16-bit weights are packed as where the model is only known by its shape.
HALF = "bf16"


@dataclass(frozen=True)
class Memory:
    """Bytes of a running model: the packed file, the KV cache, the engine's workspace, the process."""

    weights: int
    kv: int
    workspace: int
    process: int

    @property
    def peak(self) -> int:
        """All of them. Less is resident where rows of an embedding of its own are never looked up."""
        return self.weights + self.kv + self.workspace + self.process

    def to_dict(self) -> dict[str, int]:
        """JSON-ready, the sum as `peak`."""
        return {**vars(self), "peak": self.peak}


def packed(spec: ModelSpec, scheme: Scheme | None) -> ArtifactModel:
    """What `quantize` and `pack` would make of a model with `scheme` (None: 16-bit floats), without its documents.

    The recipe is the scheme's own: its preset decides on rotation (a tied head stays one behind a matrix) and on the
    transform before the feed-forward's second layer.
    """
    names = parts_of(spec)
    if scheme is None:
        return _model(
            spec, names, {name: LinearInfo(*shape, HALF) for name, shape in linear_shapes(spec).items()}, HALF
        )
    recipe = fit_hadamard(effective_recipe(None, RecipeChanges(scheme=scheme.name)), spec.ffn)
    group = fit(inputs for name, (_, inputs) in linear_shapes(spec).items() if name.startswith("blocks."))
    fitted = recipe.scheme.fit(group)
    tied = spec.tied and recipe.transforms.r1 and not spec.layer_norm and not spec.projected
    spec = replace(spec, head_matrix=True) if tied else spec
    blocks = dict.fromkeys((name for name in linear_shapes(spec) if name.startswith("blocks.")), fitted)
    return packed_as(spec, names, recipe, blocks)


def packed_as(
    spec: ModelSpec, names: ModelParts, recipe: Recipe, schemes: Mapping[str, Scheme | None], floats: str = HALF
) -> ArtifactModel:
    """The packed file of a quantized folder, without its documents.

    spec: of the file, with its matrix before the head. names: of the model's tensors. recipe: what is said of the head,
    the cache and the transform before the feed-forward's second layer. schemes: of each linear of the blocks by its
    name in the file, None: floats. floats: the element type of what is not quantized.
    """
    bits = DEFAULT_TABLE.bits if recipe.head_bits == AUTO else int(recipe.head_bits)
    table = TABLES[bits]
    # Codes of fewer bits than a byte have a scale for some columns.
    head_type = table.of(None, floats)
    group = fit([spec.embed_dim]) if isinstance(head_type.group, Fitted) else PER_ROW
    head = LinearInfo(0, 0, head_type.name)
    if table.integer:
        head = replace(_BYTES, dtype=head_type.name, group=group, act_bits=WIDE.code)
    infos = {}
    for name, shape in linear_shapes(spec).items():
        if name.startswith("blocks."):
            scheme = schemes[name]
            found = LinearInfo(0, 0, floats) if scheme is None else linear_info(scheme)
        elif name == "head":
            found = head
        else:
            found = LinearInfo(0, 0, EXACT if spec.head_matrix else floats)
        online = recipe.transforms.hadamard if name.endswith(".down") else 0
        infos[name] = replace(found, out=shape[0], inputs=shape[1], hadamard=online)
    return _model(spec, names, infos, BYTE_CODES.name if table.integer else floats, recipe, floats)


def linear_info(scheme: Scheme) -> LinearInfo:
    """A linear of a scheme, of no shape yet."""
    weights, inputs = scheme.weights, scheme.activations
    if weights.floats:
        return LinearInfo(0, 0, HALF)
    return LinearInfo(
        0,
        0,
        weights.format.name,
        SCALE,
        weights.group_size,
        not weights.symmetric,
        inputs.format.code,
        inputs.group_size,
        inputs.symmetric,
    )


def _model(
    spec: ModelSpec,
    names: ModelParts,
    infos: dict[str, LinearInfo],
    table: str,
    recipe: Recipe | None = None,
    floats: str = HALF,
) -> ArtifactModel:
    biased = {item.name for item in fused_linears(names.block(0), spec) if item.linears[0].bias}
    roles = {name.rpartition(".")[2] for name in biased}
    infos = {
        name: replace(info, bias=name.startswith("blocks.") and name.rpartition(".")[2] in roles)
        for name, info in infos.items()
    }
    tables = {} if spec.tied else {"embed": table}
    if spec.position == "learned":
        tables["position"] = floats
    cache = FLOAT_CACHE if recipe is None else CACHES[recipe.kv_bits]
    return ArtifactModel(
        spec=replace(spec, norm_offset=0.0),
        kv_bits=cache.bits,
        head_bits=infos["head"].format.bits,
        embed_in_head=spec.tied,
        linears=infos,
        tables=tables,
        documents={},
        special={},
        sink_tokens=0 if recipe is None else recipe.sink_tokens,
        embed_group=PER_ROW,
    )


def weight_bytes(model: ArtifactModel) -> int:
    """Bytes of the tensors of a packed file, as it pads them."""
    return sum(size.stored for size in model.tensors().values())


def read_bytes(model: ArtifactModel) -> int:
    """Bytes of all linears, which every pass reads."""
    return sum(size.nbytes for name, info in model.linears.items() for size in info.tensors(name).values())


def served(spec: ModelSpec, scheme: Scheme | None) -> ArtifactModel | None:
    """What vLLM holds on a graphics card: the blocks' linears in `scheme` (None: 16-bit floats), the rest in 16 bits.
    None where it has no kernels for the scheme: those for 4-bit weights take 16-bit inputs."""
    names = parts_of(spec)
    block = LinearInfo(0, 0, HALF)
    if scheme is not None:
        narrow = scheme.weights.format.bits < BYTE_CODES.bits
        if narrow and scheme.activations.quantized:
            return None
        eight = replace(_BYTES, act_bits=DEFAULT_TABLE.bits)
        inputs = (shape[1] for name, shape in linear_shapes(spec).items() if name.startswith("blocks."))
        block = eight if scheme.weights.floats else linear_info(scheme.fit(fit(inputs)))
    infos = {}
    for name, (out, inside) in linear_shapes(spec).items():
        found = block if name.startswith("blocks.") else LinearInfo(0, 0, HALF)
        infos[name] = replace(found, out=out, inputs=inside)
    return _model(spec, names, infos, HALF)


class Footprint:
    """What running `model` takes. The engine itself says what its cache and its workspace take: three without weights
    and with few positions are made, and both grow in proportion.

    Raises:
        AgqError: no kernels for the model.
    """

    def __init__(self, model: ArtifactModel, kv_bits: int | None = None):
        self._model = model
        # Learned positions end.
        most = min(_POSITIONS[1], model.spec.context) if model.spec.position == "learned" else _POSITIONS[1]
        self._least, self._most = min(_POSITIONS[0], most), most
        engines, file = [], StandIn(model)
        for context in (1, self._least, self._most):
            with Engine(file, context=context, kv_bits=kv_bits) as engine:
                engines.append((engine.kv_bytes, engine.workspace_bytes))
        (self._block, _), self._small, self._large = engines

    def at(self, tokens: int, users: int = 1) -> Memory:
        """With `users` sequences of `tokens` positions. The cache has whole blocks of positions."""
        span = max(self._most - self._least, 1)
        each = (self._large[0] - self._small[0]) / span or self._block
        kv = self._block * math.ceil(tokens / round(self._block / each))
        growth = (self._large[1] - self._small[1]) / span
        workspace = self._small[1] + max(growth * (tokens - self._least), 0)
        process = PROCESS_BYTES + ENTRY_BYTES * _ENTRIES * self._model.spec.vocab
        return Memory(weight_bytes(self._model), users * kv, math.ceil(workspace), process)


def card_memory(model: ArtifactModel, tokens: int, users: int) -> Memory:
    """The same for vLLM on a graphics card, with a cache of 16 bits; what it takes beside is an estimate."""
    kv = 2 * 2 * model.spec.layers * model.spec.kv_size * tokens * users
    return Memory(weight_bytes(model), kv, _CARD_BYTES, 0)
