"""The schemes for a model, a machine and a use case: what each would take, and the one to take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agq.artifact.reader import Artifact
from agq.artifact.schema import ArtifactModel
from agq.formats import words
from agq.formats.effective import number
from agq.planning import sizes
from agq.planning.accuracy import Accuracy
from agq.planning.kernel_table import KernelTable
from agq.planning.machines import Machine, computes, estimate
from agq.planning.measure import measure, needed
from agq.planning.roofline import Forecast, forecast
from agq.planning.source import Planned
from agq.planning.use_cases import UseCase
from agq.recipe.changes import RecipeChanges
from agq.recipe.resolve import effective_recipe
from agq.recipe.schemes import SCHEMES, Scheme
from agq.runtime import benchmark

# What a model without quantization is called, in recipes as here.
SIXTEEN = "W16A16"
# More perplexity than this is not taken without being asked for.
USUAL_RATIO = 1.05
# Two times that differ by less are one: forecasts are no better.
_ALIKE = 0.1
# Steps of decoding that an artifact is measured with.
_STEPS = 16


@dataclass(frozen=True)
class Candidate:
    """A format of the model.

    Attributes:
        coarse: its inputs have so few codes that they need care. floats: weights and inputs are 8-bit floats.
        artifact: the file that is there. usual: made as the scheme's preset makes it, as far as that is known.
    """

    scheme: str
    model: ArtifactModel
    coarse: bool = False
    floats: bool = False
    artifact: Artifact | None = None
    usual: bool = True

    @property
    def label(self) -> str:
        """The scheme, and the file's name where there is one."""
        return self.scheme if self.artifact is None else f"{self.scheme} {self.artifact.path.name}"


@dataclass(frozen=True)
class Row:
    """A candidate, and what is known of it. accuracy: None where nobody has measured it. measured: of an artifact."""

    candidate: Candidate
    forecast: Forecast
    memory: sizes.Memory
    fits: bool
    accuracy: Accuracy | None
    measured: Forecast | None

    @property
    def seconds(self) -> float:
        """Of an answer, as forecast: forecasts compare with each other, not with what was measured."""
        return self.forecast.answer_s

    @property
    def loss(self) -> str:
        """ "1.014 times the perplexity"; where inputs have few codes, some may have been given more: their effective
        bits stand beside it. "an unknown loss"."""
        if self.accuracy is None:
            return "an unknown loss"
        bits = f" at {self.effective_bits} activation bits" if self.candidate.coarse else ""
        return f"{self.accuracy.ratio:.3f} times the perplexity{bits}"

    @property
    def effective_bits(self) -> str:
        """Of the activations, as measured: "4.58"; "?" where an earlier version made the record."""
        bits = self.accuracy.activation_bits if self.accuracy is not None else None
        return "?" if bits is None else number(bits)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        artifact, accuracy = self.candidate.artifact, self.accuracy
        return {
            "scheme": self.candidate.scheme,
            "formats": words.linear(*self.candidate.model.linears["blocks.0.qkv"].words()),
            "artifact": None if artifact is None else str(artifact.path),
            "predicted": self.forecast.to_dict(),
            "measured": None if self.measured is None else self.measured.to_dict(),
            "memory": self.memory.to_dict(),
            "fits": self.fits,
            "accuracy": None if accuracy is None else vars(accuracy),
        }


def candidates(planned: Planned, artifacts: Iterable[Artifact] = (), card: bool = False) -> list[Candidate]:
    """The schemes that the model can have, then the files that are there. card: as vLLM holds it."""
    found = []
    for name in (SIXTEEN, *SCHEMES):
        scheme = None if name == SIXTEEN else Scheme.parse(name)
        model = sizes.served(planned.spec, scheme) if card else sizes.packed(planned.spec, scheme)
        # FP8 is computed in 16-bit floats where a processor has nothing else.
        if model is None or (scheme is not None and scheme.weights.floats and not card):
            continue
        coarse = scheme is not None and scheme.activations.coarse
        found.append(Candidate(name, model, coarse, scheme is not None and scheme.weights.floats))
    if card:
        return found
    if planned.made is not None and planned.artifact is None:
        found.append(Candidate(scheme_of(planned.made), planned.made, _coarse(planned.made), usual=False))
    for artifact in artifacts:
        named = scheme_of(artifact.info)
        usual = named == SIXTEEN or _as_preset(artifact.recipe, named)
        found.append(Candidate(named, artifact.info, _coarse(artifact.info), artifact=artifact, usual=usual))
    return found


def scheme_of(model: ArtifactModel) -> str:
    """The name of the scheme of the first linear of the blocks."""
    info = model.linears["blocks.0.qkv"]
    return words.name(info.format.bits, info.activations.bits, not info.asym)


def _as_preset(values: Any, scheme: str) -> bool:
    """Whether a file's account of its making says the method and the rotations of the scheme's preset."""
    inner = values.get("recipe") if isinstance(values, dict) else None
    if not isinstance(inner, dict):
        return False
    usual, transforms = effective_recipe(None, RecipeChanges(scheme=scheme)), inner.get("transforms") or {}
    return inner.get("method") == usual.method and bool(transforms.get("r1")) == usual.transforms.r1


def _coarse(model: ArtifactModel) -> bool:
    return model.linears["blocks.0.qkv"].activations.coarse


