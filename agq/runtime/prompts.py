"""What a caller may give a model to answer: a text, chat messages, or token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agq.errors import AgqError
from agq.runtime.chat import ChatTemplate
from agq.runtime.tokenizer import Tokenizer
from agq.runtime.transcript import Transcript, last_prompt
from agq.tokenizer.chat_template import Message

Ids = Sequence[int] | np.ndarray
Prompt = str | Sequence[Message] | Ids

_KINDS = "a text, a list of messages or a list of token ids"


def is_ids(prompt: Any) -> bool:
    """Whether a prompt is token ids."""
    if isinstance(prompt, np.ndarray):
        return True
    return isinstance(prompt, list | tuple) and all(isinstance(token, int | np.integer) for token in prompt[:1])


def prompt_ids(
    prompt: Any, tokenizer: Tokenizer, template: ChatTemplate | None, system: str | None = None
) -> list[int]:
    """Token ids of a prompt, ready for its answer.

    Args:
        prompt: a text: a message of the template, or, without one, what is to be continued; messages, of which the last
            one is the user's: they need a template; or token ids, which are taken as they are.
        system: the system message of texts, and of messages without one.

    Raises:
        TypeError: anything else. AgqError: an empty prompt; messages that cannot be answered.
    """
    if isinstance(prompt, str):
        if not prompt:
            raise AgqError("the prompt is empty", hint="give the model some text")
        return Transcript(tokenizer, template, system).encode(prompt)
    if is_ids(prompt):
        if system is not None:
            raise AgqError("token ids take no system message: they are what the model reads")
        return ids_of(prompt)
    if not isinstance(prompt, Sequence) or not all(isinstance(message, Mapping) for message in prompt):
        more = " (of several texts `generate_many` makes several answers)" if _texts(prompt) else ""
        raise TypeError(f"a prompt is {_KINDS}, not {_kind(prompt)}{more}")
    return message_ids(list(prompt), tokenizer, template, system)


def message_ids(
    messages: Any, tokenizer: Tokenizer, template: ChatTemplate | None, system: str | None = None
) -> list[int]:
    """Token ids of chat messages that nobody has checked, ready for the answer; see prompt_ids.

    Raises:
        AgqError: messages that cannot be answered.
    """
    if template is None:
        raise AgqError(
            "messages need a chat template, which is not used here", hint="give the text that is to be continued"
        )
    own, turns, last = last_prompt(messages)
    if not last:
        raise AgqError("the prompt is empty", hint="give the model some text")
    transcript = Transcript(tokenizer, template, system if own is None else own)
    transcript.turns = list(turns)
    return transcript.encode(last)


def text_ids(text: Any, tokenizer: Tokenizer) -> list[int]:
    """Token ids of a text without any template, or of ids as they are.

    Raises:
        TypeError: neither. AgqError: no tokens.
    """
    if not isinstance(text, str) and not is_ids(text):
        raise TypeError(f"a text or token ids are needed, not {_kind(text)}")
    ids = tokenizer.encode(text) if isinstance(text, str) else ids_of(text)
    if not ids:
        raise AgqError("there are no tokens", hint="give some text")
    return ids


def pair_ids(context: Any, continuation: Any, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Token ids of a context and of what follows it: of two texts as of one, spaces at the end of the context with what
    follows; ids as they are.

    Raises:
        TypeError: anything else. AgqError: no tokens.
    """
    if not isinstance(context, str) or not isinstance(continuation, str):
        if isinstance(context, str) or isinstance(continuation, str):
            raise TypeError("context and continuation are two texts or token ids of both")
        return text_ids(context, tokenizer), text_ids(continuation, tokenizer)
    bare = context.rstrip()
    first, both = tokenizer.encode(bare), tokenizer.encode(context + continuation)
    one, two = both[: len(first)], both[len(first) :]
    if not one or not two:
        raise AgqError("there are no tokens", hint="give some text")
    return one, two


def ids_of(values: Any) -> list[int]:
    """Token ids as a list of int. TypeError where they are anything else, AgqError for what no token can have."""
    if not len(values):
        return []
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.empty((0, 0))
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise TypeError("token ids are a one-dimensional list of integers")
    ids: list[int] = array.tolist()
    if wrong := [token for token in ids if not 0 <= token < 1 << 31]:
        raise AgqError(f"{wrong[0]} is no token id")
    return ids


def _texts(prompt: Any) -> bool:
    return isinstance(prompt, Sequence) and len(prompt) > 0 and all(isinstance(item, str) for item in prompt)


def _kind(value: Any) -> str:
    if isinstance(value, Sequence) and len(value):
        return f"{type(value).__name__} of {type(value[0]).__name__}"
    return type(value).__name__
