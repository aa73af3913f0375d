"""A kernel table of this machine, measured in seconds: the engine computes small models without a file (`StandIn`), and
its profile says what each part took.

Each format of linears is timed in two widths, so that what a call costs and what a weight costs come apart, and for
several numbers of tokens. Weights lie in as much memory as the planned model's take, as far as that is more than caches
hold: a model that lives in a cache is timed there. The least of a few repetitions counts, since other programs only
make it longer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from agq.artifact.linear_info import LinearInfo
from agq.artifact.schema import ArtifactModel, linear_shapes
from agq.formats import PerGroup
from agq.formats.weights import EXACT
from agq.models import ModelSpec, spec_from_config
from agq.native.library import load_library
from agq.planning.kernel_table import Attention, Curve, KernelTable, Point, format_name
from agq.planning.stand_in import StandIn, memory
from agq.runtime.benchmark import OUTSIDE
from agq.runtime.engine import Engine
from agq.runtime.engine_inputs import CHUNK
from agq.runtime.limits import PARTS, measure_limits
from agq.system.memory import available_memory
from agq.system.threads import resolve_threads

# Tokens computed together.
_TOKENS = (1, 8, 64, CHUNK)
# Channels of the blocks of the two models that a format is timed in; the feed-forward part has three times as many.
_NARROW, _WIDE = 256, 1024
# Bytes of weights that are read in turn: more than caches hold.
_MOST_BYTES = 128 << 20
# Multiply-accumulates of a pass that is timed.
_PRODUCTS = 1 << 30
# Samples of each measurement, the seconds that one takes at least, and its most passes.
_SAMPLES, _SECONDS, _MOST_PASSES = 3, 0.02, 100
# Linears of a block.
_LINEARS = 4
# Of the names of a profile.
_PREPARE, _STORE, _ATTENTION, _EMBED = (
    "residual, norm, quantization",
    "kv store",
    "attention",
    "embedding and positions",
)
_DEPTHS = (256, 1024)


@dataclass(frozen=True)
class _Needed:
    """What a table is to hold: formats with the bytes of weights that a pass of theirs reads, widths of the cache, the
    heads of the model that attention is timed with."""

    formats: dict[str, tuple[LinearInfo, int]]
    kv_bits: tuple[int, ...]
    spec: ModelSpec


def needed(models: Iterable[tuple[ArtifactModel, int]], kv_bits: Iterable[int]) -> _Needed:
    """For these models, each with the bytes that a pass reads. Of a format that several have, the first counts."""
    formats: dict[str, tuple[LinearInfo, int]] = {}
    spec = None
    for model, nbytes in models:
        spec = spec or model.spec
        for info in model.linears.values():
            formats.setdefault(format_name(info), (info, nbytes))
    assert spec is not None
    return _Needed(formats, tuple(dict.fromkeys(kv_bits)), spec)


def measure(
    wanted: _Needed, threads: int | None = None, isa: str | None = None, say: Callable[[str], None] = lambda _: None
) -> KernelTable:
    """The table of this machine. say: is told what is measured.

    Raises:
        AgqError: no kernels, no memory.
    """
    library = load_library(isa)
    number = resolve_threads(threads)
    room = memory(min(_MOST_BYTES, max(nbytes for _, nbytes in wanted.formats.values()), available_memory() // 8))
    linears, inputs, forward = {}, {}, None
    for name, (info, nbytes) in wanted.formats.items():
        say(name)
        linears[name], inputs[name], found = _format(info, min(nbytes, len(room)), room, number, isa)
        forward = forward or found
    assert forward is not None
    store, attention = {}, {}
    for bits in wanted.kv_bits:
        say(f"attention, KV cache of {bits} bits")
        store[bits], attention[bits] = _cache(wanted.spec, bits, room, number, isa)
    limits = measure_limits(library, number, len(room))
    return KernelTable(
        machine="this machine",
        level=library.isa,
        threads=number,
        measured=True,
        memory=available_memory(),
        bandwidth=limits.bandwidth,
        peak=limits.peak,
        instruction=limits.instruction,
        linears=linears,
        inputs=inputs,
        kv_store=store,
        attention=attention,
        forward=forward,
        most=CHUNK,
    )


def probe_spec(hidden: int, layers: int, heads: int, kv_heads: int, head_dim: int) -> ModelSpec:
    """A LLaMA of these sizes with a small vocabulary."""
    return spec_from_config(
        {
            "model_type": "llama",
            "hidden_size": hidden,
            "intermediate_size": 3 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "vocab_size": 64,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
        }
    )


def probe(spec: ModelSpec, info: LinearInfo, kv_bits: int = 8) -> ArtifactModel:
    """`spec` with all linears of its blocks in the format of `info`."""
    infos = {}
    for name, (out, inputs) in linear_shapes(spec).items():
        found = replace(info, bias=False) if name.startswith("blocks.") else LinearInfo(0, 0, EXACT)
        infos[name] = replace(found, out=out, inputs=inputs)
    return ArtifactModel(spec, kv_bits, 32, True, infos, {}, {}, {})


def _width(info: LinearInfo, wanted: int) -> int:
    """The least number of channels from `wanted` on that the format's groups and transform divide."""
    step = math.lcm(64, info.hadamard or 1, *(g.size for g in (info.group, info.act_group) if isinstance(g, PerGroup)))
    return -(-wanted // step) * step


def _format(
    info: LinearInfo, nbytes: int, room: np.ndarray, threads: int, isa: str | None
) -> tuple[Curve, Curve, Curve]:
    """Curves of a format's linears, of its inputs, and of what a pass costs beside them."""
    linears, inputs, outside = [], [], []
    for tokens in _TOKENS:
        found: list[_Probe] = []
        for wanted in (_NARROW, _WIDE):
            width = _width(info, wanted)
            one = probe(probe_spec(width, 1, width // 64, width // 64, 64), info)
            names = [name for name in one.linears if name.startswith("blocks.")]
            weights = sum(one.linears[name].out * one.linears[name].inputs for name in names)
            channels = sum(one.linears[name].inputs for name in names)
            stored = sum(size.nbytes for name in names for size in one.linears[name].tensors(name).values())
            layers = max(min(-(-nbytes // stored), _PRODUCTS // (tokens * weights), 512), 1)
            model = probe(replace(one.spec, layers=layers), info)
            with Engine(StandIn(model, room), threads, context=tokens, isa=isa) as engine:
                found.append(_Probe(layers, weights, channels, width, _least(engine, tokens)))
        narrow, wide = found
        linears.append(_point(tokens, narrow.products, wide.products))
        inputs.append(_point(tokens, narrow.preparing, wide.preparing))
        outside.append(_outside(tokens, narrow, wide))
    return Curve(tuple(linears)), Curve(tuple(inputs)), Curve(tuple(outside))


@dataclass(frozen=True)
class _Probe:
    """What a pass of a model of `layers` layers took, by part. weights, channels: of a layer's linears, and of their
    inputs; width: of the hidden states."""

    layers: int
    weights: int
    channels: int
    width: int
    times: Mapping[str, float]

    @property
    def products(self) -> tuple[float, float]:
        """(seconds, weights) of a linear, in the mean."""
        total = sum(self.times[part] for part in PARTS if part != "head")
        return total / self.layers / _LINEARS, self.weights / _LINEARS

    @property
    def preparing(self) -> tuple[float, float]:
        """(seconds, channels) of an input, in the mean."""
        return self.times[_PREPARE] / self.layers / _LINEARS, self.channels / _LINEARS


def _outside(tokens: int, narrow: _Probe, wide: _Probe) -> Point:
    """What a pass costs beside its parts: once, and for each layer."""
    each = 0.0
    if narrow.layers > wide.layers:
        each = max(narrow.times[OUTSIDE] - wide.times[OUTSIDE], 0.0) / (narrow.layers - wide.layers)
    once = max(min(item.times[OUTSIDE] - item.layers * each for item in (narrow, wide)), 0.0)
    return Point(tokens, once + narrow.times[_EMBED], each)


def _point(tokens: int, narrow: tuple[float, float], wide: tuple[float, float]) -> Point:
    """From (seconds of an operation, its units) in two widths to what a call and what a unit costs."""
    unit = (wide[0] - narrow[0]) / (wide[1] - narrow[1])
    if not 0 < unit * narrow[1] < narrow[0]:
        return Point(tokens, 0.0, wide[0] / wide[1])
    return Point(tokens, narrow[0] - unit * narrow[1], unit)


def _cache(spec: ModelSpec, bits: int, room: np.ndarray, threads: int, isa: str | None) -> tuple[Curve, Attention]:
    """The curve of filling a cache, and attention over it, with heads as wide and as grouped as those of `spec`."""
    kv_heads = min(spec.kv_heads, 4)
    heads = kv_heads * (spec.heads // spec.kv_heads)
    layers = min(spec.layers, 8)
    shape = probe_spec(256, layers, heads, kv_heads, spec.head_dim)
    model = probe(shape, LinearInfo(0, 0, EXACT), bits)
    stored, alone, prompt = [], {}, {}
    channels = shape.q_size + 2 * shape.kv_size
    with Engine(StandIn(model, room), threads, context=_DEPTHS[-1] + CHUNK, isa=isa) as engine:
        for depth in _DEPTHS:
            engine.truncate(0, 0)
            engine.forward(np.zeros(depth, np.int32), logits="none")
            alone[depth] = _least(engine, 1)
            prompt[depth] = _least(engine, CHUNK)
        for times, tokens in ((alone[depth], 1), (prompt[depth], CHUNK)):
            stored.append(Point(tokens, 0.0, times[_STORE] / layers / channels))
    low, high = _DEPTHS
    rest = shape.q_size * layers
    pairs = [CHUNK * depth + CHUNK * (CHUNK + 1) // 2 for depth in _DEPTHS]
    one = _point(1, (alone[low][_ATTENTION] / rest, low + 1), (alone[high][_ATTENTION] / rest, high + 1))
    many = _point(CHUNK, (prompt[low][_ATTENTION] / rest, pairs[0]), (prompt[high][_ATTENTION] / rest, pairs[1]))
    return Curve(tuple(stored)), Attention(one.call * shape.q_size, one.unit, many.call / CHUNK, many.unit)


def _least(engine: Engine, tokens: int) -> Mapping[str, float]:
    """Seconds of each part of a pass of `tokens` tokens behind what the engine holds: the least of some samples, each
    the mean of as many passes as take a while, so that other programs slow them down as much as they do a long text.
    All tokens' logits are asked for: none of them leaves before the last layer."""
    before = engine.length()
    ids = np.arange(tokens, dtype=np.int32) % engine.vocab
    best: dict[str, float] = {}
    passes = 1
    for sample in range(_SAMPLES + 1):
        engine.profile()
        start = time.perf_counter()
        for _ in range(passes):
            engine.truncate(0, before)
            engine.forward(ids, logits="all")
        took = time.perf_counter() - start
        times = engine.profile()
        times[OUTSIDE] = max(took - sum(times.values()), 0.0)
        if sample:
            best = {name: min(value / passes, best.get(name, math.inf)) for name, value in times.items()}
        else:  # not counted: pages and frequencies come up
            passes = min(max(math.ceil(_SECONDS / took), 1), _MOST_PASSES)
    engine.truncate(0, before)
    return best
