"""How likely a model finds given texts: log-likelihoods of continuations, several at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from agq.runtime.engine import Engine

_LOGITS_BYTES = 128 << 20  # of logits at once
_LEAST_ROWS = 32  # tokens of a text at once, however large the vocabulary


@dataclass(frozen=True)
class Likelihood:
    """Of a continuation. logprob: the sum of its tokens' log-probabilities (natural logarithm). greedy: each token is
    the likeliest one at its place. tokens: their number."""

    logprob: float
    greedy: bool
    tokens: int


def token_nll(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Negative log likelihoods float64 [n] of `targets` [n] under float32 logits [n, vocab], which are overwritten.

    log sum exp with the maximum taken out; exponentials in float32, their sum in float64.
    """
    chosen = logits[np.arange(len(targets)), targets].astype(np.float64)
    top = logits.max(axis=1)
    np.subtract(logits, top[:, None], out=logits)
    np.exp(logits, out=logits)
    nll: np.ndarray = np.log(logits.sum(axis=1, dtype=np.float64)) + top - chosen
    return nll


class _Text:
    """A context and a continuation in the making. at: the next token that is to be computed."""

    def __init__(self, index: int, context: Sequence[int], continuation: Sequence[int], at: int):
        self.index, self.first, self.at = index, len(context) - 1, at
        self.ids = [*context, *continuation]
        self.nll, self.greedy = 0.0, True

    @property
    def left(self) -> int:
        """Tokens that are not computed yet: the last one's logits are of no use."""
        return len(self.ids) - 1 - self.at

    def take(self, logits: np.ndarray, end: int) -> None:
        """Logits of the tokens before `end` whose next one belongs to the continuation."""
        targets = np.asarray(self.ids[end + 1 - len(logits) : end + 1])
        self.greedy = self.greedy and bool((logits.argmax(axis=1) == targets).all())
        self.nll += float(token_nll(logits, targets).sum())

    def result(self) -> Likelihood:
        return Likelihood(-self.nll, self.greedy, len(self.ids) - 1 - self.first)


def likelihoods(
    engine: Engine, requests: Sequence[tuple[Sequence[int], Sequence[int]]], slots: Sequence[int]
) -> Iterator[tuple[int, Likelihood]]:
    """(place of the request, how likely its continuation is), each when it is known: not in their order. Requests with
    the same context compute it once.

    Args:
        requests: (ids of the context, ids of the continuation), one token each at least; together at most one more than
            the engine's context.
        slots: of the engine, to be used; they are empty at the end.

    Raises:
        AgqError: the engine fails; logits that are not numbers.
    """
    from agq.runtime.generation import refuse_not_a_number

    groups: dict[tuple[int, ...], list[int]] = {}
    for index, (context, _) in enumerate(requests):
        groups.setdefault(tuple(context), []).append(index)
    # Where earlier tokens depend on later ones, each text is computed anew, and in one piece.
    pruned = engine.pruning is not None and engine.pruning.any
    whole = pruned or engine.spec.steady_context is not None
    # A context of one token is not worth waiting for a slot: its logits are computed anew in any case.
    waiting = iter(
        part
        for context, group in groups.items()
        for part in ([[index] for index in group] if whole or len(context) == 1 else [group])
    )
    queues: dict[int, list[int]] = {}
    running: dict[int, _Text] = {}
    room = max(_LOGITS_BYTES // (4 * engine.vocab), 1)

    def fill(slot: int) -> None:
        """The next text of a slot, where there is one."""
        again = bool(queues.get(slot))
        if not again:
            queues[slot] = list(next(waiting, ()))
        if queues[slot]:
            index = queues[slot].pop(0)
            context, continuation = requests[index]
            running[slot] = _Text(index, context, continuation, len(context) - 1 if again else 0)
        engine.truncate(slot, running[slot].at if slot in running else 0)

    for slot in slots[:1] if pruned else slots:
        fill(slot)
    while running:
        most = max(room // len(running), _LEAST_ROWS)
        counts = {slot: text.left if whole else min(text.left, most) for slot, text in running.items()}
        masks = {slot: np.arange(text.at, text.at + counts[slot]) >= text.first for slot, text in running.items()}
        rows = engine.forward(
            np.concatenate([text.ids[text.at : text.at + counts[slot]] for slot, text in running.items()]),
            slot=np.repeat(list(counts), list(counts.values())),
            logits=np.concatenate(list(masks.values())),
        )
        done = 0
        for slot, text in list(running.items()):
            text.at += counts[slot]
            wanted = int(masks[slot].sum())
            if wanted:
                refuse_not_a_number(rows[done : done + wanted])
                text.take(rows[done : done + wanted], text.at)
                done += wanted
            if not text.left:
                del running[slot]
                fill(slot)
                yield text.index, text.result()
