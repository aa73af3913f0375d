"""Rendering a model's chat template, with the names and functions that transformers gives to templates.

jinja2 is imported on first use only: `agq run` without a conversation does not need it.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from agq.errors import AgqError

Message = dict[str, str]


@lru_cache(maxsize=8)
def _compile(template: str) -> Any:
    from jinja2 import TemplateError
    from jinja2.exceptions import TemplateSyntaxError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} ... {% endgeneration %}: marks for training, transparent here."""

        tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Any) -> Any:
            return caller()

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda text: datetime.now().strftime(text)
    try:
        return environment.from_string(template)
    except TemplateSyntaxError as error:
        raise AgqError(f"the chat template cannot be read: {error.message} (line {error.lineno})") from error


def render(
    template: str,
    messages: Sequence[Message],
    values: Mapping[str, Any] | None = None,
    add_generation_prompt: bool = True,
) -> str:
    """The prompt of a conversation.

    Args:
        template: a Jinja template as in tokenizer_config.json; runs in a sandbox.
        messages: [{"role": "system" | "user" | "assistant", "content": text}, ...].
        values: further names for the template: bos_token, eos_token, ...
        add_generation_prompt: end with the beginning of an answer.

    Raises:
        AgqError: a template that cannot be read, or that refuses the messages (such as a system message that it does
            not know).
    """
    from jinja2 import TemplateError

    compiled = _compile(template)
    try:
        prompt: str = compiled.render(
            {
                "messages": list(messages),
                "add_generation_prompt": add_generation_prompt,
                "tools": None,
                "documents": None,
                **(values or {}),
            }
        )
        return prompt
    except TemplateError as error:
        raise AgqError(f"the chat template refuses this conversation: {error}") from error
    except (AttributeError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise AgqError(f"the chat template fails: {type(error).__name__}: {error}") from error
