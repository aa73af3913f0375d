"""How long a model takes on a machine: the operations of its forward passes at the rates of a kernel table.

A pass is the sum of its parts, which the engine computes one after the other: each linear takes the longer of reading
and multiplying (its curve holds which), attention grows with the tokens before. This is the roofline model (Williams,
Waterman, Patterson: "Roofline", 2009) with measured roofs: those of the kernels, not those of the processor.
"""

from __future__ import annotations

from dataclasses import dataclass

from agq.artifact.schema import ArtifactModel
from agq.planning.kernel_table import KernelTable, format_name
from agq.planning.use_cases import UseCase


@dataclass(frozen=True)
class Forecast:
    """Of one model for one use case with `users` at a time.

    Attributes:
        first_token_s: until the first token of the last of the users, all of whose prompts come at once.
        answer_s: until all of them have their whole answer. step_s: between two tokens of an answer, in the mean.
        prefill_s: of one prompt alone.
    """

    users: int
    prefill_s: float
    first_token_s: float
    step_s: float
    answer_s: float
    throughput: float

    def to_dict(self) -> dict[str, float]:
        """JSON-ready. throughput: tokens of answers a second, of all users."""
        return dict(vars(self))


def forecast(
    model: ArtifactModel, table: KernelTable, case: UseCase, users: int = 1, kv_bits: int | None = None
) -> Forecast:
    """The speed of `model` where `users` send a request of `case` at the same time.

    The first token of an answer comes from the prompt's pass, so an answer of n tokens takes n - 1 steps.
    """
    bits = model.kv_bits if kv_bits is None else kv_bits
    one = prefill_seconds(model, table, case.prompt, 1, bits)
    first = one if users == 1 else prefill_seconds(model, table, case.prompt, users, bits)
    steps = case.answer - 1
    wait = decode_seconds(model, table, steps, case.prompt, users, bits)
    answer = first + wait
    return Forecast(users, one, first, wait / steps if steps else 0.0, answer, users * case.answer / answer)


def prefill_seconds(model: ArtifactModel, table: KernelTable, tokens: int, sequences: int, kv_bits: int) -> float:
    """Seconds until the logits of the last token of each of `sequences` prompts of `tokens` tokens. They are computed
    one after the other, `table.most` tokens at once."""
    total = 0.0
    for done in range(0, tokens, table.most):
        count = min(table.most, tokens - done)
        last = done + count == tokens
        pairs = _pairs(model, done, count)
        # In the last layer only the tokens go on whose logits are wanted.
        pairs[-1] = seen(tokens - 1, 1, model.spec.layer_window(model.spec.layers - 1)) if last else 0
        total += _pass(model, table, count, int(last), kv_bits)
        row = table.attention[kv_bits]
        total += model.spec.q_size * ((model.spec.layers - 1) * count * row.token + sum(pairs) * row.pair)
    return sequences * total


def decode_seconds(
    model: ArtifactModel, table: KernelTable, tokens: int, depth: int, sequences: int, kv_bits: int
) -> float:
    """Seconds of `tokens` passes of one token of each of `sequences`, the first one behind `depth` tokens."""
    if not tokens:
        return 0.0
    mean = [value / tokens for value in _pairs(model, depth, tokens)]
    total = 0.0
    for done in range(0, sequences, table.most):
        count = min(table.most, sequences - done)
        total += _pass(model, table, count, count, kv_bits)
        row = table.attention[kv_bits]
        total += model.spec.layers * row.call + count * sum(mean) * model.spec.q_size * row.one
    return tokens * total


def _pairs(model: ArtifactModel, depth: int, tokens: int) -> list[float]:
    """For each layer the keys that `tokens` queries behind `depth` others see, added up."""
    spec = model.spec
    windows = [spec.layer_window(index) for index in range(spec.layers)]
    sums = {window: float(seen(depth, tokens, window)) for window in set(windows)}
    return [sums[window] for window in windows]


def seen(depth: int, tokens: int, window: int) -> int:
    """Keys that the queries at positions depth..depth+tokens-1 see, themselves included, at most `window` each (0: no
    limit)."""
    growing = tokens if not window else min(max(window - depth, 0), tokens)
    return growing * depth + growing * (growing + 1) // 2 + (tokens - growing) * window


def _pass(model: ArtifactModel, table: KernelTable, tokens: int, logits: int, kv_bits: int) -> float:
    """Seconds of one forward pass of `tokens` tokens without attention. logits: of how many of them they are wanted."""
    spec = model.spec
    after = f"blocks.{spec.layers - 1}."
    total = table.forward.seconds(tokens, spec.layers)
    for name, info in model.linears.items():
        late = not name.startswith("blocks.") or (name.startswith(after) and not name.endswith(".qkv"))
        count = logits if late and name != "project_in" else tokens
        if count:
            row = format_name(info)
            total += table.linears[row].seconds(count, info.out * info.inputs)
            total += table.inputs[row].seconds(count, info.inputs)
    channels = spec.layers * (spec.q_size + 2 * spec.kv_size)
    total += table.kv_store[kv_bits].seconds(tokens, channels, spec.layers)
    return total + table.inputs[format_name(model.linears["blocks.0.qkv"])].seconds(tokens, _norms(model), 0)


def _norms(model: ArtifactModel) -> int:
    """Channels of norms that read no linear's input: those of q and k, and those after attention and feed-forward."""
    spec = model.spec
    channels = (spec.q_size + spec.kv_size) * (spec.qk_norm != "none") + 2 * spec.hidden * spec.post_norms
    return int(spec.layers * channels)
