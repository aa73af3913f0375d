"""A model in Python: `agq.load` opens one, its methods make text, scores and hidden states."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from agq.artifact.reader import Artifact
from agq.errors import AgqError, UsageError
from agq.recipe.pruning import PruningOptions
from agq.runtime.arguments import real, stop_texts, whole
from agq.runtime.batch import Answer, problem, seeded
from agq.runtime.chat import ChatTemplate
from agq.runtime.defaults import most_tokens
from agq.runtime.loaded import LoadedModel
from agq.runtime.opening import opened, template_of
from agq.runtime.prompts import Ids, Prompt, pair_ids, prompt_ids, text_ids
from agq.runtime.recommended import recommended_sampling
from agq.runtime.sampling import Sampler
from agq.runtime.scoring import Likelihood
from agq.runtime.stream import Stream


class Model(LoadedModel):
    """A model that is ready to compute. `agq.load` makes it; `with agq.load(...) as model` frees it at the end.

    A model has `slots`, each of which holds one text with its KV cache. Thread-safe: threads that make texts at the
    same time get a slot each, and wait where none is free. A text that begins as one that a slot holds, such as a chat
    that goes on, is not computed from its beginning again.

    Attributes:
        artifact: the packed file. engine: what computes. tokenizer: texts to token ids and back (`encode`, `decode`).

    All methods raise AgqError once the model is closed, and where the engine fails; TypeError for arguments of the
    wrong type; AgqError and UsageError for values out of range.
    """

    # ---- text

    def generate(
        self,
        prompt: Prompt,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        chat: bool | None = None,
        system: str | None = None,
    ) -> str:
        """The answer to a prompt. See `stream`, which gives the same in pieces and says how it went."""
        return "".join(
            self.stream(
                prompt, max_tokens, stop, temperature, top_k, top_p, min_p, repetition_penalty, seed, chat, system
            )
        )

    def stream(
        self,
        prompt: Prompt,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        chat: bool | None = None,
        system: str | None = None,
        speculate: int = 0,
    ) -> Stream:
        """The answer to a prompt, as an iterator of pieces of text.

        Args:
            prompt: a text; chat messages such as [{"role": "user", "content": "Hello"}], the last one the user's; or
                token ids, which are taken as they are.
            max_tokens: tokens to generate at most. Default: 1024 for an answer in a chat, 256 for a text.
            stop: texts that end the answer, and are not part of it.
            temperature, top_k, top_p, min_p, repetition_penalty: see Sampler. Default: greedy, always the likeliest
                token; `recommended_sampling` has what the model's authors want.
            seed: of the random choice; default another one each time, see `statistics.seed`.
            chat: a text is a message of the chat template; False: it is continued. Default: where the model has a
                template.
            system: the system message of a chat.
            speculate: tokens that prompt look-up proposes at once, at most; 0: none. The text is the same.

        Raises:
            AgqError: the prompt is empty or does not fit the context; messages or `system` without a chat template; all
                slots are taken by streams of this thread.
        """
        sampler = _sampler(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        template = self._template(chat, system)
        ids = prompt_ids(prompt, self.tokenizer, template, system)
        limit = _limit(max_tokens, template)
        return self.start(ids, sampler, limit, stop_texts(stop), whole("speculate", speculate) or 0)

    def generate_many(
        self,
        prompts: Sequence[Prompt],
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        chat: bool | None = None,
        system: str | None = None,
    ) -> list[Answer]:
        """The answers to prompts, in their order. As many are made at once as slots are free: the weights are read once
        for all of them. Each is the one that its prompt would get alone.

        Args:
            prompts and the others: see `stream`. seed: of the first prompt; each further one has the next number.

        Raises:
            AgqError: as `stream`, for the first prompt that cannot be answered, before anything is computed.
        """
        if isinstance(prompts, str) or not isinstance(prompts, Sequence):
            raise TypeError(f"prompts are a list, not {type(prompts).__name__}")
        sampler = _sampler(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        template = self._template(chat, system)
        ids = []
        for number, prompt in enumerate(prompts, 1):
            try:
                ids.append(prompt_ids(prompt, self.tokenizer, template, system))
                if wrong := problem(self.engine, ids[-1]):
                    raise AgqError(wrong)
            except AgqError as error:
                raise AgqError(f"prompt {number} of {len(prompts)}: {error.message}", hint=error.hint) from error
        limit = _limit(max_tokens, template)
        answers = self.start_many(ids, seeded(sampler), limit, stop_texts(stop))
        return sorted(answers, key=lambda answer: answer.index)

    @property
    def recommended_sampling(self) -> dict[str, float]:
        """How the model's authors want it sampled, by the names of the arguments of `generate`: what
        generation_config.json says, else temperature 0.7 and top-p 0.9.
        """
        return recommended_sampling(self.artifact)

    # ---- numbers

    def logits(self, text: str | Ids) -> np.ndarray:
        """Scores of the token that follows each token of a text: float32 [tokens, vocabulary].

        Args:
            text: without any chat template, or token ids. Text gets the tokenizer's own special tokens.

        Raises:
            AgqError: no tokens, or more than the context holds.
        """
        ids = text_ids(text, self.tokenizer)
        with self._empty_slots() as (slot,):
            return self.engine.forward(ids, slot, "all")

    def hidden_states(self, text: str | Ids) -> np.ndarray:
        """Last hidden states, after the final norm: what the head matrix reads. float32 [tokens, width].

        A model whose weights were transformed has them in the transformed space: multiplied by an orthogonal matrix,
        which changes no angle between two of them; and, unless embedding and head are one table, without the factors
        of the final norm, which does.

        Args:
            text: see `logits`.

        Raises:
            AgqError: no tokens, or more than the context holds.
        """
        ids = text_ids(text, self.tokenizer)
        with self._empty_slots() as (slot,):
            return self.engine.states(ids, slot)

    def embed(self, texts: Sequence[str | Ids], pooling: Literal["mean", "last"] = "mean") -> np.ndarray:
        """A vector for each text, float32 [texts, width]: the mean of its `hidden_states`, or the last one."""
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise TypeError(f"texts are a list, not {type(texts).__name__}")
        if pooling not in ("mean", "last"):
            raise UsageError(f"pooling is `{pooling}`", hint="it can be `mean` or `last`")
        states = [self.hidden_states(text) for text in texts]
        rows = [one[-1] if pooling == "last" else one.mean(axis=0) for one in states]
        return np.stack(rows) if rows else np.empty((0, self.engine.spec.embed_dim), np.float32)

    def loglikelihoods(self, pairs: Sequence[tuple[str | Ids, str | Ids]]) -> list[Likelihood]:
        """How likely each continuation is after its context, several at once.

        Args:
            pairs: (context, continuation), two texts or token ids of both, one token at least of each. Pairs with the
                same context compute it once.

        Raises:
            AgqError: an empty context or continuation, or more tokens than the context holds.
        """
        checked = [pair_ids(one, two, self.tokenizer) for one, two in pairs]
        for number, (one, two) in enumerate(checked, 1):
            if len(one) + len(two) - 1 > self.engine.context:
                raise AgqError(
                    f"pair {number} has {len(one) + len(two)} tokens, and the context holds {self.engine.context}",
                    hint="cut the beginning of the context, or load the model with a larger `context:`",
                )
        found = dict(self.start_scores(checked))
        return [found[index] for index in range(len(checked))]

    # ---- checks

    def _template(self, chat: bool | None, system: str | None) -> ChatTemplate | None:
        """The template that prompts go through, or None."""
        if chat is not None and not isinstance(chat, bool):
            raise TypeError(f"chat must be true or false, not {type(chat).__name__}")
        if system is not None and not isinstance(system, str):
            raise TypeError(f"system must be a text, not {type(system).__name__}")
        template = template_of(self.artifact, chat)
        if system is not None and template is None:
            raise AgqError(
                "a system message needs a chat template, which is not used here",
                hint="write it into the text that is to be continued",
            )
        return template


def load(
    model: str | os.PathLike[str] | Artifact,
    threads: int | None = None,
    context: int | None = None,
    slots: int = 1,
    kv_bits: int | None = None,
    pruning: PruningOptions | Literal[False] | None = None,
) -> Model:
    """Opens a model.

    Args:
        model: a packed or GGUF file, a model folder, a recipe's name or a hub id. What is not packed is packed into the
            cache, once.
        threads: default the physical (big) cores that this process may use.
        context: tokens of prompt and answer together. Default: the model's, at most 4096.
        slots: texts in the making at once; each needs a KV cache.
        kv_bits: of the KV cache: 4, 8 or 32. Default: as packed.
        pruning: token pruning of prompts; None: as the file's recipe says, False: none.

    Raises:
        AgqError: no such model, a damaged file, not enough memory. UsageError: a number out of range. TypeError: an
            argument of the wrong type.
    """
    return Model(opened(model), threads, context, slots, kv_bits, pruning)


def _limit(max_tokens: Any, template: ChatTemplate | None) -> int:
    """Tokens at most; None: those of an answer or of a text."""
    limit = whole("max_tokens", max_tokens)
    return most_tokens(template is not None) if limit is None else limit


def _sampler(temperature: Any, top_k: Any, top_p: Any, min_p: Any, repetition_penalty: Any, seed: Any) -> Sampler:
    """The sampler of arguments that nobody has checked; None: not given."""
    return Sampler(
        temperature=real("temperature", temperature, 0.0),
        top_k=whole("top_k", top_k) or 0,
        top_p=real("top_p", top_p, 1.0),
        min_p=real("min_p", min_p, 0.0),
        repetition_penalty=real("repetition_penalty", repetition_penalty, 1.0),
        seed=whole("seed", seed),
    )
