"""Where `agq run` gets its prompt from, and command lines on which prompts look like options or are not quoted."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import typer.core

from agq.cli import other_tools
from agq.errors import AgqError, UsageError
from agq.files import read_input, read_stream
from agq.reporting import console


class PromptCommand(typer.core.TyperCommand):
    """A command with a MODEL and a prompt: `- a list` is a prompt and no option; two prompts are told from one that is
    not quoted.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True
        rest: list[str] = super().parse_args(ctx, self._prompts_last(args))
        if ctx.args:
            words = [*filter(None, (ctx.params.get("model"), ctx.params.get("prompt"))), *ctx.args]
            raise UsageError(
                f"the prompt has several words: {' '.join(words[1:])}",
                hint=f"quote it: agq run {shlex.quote(words[0])} {shlex.quote(' '.join(words[1:]))}",
            )
        return rest

    def _prompts_last(self, args: list[str]) -> list[str]:
        """The arguments, those that begin with `-` and can be no option behind a `--`."""
        options = {name: item for item in self.params if item.param_type_name == "option" for name in item.opts}
        before: list[str] = []
        prompts: list[str] = []
        rest = iter(args)
        for word in rest:
            if word == "--":
                return [*before, "--", *prompts, *rest]
            option = options.get(word)
            if option is not None and not getattr(option, "is_flag", False) and not getattr(option, "count", False):
                before += [word, *([value] if (value := next(rest, None)) is not None else [])]
            elif word.startswith("-") and " " in word.partition("=")[0] and word[:2] not in options:
                prompts.append(word)
            elif option is None and word.partition("=")[0] in other_tools.OPTIONS:
                name = word.partition("=")[0]
                raise UsageError(f"`agq run` has no option `{name}`", hint=other_tools.OPTIONS[name])
            else:
                before.append(word)
        return [*before, "--", *prompts] if prompts else before


def from_stdin(prompt: str | None, file: str | None) -> bool:
    """Whether the prompt is read from stdin."""
    return "-" in (prompt, file) or (prompt is None and file is None and not console.is_terminal(sys.stdin))


def read_prompt(prompt: str | None, file: str | None) -> str | None:
    """The prompt's text; None for a conversation.

    Raises:
        AgqError: a file that cannot be read, text that is not UTF-8, an empty prompt.
    """
    text: str | None
    if prompt is not None and prompt != "-":
        text = checked(prompt, "the prompt")
    elif file is not None and file != "-":
        try:
            data = read_input(file)
        except OSError as error:
            raise AgqError(f"cannot read `{file}`: {error.strerror or error}") from error
        text = _decoded(data, f"`{file}`")
    elif from_stdin(prompt, file):
        text = _decoded(read_stream(sys.stdin.buffer, "stdin"), "stdin") if sys.stdin is not None else ""
    else:
        return None
    if not text:
        raise AgqError("the prompt is empty", hint="give a text as argument, with -f FILE, or on stdin")
    return text


def checked(text: str, what: str) -> str:
    """A text of the command line; AgqError where it has bytes that are not UTF-8."""
    if any(0xD800 <= ord(letter) < 0xE000 for letter in text):
        raise AgqError(f"{what} is not UTF-8 text", hint="set the terminal and the locale to UTF-8")
    return text


def _decoded(data: bytes, where: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AgqError(
            f"{where} is not UTF-8 text (byte {error.start})", hint="convert it, for example with iconv"
        ) from error
    return text.removesuffix("\n").removesuffix("\r")
