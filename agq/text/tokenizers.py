"""Text to token ids for calibration and evaluation: the tokenizer that `agq run` has, as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agq.checkpoint.base import Checkpoint
from agq.errors import AgqError
from agq.tokenizer.files import Texts, TokenizerFiles, folder_texts, read_object, read_tokenizer_files
from agq.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from agq.artifact import Artifact


class TextTokenizer:
    """A model's tokenizer as transformers 5 calls it.

    Attributes:
        vocab: number of ids. bos_id, eos_id: ids or None. prefix, suffix: ids that the tokenizer itself puts around a
            text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.vocab: int = tokenizer.size
        self.bos_id, self.eos_id = tokenizer.bos_id, tokenizer.eos_id
        self.prefix, self.suffix = tokenizer.prefix, tokenizer.suffix

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> TextTokenizer:
        """The tokenizer inside a packed file."""
        data = bytes(artifact.document("tokenizer.json") or b"")
        where = f"`{artifact.path}`: tokenizer.json"
        return cls(Tokenizer(data, special=artifact.info.special, where=where))

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
        ids = self._tokenizer.encode(text, add_bos=False)
        if add_bos is None:
            ids = [*self.prefix, *ids, *self.suffix]
        elif add_bos:
            ids = [self.require_bos(), *ids]
        return np.asarray(ids, dtype=np.int64)

    def piece(self, token: int) -> str:
        """The text of one token, special ones by their names."""
        return self._tokenizer.decode([token], skip_special=False)

    def require_bos(self) -> int:
        """BOS's id, or AgqError."""
        if self.bos_id is None:
            raise AgqError("the model's tokenizer has no BOS token", hint="use `add_bos: false`")
        return self.bos_id

    def special_ids(self) -> set[int]:
        """Ids of tokens that are no text."""
        return self._tokenizer.special_ids()


def load_tokenizer(model: str | Path | Checkpoint) -> TextTokenizer:
    """The tokenizer of a model, or of a Hugging Face folder that has one: tokenizer.json, else (older models) what the
    other files say.

    Raises:
        AgqError: no tokenizer, or files that are not what they should be.
    """
    path, texts = _texts_of(model)
    files = read_files(model)
    bos, eos = _ids(read_object(texts, "config.json", f"`{path}`"))
    special = {**files.named, "bos_id": bos, "eos_ids": [] if eos is None else [eos]}
    return TextTokenizer(Tokenizer(files.document, special=special, where=f"the tokenizer of `{path}`"))


def read_files(model: str | Path | Checkpoint) -> TokenizerFiles:
    """What a model's files say of its tokenizer, through transformers where only that can read them. AgqError as
    read_tokenizer_files."""
    path, texts = _texts_of(model)
    return read_tokenizer_files(texts, f"`{path}`", lambda: convert(path, texts))


def _texts_of(model: str | Path | Checkpoint) -> tuple[Path, Texts]:
    """Where a model is, and the function that reads its files."""
    if isinstance(model, Checkpoint):
        return model.path, model.text
    return Path(model), folder_texts(Path(model))


def convert(folder: Path, texts: Texts) -> bytes | None:
    """tokenizer.json of a folder whose tokenizer only transformers can read; None: it has no tokenizer at all."""
    if not any(texts(name) is not None for name in ("vocab.json", "tokenizer.model", "tokenizer_config.json")):
        return None
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
    text: str = backend.to_str()
    return text.encode("utf-8")


def _ids(config: dict[str, Any]) -> tuple[int | None, int | None]:
    found = []
    for name in ("bos_token_id", "eos_token_id"):
        value = config.get(name)
        if isinstance(value, list):
            value = value[0] if value else None
        found.append(value if isinstance(value, int) and not isinstance(value, bool) else None)
    return found[0], found[1]
