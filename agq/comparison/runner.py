"""`agq compare` as a function: an original, other forms of it, prompts and texts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agq.artifact.reader import Artifact
from agq.comparison.answers import distances, greedy_answers, summary
from agq.comparison.order import find_order
from agq.comparison.prompts import PromptSet, own_prompts
from agq.comparison.results import Compared, Comparison, Computed
from agq.comparison.rouge import Rouge
from agq.comparison.sentences import SentenceModel
from agq.comparison.tasks import Task, recovery
from agq.comparison.texts import PROMPTS, Reference, TextDistance, WindowedText, cut, measure, refer
from agq.errors import AgqError, UsageError
from agq.evaluation import EngineScorer
from agq.evaluation.evaluate import check_same_tokens
from agq.evaluation.perplexity import check_same_vocabulary
from agq.recipe.schemes import Scheme
from agq.runtime.generation import load_tokenizer
from agq.runtime.opening import opened, template_of
from agq.runtime.prompts import prompt_ids
from agq.system.threads import most_threads, resolve_threads
from agq.text.tokenizers import TextTokenizer

MAX_TOKENS = 128
SEQ_LEN = 256
WINDOWS = 8
# (answers and windows done, in all, the model that is computed)
Report = Callable[[int, int, str], None]
# (measure that is not run, how to get it)
Note = Callable[[str, str | None], None]
_SUFFIXES = (".agq.safetensors", ".safetensors", ".gguf")


def compare(
    original: str | os.PathLike[str],
    others: Sequence[str | os.PathLike[str]],
    prompts: PromptSet | None = None,
    limit: int | None = None,
    max_tokens: int = MAX_TOKENS,
    data: Sequence[str | os.PathLike[str]] = (PROMPTS,),
    seq_len: int = SEQ_LEN,
    max_windows: int | None = WINDOWS,
    threads: int | None = None,
    floor: bool = True,
    sentences: str | None = None,
    tasks: Sequence[dict[str, Task]] = (),
    seed: int = 0,
    report: Report | None = None,
    note: Note | None = None,
) -> Comparison:
    """How far other forms of a model are from the original. All are computed packed, by the kernels, one after another.

    Args:
        original, others: whatever `agq.load` takes. prompts: default the own set. limit: so many of them, of all kinds.
        max_tokens: of an answer. data: texts as of `agq.evaluate_perplexity`, and "prompts": the own ones as a text.
        seq_len, max_windows: windows of each text. threads: default as `agq.load`.
        floor: also the original against itself with another number of threads.
        sentences: a sentence model's folder or hub id; None: the package that carries one, where it is installed.
        tasks: results of lm-eval (`read_tasks`), the original's first, then the others'.
        seed: of the bootstrap. report: called after each answer and window. note: called with each measure that is not
            run, before anything is computed.

    Raises:
        AgqError: unreadable model or text, a model with another tokenizer. UsageError: nothing to compare with, a
            number out of range, results of lm-eval that are not one a model.
    """
    started = time.monotonic()
    names = [os.fspath(name) for name in (original, *others)]
    _check(names, max_tokens, data, tasks)
    chosen = (own_prompts() if prompts is None else prompts).first(limit)
    notes = _Notes(note)
    rouge = notes.optional(Rouge)
    encoder = notes.optional(SentenceModel) if sentences is None else SentenceModel(sentences)

    artifacts = [opened(name) for name in names]
    tokenizer = TextTokenizer.from_artifact(artifacts[0])
    for artifact in artifacts[1:]:
        check_same_tokens(tokenizer, TextTokenizer.from_artifact(artifact))
        check_same_vocabulary(artifact.spec.vocab, artifacts[0].spec.vocab)
    length = min(seq_len, artifacts[0].spec.context)
    texts = [cut(os.fspath(source), tokenizer, length, max_windows) for source in data]
    work = _Work(_prompt_ids(chosen, artifacts[0]), max_tokens, texts, report)
    labels = short_names(names)
    others_threads = other_threads(threads) if floor else None
    work.models = len(names) + (others_threads is not None)

    def compared(index: int, threads: int | None) -> Compared:
        made = work.compute(labels[index], names[index], artifacts[index], threads)
        found = distances(first.answers, made.answers, rouge, encoder)
        measured = work.measured(labels[index], artifacts[index], threads, reference, seed)
        scores = recovery(tasks[0], tasks[index]) if tasks else ()
        return Compared(made, found, summary(found), measured, scores)

    first = work.compute(labels[0], names[0], artifacts[0], threads)
    with closing(work.reference(labels[0], artifacts[0], threads)) as reference:
        rows = [compared(index, threads) for index in range(1, len(names))]
        lowest = compared(0, others_threads) if others_threads is not None else None
    return Comparison(
        original=first,
        others=rows,
        floor=lowest,
        prompts=chosen,
        max_tokens=max_tokens,
        chat=artifacts[0].has("chat_template"),
        sentence_model=encoder.name if encoder is not None else None,
        not_run=tuple(notes.said),
        seed=seed,
        seconds=time.monotonic() - started,
        order=find_order([(row.made.quantized_as or row.made.scheme, row.kl) for row in rows]),
    )


def _check(names: Sequence[str], max_tokens: int, data: Sequence[Any], tasks: Sequence[Any]) -> None:
    if len(names) < 2:
        raise UsageError("nothing to compare with", hint="name another form of the model after the original")
    if isinstance(data, str) or not data:
        raise UsageError("texts are a list of at least one")
    if max_tokens < 1:
        raise UsageError(f"answers of {max_tokens} tokens say nothing", hint="`max_tokens:` is at least 1")
    if tasks and len(tasks) != len(names):
        raise UsageError(
            f"{len(tasks)} results of lm-eval for {len(names)} models",
            hint="give one for each, the original's first",
        )


class _Notes:
    """Measures that need what is not installed. said: why each of them is not run."""

    def __init__(self, note: Note | None) -> None:
        self._note = note
        self.said: list[str] = []

    def optional(self, make: Callable[[], Any]) -> Any:
        """What `make` gives, or None where it says why not."""
        try:
            return make()
        except AgqError as error:
            self.said.append(error.message)
            if self._note is not None:
                self._note(error.message, error.hint)
            return None


@dataclass
class _Work:
    """What each model computes: answers to the prompts' token ids, predictions over texts; and how much is done."""

    prompts: Sequence[Sequence[int]]
    max_tokens: int
    texts: Sequence[WindowedText]
    report: Report | None
    models: int = 1
    done: int = 0

    def _step(self, name: str) -> Callable[[], None]:
        steps = len(self.prompts) + sum(len(text.plan.windows) for text in self.texts)

        def step() -> None:
            self.done += 1
            if self.report is not None:
                self.report(self.done, steps * self.models, name)

        return step

    def compute(self, name: str, model: str, artifact: Artifact, threads: int | None) -> Computed:
        """A model's answers."""
        answers, used = greedy_answers(artifact, self.prompts, self.max_tokens, threads, self._step(name))
        with closing(self._scorer(artifact, threads)) as scorer:
            return Computed(
                name=name,
                model=model,
                scheme=scorer.scheme,
                quantized_as=_recipe_scheme(artifact),
                activation_bits=scorer.activation_bits,
                bytes=artifact.size,
                sha256=scorer.sha256(),
                threads=used,
                kernel=scorer.kernel,
                answers=answers,
            )

    def _scorer(self, artifact: Artifact, threads: int | None) -> EngineScorer:
        return EngineScorer(artifact.path, max(text.plan.seq_len for text in self.texts), threads)

    def reference(self, name: str, artifact: Artifact, threads: int | None) -> Reference:
        """The original's predictions."""
        with closing(self._scorer(artifact, threads)) as scorer:
            return refer(scorer, self.texts, self._step(name))

    def measured(
        self, name: str, artifact: Artifact, threads: int | None, reference: Reference, seed: int
    ) -> list[TextDistance]:
        """Another model's predictions against them."""
        with closing(self._scorer(artifact, threads)) as scorer:
            return measure(scorer, self.texts, reference, seed, self._step(name))


