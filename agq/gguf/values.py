"""Typed access to a GGUF file's metadata, which nobody has checked."""

import math
from typing import Any

import numpy as np

from agq.errors import AgqError
from agq.gguf.reader import GgufFile

_MISSING = object()


class Metadata:
    """The keys of a file's architecture by their names behind its prefix: `block_count` is `llama.block_count`.

    Attributes:
        architecture: `general.architecture`. where: the file, for messages.
    """

    def __init__(self, file: GgufFile):
        self.file = file
        self.where = f"`{file.path}`"
        name = file.get("general.architecture")
        if not isinstance(name, str) or not name:
            raise AgqError(f"{self.where} names no `general.architecture`", hint="is this a language model?")
        self.architecture = name

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key of the architecture."""
        return self.file.get(f"{self.architecture}.{key}", default)

    def stored(self, tensor: str) -> bool:
        """Whether the file has a tensor."""
        return tensor in self.file.tensors

    def floats(self, tensor: str) -> list[float] | None:
        """The values of a small tensor of floats, such as RoPE's factors; None where there is none."""
        found = self.file.tensors.get(tensor)
        if found is None:
            return None
        if found.type not in ("F32", "F16"):
            raise AgqError(f"{self.where}: tensor `{tensor}` is {found.type}, not a float type")
        values = [float(value) for value in np.asarray(found.data, np.float32).reshape(-1)]
        if not all(math.isfinite(value) and value > 0 for value in values):
            raise AgqError(f"{self.where}: tensor `{tensor}` holds values that are no factors")
        return values

    def error(self, key: str, value: Any, wanted: str) -> AgqError:
        """What is wrong with a value."""
        text = repr(value)
        short = text if len(text) <= 60 else text[:57] + "..."
        return AgqError(f"{self.where}: `{self.architecture}.{key}` is {short}, not {wanted}")

    def _found(self, key: str, default: Any) -> Any:
        value = self.get(key)
        if value is not None:
            return value
        if default is _MISSING:
            raise AgqError(f"{self.where} has no `{self.architecture}.{key}`", hint="is the file complete?")
        return default

    def integer(self, key: str, default: Any = _MISSING) -> int:
        """A whole number that is not negative."""
        value = self._found(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.error(key, value, "a whole number")
        return value

    def per_layer(self, key: str, default: Any = _MISSING) -> int:
        """A whole number that a file may say for each layer; AgqError where layers differ."""
        value = self._found(key, default)
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise AgqError(
                    f"{self.where}: layers differ in `{self.architecture}.{key}`: not supported",
                    hint="agq computes models whose layers are alike",
                )
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.error(key, value, "a whole number")
        return value

    def number(self, key: str, default: Any = _MISSING) -> float:
        """A finite number."""
        value = self._found(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.error(key, value, "a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._found(key, default)
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        """A text."""
        value = self._found(key, default)
        if not isinstance(value, str):
            raise self.error(key, value, "a text")
        return value

    def token(self, name: str) -> int | None:
        """A special token's id, from `tokenizer.ggml.NAME`."""
        value = self.file.get(f"tokenizer.ggml.{name}")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise AgqError(f"{self.where}: `tokenizer.ggml.{name}` is not a token id")
        return value
