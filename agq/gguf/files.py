"""Which paths are GGUF files, and which files belong together. Light: nothing of the `gguf` package is imported."""

import os
import re
from pathlib import Path

from agq.errors import AgqError
from agq.models.folding import fold_names

MAGIC = b"GGUF"
SUFFIX = ".gguf"
# As llama.cpp's splitting tool names parts: NAME-00001-of-00003.gguf.
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)?", re.DOTALL | re.IGNORECASE)


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Whether a file is meant to be GGUF: by its first four bytes, or by its name."""
    path = Path(path)
    if not path.is_file():
        return False
    if path.suffix.lower() == SUFFIX:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def split_parts(path: Path) -> list[Path]:
    """All files of a model of which `path` is one, in order; `path` alone where its name is not that of a part.

    Raises:
        AgqError: a part is missing, or the numbers make no sense.
    """
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    number, count = int(match["number"]), int(match["count"])
    if not 1 <= number <= count:
        raise AgqError(f"`{path}` is part {number} of {count}, by its name", hint="was the file renamed?")
    names = [f"{match['stem']}-{each:05d}-of-{count:05d}{match['suffix'] or ''}" for each in range(1, count + 1)]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise AgqError(
            f"`{path}` is one of {count} parts: {fold_names(missing)} {'is' if len(missing) == 1 else 'are'} missing",
            hint="put all parts into one folder",
        )
    return [path.parent / name for name in names]


def stem(path: Path) -> str:
    """A model's name: the file's without ending and part numbers."""
    match = _PART.fullmatch(path.name)
    if match is not None:
        return match["stem"]
    return path.stem if path.suffix.lower() == SUFFIX else path.name


def model_name(model: str, path: Path) -> str:
    """How what is made of a model is called: by a GGUF file's stem, else by what was typed, without a hub revision.
    path: where `model` was found."""
    return stem(path) if is_gguf(path) else Path(model).name.partition("@")[0]