def _recipe_scheme(artifact: Artifact) -> str | None:
    """What the recipe of a packed file names; other tools' have none."""
    found = artifact.recipe.get("scheme") if isinstance(artifact.recipe, dict) else None
    return None if found is None else Scheme.from_dict(found).name


def _prompt_ids(chosen: PromptSet, artifact: Artifact) -> list[list[int]]:
    """Token ids of the prompts, the same for all models: through the original's chat template where it has one."""
    tokenizer, template, context = load_tokenizer(artifact), template_of(artifact, None), artifact.spec.context
    found = [prompt_ids(prompt.text, tokenizer, template) for prompt in chosen.prompts]
    for prompt, ids in zip(chosen.prompts, found, strict=True):
        if len(ids) >= context:
            raise AgqError(
                f"prompt `{prompt.id}` has {len(ids)} tokens, and the model's context holds {context} with the answer",
                hint="take shorter ones with `prompts: FILE`",
            )
    return found


def short_names(names: Sequence[str]) -> list[str]:
    """Names of models without folders and endings, as far as they stay apart."""
    short = []
    for name in names:
        last = Path(name).name
        short.append(next((last.removesuffix(end) for end in _SUFFIXES if last.endswith(end)), last) or name)
    return [text if short.count(text) == 1 else name for text, name in zip(short, names, strict=True)]


def other_threads(threads: int | None) -> int | None:
    """Another number of threads than `threads`, or than what is taken where nobody says; None: this machine has one."""
    if most_threads() == 1:
        return None
    return 2 if resolve_threads(threads, warn=False) == 1 else 1
