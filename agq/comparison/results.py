"""What a comparison found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agq.comparison.answers import AnswerDistance, Summary, summary
from agq.comparison.choice import Candidate, Choice, choose
from agq.comparison.order import Order, main_scheme
from agq.comparison.prompts import PromptSet
from agq.comparison.tasks import TaskRecovery
from agq.comparison.texts import RESAMPLES, TextDistance
from agq.formats.effective import ActivationBits
from agq.reporting.output import counted
from agq.runtime.batch import Answer


@dataclass(frozen=True)
class Computed:
    """A model and its answers.

    Attributes:
        name: short, unique among the models. model: as given. scheme: number formats of the packed file.
        quantized_as: the scheme that its recipe names, None without a recipe: weights of 4 bits whose scales differ by
            channel, as Agile-Quant's, are packed with 8. activation_bits: effective ones, None where inputs are floats.
        bytes, sha256: of the packed file. threads, kernel: that computed it. answers: one a prompt.
    """

    name: str
    model: str
    scheme: str
    quantized_as: str | None
    activation_bits: ActivationBits | None
    bytes: int
    sha256: str
    threads: int
    kernel: str
    answers: Sequence[Answer]

    @property
    def form(self) -> str:
        """The scheme of most linears, for people."""
        packed = main_scheme(self.scheme)
        name = packed + (" mixed" if "," in self.scheme else "")
        recipe = main_scheme(self.quantized_as or packed)
        return name if recipe == packed else f"{recipe} in {name}"

    def to_dict(self) -> dict[str, Any]:
        """JSON types, without the answers."""
        found = {name: value for name, value in vars(self).items() if name not in ("answers", "sha256")}
        bits = self.activation_bits
        return found | {"activation_bits": None if bits is None else bits.mean, "model_sha256": self.sha256}


@dataclass(frozen=True)
class Compared:
    """A model against the original. distances: of each answer. summary: their means. texts: one a text. tasks: of
    lm-eval, where results were given."""

    made: Computed
    distances: Sequence[AnswerDistance]
    summary: Summary
    texts: Sequence[TextDistance]
    tasks: Sequence[TaskRecovery] = ()

    @property
    def identical(self) -> bool:
        """Nothing differs from the original: no token of an answer, no bit of a log probability."""
        return all(item.same for item in self.distances) and all(text.identical for text in self.texts)

    @property
    def kl(self) -> float:
        """KL divergence over all scored positions of all texts, nats."""
        return sum(text.kl * text.tokens for text in self.texts) / sum(text.tokens for text in self.texts)

    @property
    def kl_stderr(self) -> float:
        """Its standard error."""
        parts = [text.kl_stderr * text.tokens for text in self.texts]
        return math.hypot(*parts) / sum(text.tokens for text in self.texts)

    def by_kind(self, prompts: PromptSet) -> dict[str, Summary]:
        """The means of each kind of prompts."""
        pairs = list(zip(prompts.prompts, self.distances, strict=True))
        return {kind: summary([found for prompt, found in pairs if prompt.kind == kind]) for kind in prompts.kinds}

    def to_dict(self, prompts: PromptSet) -> dict[str, Any]:
        """JSON types."""
        return {
            **self.made.to_dict(),
            "identical": self.identical,
            "answers": asdict(self.summary),
            "kinds": {kind: asdict(found) for kind, found in self.by_kind(prompts).items()},
            "texts": [asdict(text) for text in self.texts],
            "tasks": [asdict(task) for task in self.tasks],
        }


@dataclass(frozen=True)
class Comparison:
    """An original and other forms of it, and all that the numbers depend on.

    Attributes:
        floor: the original against itself with another number of threads; None: not run.
        max_tokens: of an answer. chat: prompts went through the original's chat template.
        sentence_model: its name; None: not run. not_run: measures that were left out, with the reason.
        seed: of the bootstrap. order: of the schemes, where two or more of them are known.
    """

    original: Computed
    others: Sequence[Compared]
    floor: Compared | None
    prompts: PromptSet
    max_tokens: int
    chat: bool
    sentence_model: str | None
    not_run: Sequence[str]
    seed: int
    seconds: float
    order: Order | None

    @property
    def rows(self) -> list[Compared]:
        """The floor, where it was run, and the others."""
        return [*([self.floor] if self.floor is not None else []), *self.others]

    @property
    def choice(self) -> Choice:
        """What it says about which of the others to take."""
        return choose([Candidate(row.made.name, row.made.bytes, row.kl, row.kl_stderr) for row in self.others])

    def verdict(self) -> list[str]:
        """Sentences for people: which model is nearest, and whether the known order of schemes holds."""
        chosen = [self.choice.sentence()] if len(self.others) > 1 else []
        return chosen + ([self.order.sentence()] if self.order is not None else [])

    def has(self, measure: str) -> bool:
        """Whether a measure of the answers was run."""
        return getattr(self.others[0].summary, measure) is not None

    def facts(self) -> Iterator[str]:
        """What the numbers depend on, a line each, for people."""
        original, first = self.original, self.others[0]
        yield f"original: {original.model}, {original.form}, {original.kernel}, {counted(original.threads, 'thread')}"
        if self.floor is not None:
            yield f"floor: the original against itself with {counted(self.floor.made.threads, 'thread')}"
        way = "through the chat template" if self.chat else "as texts to continue"
        yield (
            f"answers: greedy, at most {counted(self.max_tokens, 'token')}, {first.summary.tokens:.1f} in the "
            f"original's mean answer; {self.prompts.label}, {way}"
        )
        for text in first.texts:
            yield (
                f"text: {text.data}, {counted(text.windows, 'window')} of {text.seq_len} tokens, sha256 "
                f"{text.data_sha256[:16]}; the original's perplexity {text.original_ppl:.3f}"
            )
        if any(text.windows > 1 for text in first.texts):
            yield f"error of the ratio: paired bootstrap over windows, {RESAMPLES} draws, seed {self.seed}"
        for row in self.others:
            bits = row.made.activation_bits
            if bits is not None and bits.coarse:
                yield f"effective activation bits of {row.made.name}: {bits.describe()}"
        if self.sentence_model is not None:
            yield f"sentence model: {self.sentence_model}"
        for why in self.not_run:
            yield f"not run: {why}"

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "original": self.original.to_dict(),
            "models": [row.to_dict(self.prompts) for row in self.others],
            "floor": self.floor.to_dict(self.prompts) if self.floor is not None else None,
            "prompts": len(self.prompts.prompts),
            "prompts_from": self.prompts.label,
            "prompts_sha256": self.prompts.sha256,
            "max_tokens": self.max_tokens,
            "chat": self.chat,
            "sentence_model": self.sentence_model,
            "not_run": list(self.not_run),
            "seed": self.seed,
            "resamples": RESAMPLES,
            "order": asdict(self.order) if self.order is not None else None,
            "choice": {
                "nearest": self.choice.nearest.name,
                "smallest": self.choice.smallest.name,
                "beaten": self.choice.beaten,
            },
            "outputs": [self._output(index) for index in range(len(self.prompts.prompts))],
            "seconds": round(self.seconds, 3),
        }

    def _output(self, index: int) -> dict[str, Any]:
        prompt = self.prompts.prompts[index]
        return {
            "id": prompt.id,
            "kind": prompt.kind,
            "prompt": prompt.text,
            "original": self.original.answers[index].text,
            "others": {row.made.name: row.made.answers[index].text for row in self.others},
            "distances": {row.made.name: asdict(row.distances[index]) for row in self.others},
        }
