"""A packed model in the Language Model Evaluation Harness (`lm_eval`): its model `agq`.

Releases of lm_eval that know entry points find the class by themselves. Others are started by this module, which
registers it: `python -m agq.evaluation.lm_eval` takes lm_eval's own arguments.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from agq.errors import AgqError, UsageError
from agq.reporting import console
from agq.runtime.batch import seeded
from agq.runtime.model import load
from agq.runtime.opening import template_of
from agq.runtime.sampling import Sampler
from agq.tokenizer.chat_template import render

_BATCH = 8  # sequences at once where lm_eval says "auto"
_NEW_TOKENS = 256  # of an answer, where the task does not say
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


class AgqLM(TemplateLM):
    """What lm_eval calls. Text goes through the tokenizer of the file, and gets the special tokens at its beginning
    that the tokenizer itself puts there.

    Args:
        artifact: whatever `agq.load` takes.
        batch_size: sequences computed at once, each with a KV cache; "auto": 8, or `max_batch_size` if that is given.
        max_length: tokens of context and continuation together. Default: the model's context, at most 4096.
        max_gen_toks: tokens to generate, where the task does not say.
        threads, kv_bits: see `agq.load`.
        seed: of sampled answers; prompt after prompt has the next number. Greedy ones need none.
        device: lm_eval always names one, `cuda:0` where nobody does. Packed models are computed on the processor.

    Raises:
        AgqError, UsageError: as `agq.load`; a batch size that is no number.
    """

    def __init__(
        self,
        artifact: str,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = _NEW_TOKENS,
        threads: int | None = None,
        kv_bits: int | None = None,
        seed: int = 0,
        device: str | None = None,
    ):
        super().__init__()
        self.batch_size = _slots(batch_size, max_batch_size)
        self.model = load(artifact, threads=threads, context=max_length, slots=self.batch_size, kv_bits=kv_bits)
        self.max_length = self.model.engine.context
        self.max_gen_toks, self._seed = max_gen_toks, seed
        self._tokens = self.model.tokenizer
        self._template = template_of(self.model.artifact, None)
        eos = self._tokens.eos_id
        if eos is None:
            raise AgqError(f"`{artifact}` names no token that ends a text", hint="lm_eval needs one")
        self._eos = eos
        self._bos_text = "" if self._tokens.bos_id is None else self._tokens.decode([self._tokens.bos_id], False)

    # ---- tokens

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._eos

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context: BOS, or where there is none EOS."""
        return self._eos if self._tokens.bos_id is None else self._tokens.bos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        """Token ids of a text. add_special_tokens: None: those that the tokenizer puts at its beginning, unless the
        text begins with BOS."""
        if add_special_tokens is None:
            add_special_tokens = not (self._bos_text and string.startswith(self._bos_text))
        return self._tokens.encode(string, add_bos=add_special_tokens)

    # ---- what lm_eval asks for

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, whether it is the greedy text) of each continuation; contexts that are too long lose their
        beginning."""
        pairs = [self._cut(context, continuation) for _, context, continuation in requests]
        found: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        scores: Iterator[Any] = self.model.start_scores(pairs) if pairs else iter(())
        for index, likelihood in tqdm(scores, "loglikelihoods", len(pairs), disable=disable_tqdm):
            found[index] = (likelihood.logprob, likelihood.greedy)
            if requests[index][0] is not None:
                self.cache_hook.add_partial("loglikelihood", requests[index][0], found[index])
        return found

    def _cut(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        if not continuation or len(continuation) > self.max_length:
            raise AgqError(f"a continuation has {len(continuation)} tokens, and the context {self.max_length}")
        return [*context, *continuation][-self.max_length - 1 : -len(continuation)], continuation

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts, in windows of the context where they are longer."""
        windows, owners = [], []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1):
                windows.append((None, *make_disjoint_window(window)))
                owners.append(number)
        sums = [0.0] * len(requests)
        for number, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            sums[number] += logprob
        for request, value in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return sums

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers to prompts, those with the same settings together."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        texts = [""] * len(requests)
        with tqdm(total=len(requests), desc="answers", disable=disable_tqdm) as bar:
            for numbers in groups.values():
                settings = requests[numbers[0]].args[1]
                prompts = [requests[number].args[0] for number in numbers]
                for index, text in self._answers(prompts, settings):
                    number = numbers[index]
                    texts[number] = text
                    self.cache_hook.add_partial("generate_until", requests[number].args, text)
                    bar.update()
        return texts

    def _answers(self, prompts: list[str], given: dict[str, Any]) -> Iterator[tuple[int, str]]:
        """Answers with the settings of a task, in any order."""
        settings = dict(normalize_gen_kwargs(given, self.max_gen_toks))
        stop = [text for text in settings.pop("until") if text]
        count = settings.pop("max_gen_toks")
        if not settings.pop("do_sample"):
            settings["temperature"] = 0.0
        if unknown := [name for name in settings if name not in _SAMPLING]:
            raise UsageError(
                f"generation_kwargs has `{unknown[0]}`, which is not known here",
                hint=f"known are until, max_gen_toks, do_sample, {', '.join(_SAMPLING)}",
            )
        room = self.max_length - count
        if room < 1:
            raise UsageError(
                f"{count} tokens are to be generated, and the context holds {self.max_length}",
                hint="use a smaller max_gen_toks, or a larger max_length",
            )
        ids = [self.tok_encode(prompt)[-room:] for prompt in prompts]
        sampler = seeded(Sampler(**settings, seed=self._seed))
        for answer in self.model.start_many(ids, sampler, count, stop):
            if answer.error:
                raise AgqError(answer.error)
            # As lm_eval decodes: the answer alone, and cut where it first says one of the texts.
            yield answer.index, postprocess_generated_text(self._tokens.decode(answer.ids), stop, None)

    # ---- chats

    @property
    def tokenizer_name(self) -> str:
        """What lm_eval's cache of requests knows the tokenizer by."""
        return self.model.artifact.path.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The model's template; None where none is asked for."""
        if not chat_template:
            return None
        if self._template is None:
            raise AgqError(f"`{self.model.artifact.path}` has no chat template", hint="leave out apply_chat_template")
        return self._template.template

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a conversation; add_generation_prompt False: it ends with the last message's text, which goes
        on."""
        template = template_of(self.model.artifact, True)
        assert template is not None
        prompt = render(template.template, chat_history, template.values, add_generation_prompt)
        if add_generation_prompt:
            return prompt
        last = chat_history[-1]["content"].strip()
        return prompt[: prompt.rindex(last) + len(last)]


def _slots(batch_size: int | str, most: int | None) -> int:
    """Sequences at once."""
    if isinstance(batch_size, str) and batch_size.partition(":")[0] == "auto":
        return most or _BATCH
    try:
        return int(batch_size)
    except ValueError:
        raise UsageError(f"batch_size is `{batch_size}`", hint="it is a number, or `auto`") from None


def main() -> None:
    """lm_eval's command line, with the model `agq`."""
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import model_registry

    if "agq" not in model_registry:
        model_registry.register("agq", target="agq.evaluation.lm_eval:AgqLM")
    try:
        cli_evaluate()
    except AgqError as error:
        console.error(error.message, error.hint)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
