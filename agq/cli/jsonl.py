"""`agq run --jsonl`: many prompts from a file, several at a time, one JSON line of answer for each, in order."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agq.errors import AgqError
from agq.files import read_input, read_stream
from agq.reporting import console
from agq.reporting.output import print_json
from agq.reporting.progress_bar import progress
from agq.runtime.batch import Answer, seeded
from agq.runtime.chat import ChatTemplate
from agq.runtime.engine import default_context
from agq.runtime.generation import load_tokenizer
from agq.runtime.loaded import LoadedModel
from agq.runtime.prompts import message_ids, prompt_ids

if TYPE_CHECKING:
    from typing import Literal

    from agq.artifact.reader import Artifact
    from agq.recipe.pruning import PruningOptions
    from agq.runtime.sampling import Sampler
    from agq.runtime.tokenizer import Tokenizer

Id = str | int | float


@dataclass
class Request:
    """A line of the file. id: its own, else its place from 0. error: why it cannot be answered; "" where it can.

    prompt, messages: what the line has of the two; ids: for the model.
    """

    id: Id
    index: int
    prompt: str | None = None
    messages: Any = None
    ids: Sequence[int] = ()
    error: str = ""


@dataclass(frozen=True)
class Settings:
    """How all prompts of a file are answered; see Session. sampler: settings; its seed counts up from prompt to
    prompt. parallel: texts in the making at once. echo: the answers' lines hold the prompts."""

    sampler: Sampler
    max_tokens: int
    stop: Sequence[str]
    chat: bool
    system: str | None
    threads: int | None
    context: int | None
    kv_bits: int | None
    pruning: PruningOptions | Literal[False] | None
    parallel: int
    echo: bool


def answer_file(artifact: Artifact, requests: list[Request], done: set[Id], settings: Settings) -> int:
    """Prints a line for each request that is not done; returns the exit code: 1 where one failed."""
    tokenizer = load_tokenizer(artifact)
    template = ChatTemplate(artifact) if settings.chat else None
    waiting = [request for request in requests if request.id not in done]
    for request in waiting:
        if not request.error:
            try:
                request.ids = _ids(request, tokenizer, template, settings.system)
            except AgqError as error:
                request.error = error.message
    if done:
        console.say(f"{len(requests) - len(waiting)} of {len(requests)} prompts are answered already")
    good = [request for request in waiting if not request.error]
    lines = _InOrder(waiting, settings.echo)
    if good:
        context = settings.context
        if context is None:
            longest = max(len(request.ids) for request in good) + settings.max_tokens
            context = min(longest, default_context(artifact))
        with LoadedModel(
            artifact,
            threads=settings.threads,
            context=context,
            slots=min(settings.parallel, len(good)),
            kv_bits=settings.kv_bits,
            pruning=settings.pruning,
            tokenizer=tokenizer,
        ) as model:
            _answer(model, good, settings, lines)
    lines.flush()
    if lines.failed:
        console.error(f"{lines.failed} of {len(waiting)} prompts failed", "their lines say why")
    return int(lines.failed > 0)


def _answer(model: LoadedModel, good: list[Request], settings: Settings, lines: _InOrder) -> None:
    """Answers the prompts, with progress on stderr unless the lines themselves appear on the terminal."""
    of_place = seeded(settings.sampler)
    answers = model.start_many(
        [request.ids for request in good],
        lambda index: of_place(good[index].index),
        settings.max_tokens,
        settings.stop,
    )
    if console.is_terminal(sys.stdout):
        for answer in answers:
            lines.put(good[answer.index], answer)
        return
    start, tokens = time.monotonic(), 0
    with progress("answers", len(good), "prompts") as bar:
        for answer in answers:
            lines.put(good[answer.index], answer)
            tokens += answer.tokens
            bar.advance(note=f"{tokens / max(time.monotonic() - start, 1e-9):.3g} tok/s")


def _ids(request: Request, tokenizer: Tokenizer, template: ChatTemplate | None, system: str | None) -> list[int]:
    """What the model is given for a request. Raises AgqError where it cannot be answered."""
    if request.prompt is None:
        return message_ids(request.messages, tokenizer, template, system)
    return prompt_ids(request.prompt, tokenizer, template, system)