def rows_here(
    found: list[Candidate],
    case: UseCase,
    users: int,
    limit: int | None,
    known: Mapping[str, Accuracy],
    threads: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[KernelTable, list[Row]]:
    """Measures this machine and every artifact, and forecasts all candidates. limit: bytes; None: what is free."""
    pairs = [(item.model, sizes.read_bytes(item.model)) for item in found]
    table = measure(needed(pairs, (item.model.kv_bits for item in found)), threads, say=say)
    limit = table.memory if limit is None else limit
    rows = []
    for item in found:
        took = sizes.Footprint(item.model).at(case.tokens, users)
        fits = took.peak <= limit
        if item.artifact is not None and fits:
            say(item.artifact.path.name)
        seen = measured(item.artifact, case, users, threads) if item.artifact is not None and fits else None
        rows.append(_row(item, table, case, users, took, limit, known, seen))
    return table, rows


def rows_there(
    found: list[Candidate],
    machine: Machine,
    case: UseCase,
    users: int,
    limit: int | None,
    known: Mapping[str, Accuracy],
) -> tuple[KernelTable, list[Row]]:
    """The same for a machine that is not here, from its documented figures."""
    limit = machine.free if limit is None else limit
    rows = []
    table: KernelTable | None = None
    for item in found:
        if not computes(machine, item.model, item.floats):
            continue
        mine = estimate(machine, item.model, item.floats)
        table = mine if table is None else replace(table, linears={**mine.linears, **table.linears})
        took = (
            sizes.card_memory(item.model, case.tokens, users)
            if machine.card
            else sizes.Footprint(item.model).at(case.tokens, users)
        )
        rows.append(_row(item, mine, case, users, took, limit, known, None))
    assert table is not None
    return table, rows


def _row(
    item: Candidate,
    table: KernelTable,
    case: UseCase,
    users: int,
    took: sizes.Memory,
    limit: int,
    known: Mapping[str, Accuracy],
    seen: Forecast | None,
) -> Row:
    accuracy = Accuracy(1.0, "", "the model itself") if item.scheme == SIXTEEN else known.get(item.scheme)
    if not item.usual:
        accuracy = None
    return Row(item, forecast(item.model, table, case, users), took, took.peak <= limit, accuracy, seen)


def measured(artifact: Artifact, case: UseCase, users: int, threads: int | None = None) -> Forecast:
    """The same figures as `forecast`, measured: the prompt of one user, and some steps in the middle of the answer."""
    steps = min(_STEPS, max(case.answer - 1, 1))
    depth = case.prompt + max((case.answer - 1 - steps) // 2, 0)
    cases = [
        benchmark.Case("prefill", case.prompt, 0, threads),
        benchmark.Case("decode", steps, depth, threads, batch=users),
    ]
    prefill, decode = benchmark.run(artifact, cases, repetitions=2, limits=False)
    one, step = (min(result.samples_ns) * 1e-9 for result in (prefill, decode))
    step /= steps
    answer = users * one + (case.answer - 1) * step
    return Forecast(users, one, users * one, step, answer, users * case.answer / answer)


def choose(rows: list[Row], ratio: float | None) -> Row | None:
    """The row to take: of those that fit and lose little enough, the one whose answer is there first; of those that
    are alike, the one that loses least, else the one with more bits.

    ratio: the most perplexity over the unquantized model's; what nobody has measured does not count then. None: at
    most USUAL_RATIO where it is known, and no 4-bit inputs where it is not.
    """
    good = [row for row in rows if row.fits and _accurate(row, ratio)]
    if not good:
        return None
    best = min(row.seconds for row in good)
    alike = [row for row in good if row.seconds <= (1 + _ALIKE) * best]
    return min(
        alike,
        key=lambda row: (
            row.accuracy.ratio if row.accuracy else math.inf,
            -row.memory.weights,
            row.candidate.artifact is None,
        ),
    )


def _accurate(row: Row, ratio: float | None) -> bool:
    if row.accuracy is None:
        return ratio is None and not row.candidate.coarse
    return row.accuracy.ratio <= (USUAL_RATIO if ratio is None else ratio)


def reason(taken: Row | None, rows: list[Row], ratio: float | None, limit: int) -> str:
    """Why `choose` took this row, in one sentence without its full stop."""
    from agq.reporting.output import human_size

    if taken is None:
        if not any(row.fits for row in rows):
            least = min(row.memory.peak for row in rows)
            return f"no scheme fits into {human_size(limit)}: the least is {human_size(least)}"
        most = USUAL_RATIO if ratio is None else ratio
        unknown = dict.fromkeys(row.candidate.scheme for row in rows if row.fits and row.accuracy is None)
        why = f"; nobody has measured {', '.join(unknown)}" if unknown else ""
        return f"no scheme that fits is known to have at most {most:g} times the perplexity{why}"
    name = taken.candidate.scheme
    parts = []
    sixteen = next((row for row in rows if row.candidate.scheme == SIXTEEN), None)
    if sixteen is not None and sixteen is not taken:
        parts.append(
            f"an answer comes {sixteen.seconds / taken.seconds:.1f} times as fast as with 16 bits"
            if sixteen.fits
            else f"16 bits take {human_size(sixteen.memory.peak)} and do not fit"
        )
    if name != SIXTEEN:
        parts.append(
            "how much it loses is not known for this model" if taken.accuracy is None else f"it has {taken.loss}"
        )
    quicker = [row for row in rows if row.fits and row.seconds < (1 - _ALIKE) * taken.seconds]
    if quicker:
        best = min(quicker, key=lambda row: row.seconds)
        times = f"{taken.seconds / best.seconds:.1f}"
        parts.append(f"{best.candidate.scheme} would be {times} times as fast, with {best.loss}")
    else:
        parts.append("nothing else that fits is faster")
    return f"Take {name}: {'; '.join(parts)}"
