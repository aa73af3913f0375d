"""What `compare_commits.py` compares by: JSON values without what belongs to a run, and files byte by byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

# Values of `--json` that belong to the run and not to its result.
RUN_VALUES = (
    "seconds",
    "load_s",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "time_to_first_token_s",
    "peak_rss_bytes",
    "model_sha256",  # of a file that is compared itself
    "model_bytes",
    "target",  # of `pack --json` up to e12786b: an option that did nothing
)
# Values that are texts for people; with --words they are compared too.
WORDS = (
    "kernel",
    "kernel_decode",
    "kernel_prefill",
    "accumulator",
    "schemes",
    "bos",
    "notes",
    "form",
    "layout",
    "created_by",
)
# Texts in the list of `info`'s linears, numbers elsewhere.
WORDS_IN_LINEARS = ("weights", "activations")


def cleaned(value: Any, words: bool, linears: bool = False) -> Any:
    """A JSON value without what belongs to the run and, unless `words`, without texts for people."""
    if isinstance(value, dict):
        dropped = RUN_VALUES if words else (*RUN_VALUES, *WORDS, *(WORDS_IN_LINEARS if linears else ()))
        return {key: cleaned(item, words, key == "linears") for key, item in value.items() if key not in dropped}
    return [cleaned(item, words, linears) for item in value] if isinstance(value, list) else value


def first_difference(base: Any, head: Any, path: str = "") -> str:
    """Where two JSON values differ first, and their values there; empty where they are equal, floats exactly, or head
    says more than base."""
    if isinstance(base, dict) and isinstance(head, dict):
        for key in base:
            if key not in head:
                return f"{path}.{key} only in base"
            if found := first_difference(base[key], head[key], f"{path}.{key}"):
                return found
        return ""
    if isinstance(base, list) and isinstance(head, list):
        if len(base) != len(head):
            return f"{path or 'output'}: {len(base)} and {len(head)} items"
        found = (first_difference(*pair, f"{path}[{index}]") for index, pair in enumerate(zip(base, head, strict=True)))
        return next(filter(None, found), "")
    return "" if base == head and type(base) is type(head) else f"{path}: {str(base)[:60]!r} and {str(head)[:60]!r}"


def safetensors_parts(data: bytes) -> dict[str, str]:
    """Hashes of the tensors and metadata texts of a safetensors file."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    parts = {f"metadata {key}": text for key, text in header.pop("__metadata__", {}).items()}
    for name, entry in header.items():
        begin, end = entry.pop("data_offsets")
        parts[name] = str(entry) + hashlib.sha256(data[start + begin : start + end]).hexdigest()
    return parts


def file_difference(base: Path, head: Path) -> str:
    """What differs between two files; empty where every byte is the same."""
    one, other = base.read_bytes(), head.read_bytes()
    if one == other:
        return ""
    if base.suffix == ".safetensors":
        parts = (safetensors_parts(one), safetensors_parts(other))
        names = [name for name in dict.fromkeys((*parts[0], *parts[1])) if parts[0].get(name) != parts[1].get(name)]
        return f"{base.name}: {len(names)} of {len(parts[0])} parts: {', '.join(names[:3]) or 'their order'}"
    at = next(
        (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    return f"{base.name}: {len(one)} and {len(other)} bytes, from byte {at}"


def path_difference(base: Path, head: Path) -> str:
    """The same for two files or two folders of files."""
    if base.is_file() and head.is_file():
        return file_difference(base, head)
    names = [sorted(str(path.relative_to(side)) for path in side.rglob("*") if path.is_file()) for side in (base, head)]
    if names[0] != names[1] or not names[0]:
        return f"files: {' '.join(names[0])} and {' '.join(names[1])}"
    return "; ".join(filter(None, (file_difference(base / name, head / name) for name in names[0])))