class _InOrder:
    """Prints lines in the order of the requests, each as soon as all before it are printed. `failed` counts errors."""

    def __init__(self, requests: list[Request], echo: bool):
        self._requests, self._echo = iter(requests), echo
        self._ready: dict[int, dict[str, Any]] = {}
        self._next = next(self._requests, None)
        self.failed = 0

    def put(self, request: Request, answer: Answer) -> None:
        """Takes the answer to a request."""
        if answer.error:
            request.error = answer.error
        else:
            self._ready[request.index] = {
                "text": answer.text,
                "tokens": answer.tokens,
                "prompt_tokens": answer.prompt_tokens,
                "finish_reason": answer.finish_reason,
            }
        self.flush()

    def flush(self) -> None:
        """Prints what can be printed."""
        while (request := self._next) is not None:
            values = self._ready.pop(request.index, None)
            if request.error:
                self.failed += 1
                values = {"error": request.error}
            if values is None:
                return
            asked = {"prompt": request.prompt, "messages": request.messages} if self._echo else {}
            asked = {name: value for name, value in asked.items() if value is not None}
            print_json({"id": request.id} | asked | values)
            self._next = next(self._requests, None)


# ---- reading


def read_requests(path: str) -> list[Request]:
    """The requests of a file of JSON lines, or of stdin (`-`). A line that is none becomes a request with an error.

    Raises:
        AgqError: the file cannot be read, holds nothing, or two lines have the same id.
    """
    try:
        data = read_stream(sys.stdin.buffer, "stdin") if path == "-" else read_input(path)
    except OSError as error:
        raise AgqError(f"cannot read `{path}`: {error.strerror or error}") from error
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    if not lines:
        raise AgqError(f"`{path}` holds no prompts", hint='write lines such as {"prompt": "The river"}')
    requests = [_request(line, index) for index, line in enumerate(lines)]
    seen: dict[Id, int] = {}
    for request in requests:
        if request.id in seen:
            raise AgqError(
                f"`{path}`: prompts {seen[request.id] + 1} and {request.index + 1} have the same id `{request.id}`",
                hint="ids must differ; a prompt without one gets its place from 0",
            )
        seen[request.id] = request.index
    return requests


def _request(line: bytes, index: int) -> Request:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return Request(index, index, error="the line is not UTF-8 text")
    except (ValueError, RecursionError):
        return Request(index, index, error="the line is not JSON")
    if not isinstance(value, dict):
        return Request(index, index, error="the line is not a JSON object")
    name = value.get("id", index)
    if isinstance(name, bool) or not isinstance(name, str | int | float):
        return Request(index, index, error="`id` is neither a text nor a number")
    prompt, messages = value.get("prompt"), value.get("messages")
    if (prompt is None) == (messages is None):
        return Request(name, index, error="the line needs either a `prompt` or `messages`")
    if prompt is not None and not isinstance(prompt, str):
        return Request(name, index, error="`prompt` is not a text")
    return Request(name, index, prompt, messages)


def read_done(path: str) -> set[Id]:
    """Ids that a file of earlier answers holds, without those that failed; none where there is no file.

    Where stdout is that file, too, and a killed run left half a line at its end, the half line is removed.

    Raises:
        AgqError: the file cannot be read, or holds anything else.
    """
    try:
        with open(path, "rb") as file:
            data = read_stream(file, f"`{path}`")
            status = os.fstat(file.fileno())
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise AgqError(f"cannot read `{path}`: {error.strerror or error}") from error
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        _cut(status, whole)
    done: set[Id] = set()
    for number, line in enumerate(data[:whole].split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8"))
            if "error" not in value:
                done.add(value["id"])
        except (ValueError, TypeError, KeyError) as error:
            raise AgqError(
                f"`{path}`: line {number} is no answer of `agq run`", hint="give the file that stdout was written to"
            ) from error
    return done


def _cut(status: os.stat_result, length: int) -> None:
    """Cuts the file on stdout to `length` bytes if it is the one with this status."""
    with suppress(OSError, ValueError):
        handle = sys.stdout.fileno()
        own = os.fstat(handle)
        if stat.S_ISREG(own.st_mode) and (own.st_dev, own.st_ino) == (status.st_dev, status.st_ino):
            os.ftruncate(handle, length)
