"""Text to calibrate and evaluate on: WikiText-2 and C4 through `datasets`, or a local file, as it is.

Every text comes with the SHA-256 of its UTF-8 bytes and a label that says what it is: numbers on different texts do not
compare.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from agq.errors import AgqError, UsageError
from agq.files import read_input
from agq.reporting import console

WIKITEXT, MIXTURE = "wikitext2", "mixture"
WIKITEXT2 = ("Salesforce/wikitext", "wikitext-2-raw-v1")
C4 = "allenai/c4"
C4_FILES = {"train": "en/c4-train.00000-of-01024.json.gz", "validation": "en/c4-validation.00000-of-00008.json.gz"}
RANDOM = "random-tokens"
NAMED = (WIKITEXT, MIXTURE, "c4", RANDOM)
SPLITS = ("train", "validation", "test")
JOINT = "\n\n"
_OFFLINE_HINT = "pass a local text or jsonl file instead, for example `data: FILE`"


class Unavailable(AgqError):
    """A text that is not on this machine and cannot be loaded."""


class Text(NamedTuple):
    """One text. sha256: hex digest of its bytes (of the file's bytes for a local file). label: what it is, for
    people.
    """

    text: str
    sha256: str
    label: str


@dataclass(frozen=True)
class Documents:
    """Separate documents. sha256 and label as in Text; of C4, `sha256` covers the documents in order, each followed by
    a zero byte.
    """

    documents: Sequence[str]
    sha256: str
    label: str

    def joined(self, joint: str = JOINT) -> Text:
        """All documents as one text."""
        return Text(joint.join(self.documents), self.sha256, self.label)


def load_text(
    source: str | os.PathLike[str], split: str = "train", text_field: str = "text", raw: bool = False
) -> Text:
    """The text of a source.

    Args:
        source: "wikitext2" (rows of the data set, empty ones included, joined by blank lines), "c4" (documents of the
            first shard, joined by blank lines), or a local file: .jsonl, .ndjson, .json (one object a line,
            `text_field` of each joined by blank lines), anything else as UTF-8 text, read as it is; .gz is unpacked.
        split: "train", "validation" or "test" of a named data set (C4 has no test: its validation set serves).
        text_field: the field of a jsonl object that holds the text.
        raw: of wikitext2, the text of the distributed file instead of joined rows (each row ends with its own line feed
            already; empty rows stand for lines with one space).

    Raises:
        AgqError: a file that is missing, not UTF-8, empty, or has a bad line (its number is named); a data set that
            cannot be loaded. UsageError: unknown split.
    """
    name = os.fspath(source)
    if split not in SPLITS:
        raise UsageError(f"unknown split `{split}`", hint=f"splits: {', '.join(SPLITS)}")
    if is_named(name, WIKITEXT):
        rows = _dataset(WIKITEXT2[0], WIKITEXT2[1], split)["text"]
        text = "".join(row or " \n" for row in rows) if raw else JOINT.join(rows)
        return Text(
            text,
            _sha256(text),
            f"wikitext2 ({WIKITEXT2[1]} {split}, {'file as distributed' if raw else 'rows joined by blank lines'})",
        )
    if is_named(name, "c4"):
        return load_documents(name, split, text_field).joined()
    if is_named(name, RANDOM):
        raise AgqError("`random-tokens` has no text", hint=_OFFLINE_HINT)
    if is_named(name, MIXTURE):
        raise AgqError("`mixture` is calibration text alone: it has no single text", hint=_OFFLINE_HINT)
    path = local_text(name)
    data = _read(path)
    if is_json_lines(path):
        documents = list(_json_lines(data, path, text_field))
        label = f"{path.name} (field `{text_field}` of {len(documents)} lines, joined by blank lines)"
        return Text(JOINT.join(documents), hashlib.sha256(data).hexdigest(), label)
    text = _decode(data, path)
    if not text.strip():
        raise AgqError(f"`{path}` holds no text")
    return Text(text, hashlib.sha256(data).hexdigest(), f"{path.name} (as it is)")


def load_documents(source: str | os.PathLike[str], split: str = "train", text_field: str = "text") -> Documents:
    """The documents of a source: C4's, a jsonl file's lines; any other text is one document. Raises as `load_text`."""
    name = os.fspath(source)
    if is_named(name, "c4"):
        part = "train" if split == "train" else "validation"
        documents = _dataset(C4, None, part, {part: C4_FILES[part]})["text"]
        digest = hashlib.sha256()
        for document in documents:
            digest.update(document.encode("utf-8") + b"\0")
        return Documents(documents, digest.hexdigest(), f"c4 ({C4_FILES[part]})")
    path = Path(name).expanduser()
    if not is_named(name, *NAMED) and is_json_lines(path):
        path = local_text(name)
        data = _read(path)
        documents = list(_json_lines(data, path, text_field))
        label = f"{path.name} (field `{text_field}` of {len(documents)} lines)"
        return Documents(documents, hashlib.sha256(data).hexdigest(), label)
    text = load_text(source, split, text_field)
    return Documents([text.text], text.sha256, text.label)


def is_named(source: str, *names: str) -> bool:
    """Whether a source means one of these data sets; a local file of the same name wins."""
    return source in names and not Path(source).is_file()


def is_json_lines(path: Path) -> bool:
    """Whether a file's name says one JSON object a line."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] in (".jsonl", ".ndjson", ".json")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def local_text(name: str) -> Path:
    """The path of a text file. AgqError: there is none."""
    path = Path(name).expanduser()
    if path.is_dir():
        raise AgqError(f"`{name}` is a folder, not a text file")
    if not path.exists():
        raise AgqError(f"no such text file: `{name}`", hint="data is wikitext2, c4, or a text or jsonl file")
    return path


def _read(path: Path) -> bytes:
    try:
        data = read_input(path)
        return gzip.decompress(data) if path.suffix.lower() == ".gz" else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise AgqError(f"`{path}` is not a whole gzip file: {error}") from None
    except OSError as error:
        raise AgqError(f"cannot read `{path}`: {error.strerror or error}") from None


def _decode(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise AgqError(
            f"`{path}`, line {line}: not UTF-8 text (byte {error.start})", hint="convert it: iconv -f LATIN1 -t UTF-8"
        ) from None


def _json_lines(data: bytes, path: Path, field: str) -> Iterator[str]:
    found = 0
    for number, line in enumerate(_decode(data, path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"`{path}`, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise AgqError(
                f"{where}: not JSON: {getattr(error, 'msg', error)}", hint="one JSON object a line is expected"
            ) from None
        if not isinstance(row, dict):
            raise AgqError(f"{where}: not a JSON object", hint="one JSON object a line is expected")
        if field not in row:
            names = ", ".join(f"`{name}`" for name in row) or "none"
            raise AgqError(f"{where}: no field `{field}`", hint=f"its fields: {names}; choose one with `text_field:`")
        if not isinstance(row[field], str):
            raise AgqError(f"{where}: field `{field}` is not a text", hint="choose another one with `text_field:`")
        found += 1
        yield row[field]
    if not found:
        raise AgqError(f"`{path}` holds no documents")


def _dataset(path: str, name: str | None, split: str, files: dict[str, str] | None = None) -> Any:
    """One split of a hub data set. AgqError with a way out when it cannot be had."""
    from agq.hub import offline_if_unreachable

    offline_if_unreachable()
    import datasets
    from huggingface_hub.utils import logging as hub_logging

    # The library reports each retry of an unreachable hub by itself; the error below says it once.
    hub_logging.set_verbosity_error()
    if not console.settings.progress or console.settings.verbosity < 0:
        datasets.disable_progress_bars()
    label = f"{path} {name}" if name else path
    try:
        return datasets.load_dataset(path, name, **({"split": split} | ({"data_files": files} if files else {})))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise  # the command line words these
        reason = str(error).strip().split("\n")[0]
        if "OfflineModeIsEnabled" in reason or "Couldn't reach" in reason:
            reason = "it is not in the cache, and the hub cannot be reached"
        raise Unavailable(f"data set `{label}` cannot be loaded: {reason}", hint=_OFFLINE_HINT) from None
