"""Reading values out of a config.json that nobody has checked."""

import math
from typing import Any

from agq.errors import AgqError
from agq.formats.limits import between

_MISSING = object()


class Config:
    """A config.json: every getter takes the names under which a value may stand, checks type and range.

    A key that is absent or null counts as missing: the default is used, or without a default it is an AgqError.
    family: the model's, where it is known.
    """

    def __init__(self, values: dict[str, Any], where: str = "config.json", family: str = ""):
        self.values = values
        self.where = where
        self.family = family

    def silent(self, name: str) -> bool:
        """Whether there is no such key; one that is null is there."""
        return name not in self.values

    def _find(self, names: tuple[str, ...], default: Any) -> tuple[str, Any]:
        for name in names:
            if self.values.get(name) is not None:
                return name, self.values[name]
        if default is _MISSING:
            raise AgqError(f"{self.where} has no `{names[0]}`", hint="is this a complete Hugging Face model folder?")
        return names[0], default

    def integer(self, *names: str, low: int, high: int, default: Any = _MISSING) -> int:
        """An integer in low..high (2048.0 counts as one)."""
        name, value = self._find(names, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise AgqError(f"{self.where}: `{name}` is {_short(value)}, not an integer between {low} and {high}")
        return value

    def number(self, *names: str, low: float, high: float, default: Any = _MISSING) -> float:
        """A finite number in low..high."""
        name, value = self._find(names, default)
        bad = isinstance(value, bool) or not isinstance(value, (int, float))
        if bad or not low <= value <= high or not math.isfinite(value):
            raise AgqError(f"{self.where}: `{name}` is {_short(value)}, not a number between {low:g} and {high:g}")
        return float(value)

    def numbers(self, name: str, low: float, high: float) -> tuple[float, ...]:
        """A list of finite numbers in low..high."""
        name, value = self._find((name,), _MISSING)
        if not isinstance(value, list) or not value:
            raise AgqError(f"{self.where}: `{name}` is {_short(value)}, not a list of numbers")
        return tuple(Config({name: item}, self.where).number(name, low=low, high=high) for item in value)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        name, value = self._find((name,), default)
        if not isinstance(value, bool):
            raise AgqError(f"{self.where}: `{name}` is {_short(value)}, not true or false")
        return value

    def text(self, *names: str, default: Any = _MISSING) -> str:
        """A string."""
        name, value = self._find(names, default)
        if not isinstance(value, str):
            raise AgqError(f"{self.where}: `{name}` is {_short(value)}, not a text")
        return value

    def table(self, *names: str) -> "Config | None":
        """A nested object, or None."""
        name, value = self._find(names, None)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise AgqError(f"{self.where}: `{name}` is {_short(value)}, not an object")
        return Config(value, f"{self.where}: {name}")

    def token_ids(self, name: str, vocab: int) -> tuple[int, ...]:
        """Token ids: an integer, a list of them, or nothing. Ids outside the vocabulary can never occur: dropped."""
        value = self.values.get(name)
        items = value if isinstance(value, list) else [] if value is None else [value]
        for item in items:
            if isinstance(item, bool) or not isinstance(item, int):
                raise AgqError(f"{self.where}: `{name}` is {_short(value)}, not a token id or a list of them")
        return tuple(dict.fromkeys(item for item in items if 0 <= item < vocab))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ModelSpec checks them again.
HIDDEN, LAYERS, HEADS, HEAD_DIM = between("hidden"), between("layers"), between("heads"), between("head_dim")
FFN, VOCAB, CONTEXT = between("ffn"), between("vocab"), between("context")
EPS = {"low": 0.0, "high": 1.0}


# transformers' names of functions; those of each kind are one function up to rounding.
FUNCTIONS = {
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
}


def activation(config: Config, name: str, default: str, known: tuple[str, ...], ending: str = "") -> str:
    """`activation` of a ModelSpec. name: its key; known: those that the feed-forward part of the family has; ending: of
    those with a gate.

    Raises AgqError for another function.
    """
    given = config.text(name, default=default)
    found = f"{FUNCTIONS.get(given, given)}{ending}"
    if found not in known:
        supported = ", ".join(name for name, function in FUNCTIONS.items() if f"{function}{ending}" in known)
        raise AgqError(f"{config.where}: activation `{given}` is not supported", hint=f"supported: {supported}")
    return found


def head_size(hidden: int, heads: int, where: str) -> int:
    """hidden / heads, which must be whole."""
    if hidden % heads:
        raise AgqError(f"{where}: hidden size {hidden} is not a multiple of {heads} attention heads")
    return hidden // heads
