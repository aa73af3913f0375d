"""Text to token ids for calibration and evaluation: the model's own tokenizer through the `tokenizers` library, without
torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agq.errors import AgqError

if TYPE_CHECKING:
    from agq.artifact import Artifact


class TextTokenizer:
    """A model's tokenizer as transformers 5 calls it: what tokenizer.json's post-processor adds counts, the settings
    `add_bos_token` and `add_eos_token` of tokenizer_config.json do not.

    Attributes:
        vocab: number of ids. bos_id, eos_id: ids or None. prefix, suffix: ids that the tokenizer itself puts around a
            text.
    """

    def __init__(
        self, tokenizer: Any, config: dict[str, Any], bos_id: int | None = None, eos_id: int | None = None
    ) -> None:
        """Args: a `tokenizers.Tokenizer`; the contents of tokenizer_config.json; ids to use where that names no such
        token.
        """
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.vocab: int = tokenizer.get_vocab_size(with_added_tokens=True)
        self.bos_id = self._id(config.get("bos_token"), bos_id)
        self.eos_id = self._id(config.get("eos_token"), eos_id)
        self.prefix, self.suffix = self._template()

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> TextTokenizer:
        """The tokenizer inside a packed file."""
        special = artifact.info.special
        eos = special.get("eos_ids") or [None]
        data = bytes(artifact.document("tokenizer.json") or b"")
        return cls(_parse(data, f"`{artifact.path}`: tokenizer.json"), special, special.get("bos_id"), eos[0])

    @property
    def adds_bos(self) -> bool:
        """Whether the tokenizer itself begins a text with BOS."""
        return bool(self.prefix) and self.prefix[0] == self.bos_id

    def encode(self, text: str, add_bos: bool | None = None) -> np.ndarray:
        """Token ids int64 [n] of a text.

        Args:
            add_bos: None: as the tokenizer itself does, BOS and EOS included; True, False: exactly one or no BOS at the
                start and nothing else around the text.

        Raises:
            AgqError: BOS is wanted and the model has none.
        """
        ids = self._plain(text)
        if add_bos is None:
            ids = [*self.prefix, *ids, *self.suffix]
        elif add_bos:
            ids = [self.require_bos(), *ids]
        return np.asarray(ids, dtype=np.int64)

    def require_bos(self) -> int:
        """BOS's id, or AgqError."""
        if self.bos_id is None:
            raise AgqError("the model's tokenizer has no BOS token", hint="use `add_bos: false`")
        return self.bos_id

    def special_ids(self) -> set[int]:
        """Ids of tokens that are no text."""
        return {index for index, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _id(self, token: Any, default: int | None) -> int | None:
        if isinstance(token, dict):
            token = token.get("content")
        found = self._tokenizer.token_to_id(token) if isinstance(token, str) else None
        return default if found is None else found

    def _template(self) -> tuple[list[int], list[int]]:
        """What tokenizer.json's post-processor puts before and after a text."""
        bare = self._tokenizer.encode("a", add_special_tokens=False).ids
        full = self._tokenizer.encode("a", add_special_tokens=True).ids
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return full[:start], full[start + len(bare) :]
        return [], []


def load_tokenizer(folder: str | Path) -> TextTokenizer:
    """The tokenizer of a Hugging Face folder: tokenizer.json, else (older models) what transformers makes of the other
    files.

    Raises:
        AgqError: the folder has no tokenizer, or files that are not what they should be.
    """
    folder = Path(folder)
    config = _read_object(folder / "tokenizer_config.json")
    model = _read_object(folder / "config.json")
    path = folder / "tokenizer.json"
    if path.is_file():
        return TextTokenizer(_parse(path.read_bytes(), f"`{path}`"), config, *_ids(model))
    return TextTokenizer(_convert(folder), config, *_ids(model))


def _convert(folder: Path) -> Any:
    """The `tokenizers` form of the tokenizer files (vocab.json and merges.txt, tokenizer.model) of a folder, by
    transformers.
    """
    if not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.model", "tokenizer_config.json")):
        raise AgqError(f"`{folder}` has no tokenizer", hint="copy tokenizer.json of the original model into it")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers raises many kinds for files that do not fit
        raise AgqError(
            f"the tokenizer of `{folder}` cannot be loaded: {str(error).splitlines()[0] if str(error) else error!r}",
            hint="a folder with tokenizer.json works without transformers",
        ) from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise AgqError(
            f"the tokenizer of `{folder}` has no fast form", hint="copy a tokenizer.json of the model into the folder"
        )
    return backend


def _parse(data: bytes, where: str) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises plain Exception
        raise AgqError(
            f"{where} is not a tokenizer: {error}", hint="the download is incomplete, or `tokenizers` is too old"
        ) from None


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AgqError(f"`{path}` cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise AgqError(f"`{path}` is not a JSON object")
    return value


def _ids(config: dict[str, Any]) -> tuple[int | None, int | None]:
    found = []
    for name in ("bos_token_id", "eos_token_id"):
        value = config.get(name)
        if isinstance(value, list):
            value = value[0] if value else None
        found.append(value if isinstance(value, int) and not isinstance(value, bool) else None)
    return found[0], found[1]
