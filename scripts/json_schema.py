#!/usr/bin/env python3
"""Prints docs/json.md as JSON Schema: one definition for each heading. docs/json.schema.json holds it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "json.md"
TYPES = {"text": "string", "number": "number", "true or false": "boolean", "object": "object", "list": "array"}
MORE = "These keys more."  # than the command's own


def type_of(words: str) -> dict[str, Any]:
    """Of a table's second column. Raises KeyError where it is none of those that the page uses."""
    plain = words.removesuffix(" or null")
    found: dict[str, Any] = {"type": TYPES[plain.partition(" of ")[0]]}
    if " of " in plain:
        found["items"] = {"type": TYPES[plain.partition(" of ")[2].removesuffix("s")]}
    if plain != words:
        found["type"] = [found["type"], "null"]
    return found


def schema(page: str) -> dict[str, Any]:
    """Of the whole page; what a heading prints is the definition of its name."""
    definitions = {}
    for section in page.split("\n## ")[1:]:
        name, _, body = section.partition("\n")
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in body.splitlines()
                if line.startswith("| `")]  # fmt: skip
        keys = {key: type_of(words) | {"description": meaning}
                for names, words, meaning in rows for key in re.findall(r"`(\w+)`", names)}  # fmt: skip
        found: dict[str, Any] = {"type": "object", "properties": keys, "required": list(keys)}
        if body.startswith(MORE):
            found["allOf"] = [{"$ref": f"#/$defs/{re.match(r'agq [a-z-]+', name)[0]}"}]  # type: ignore[index]
        if body.startswith("A list; "):
            found = {"type": "array", "items": found}
        definitions[name] = found
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What agq prints with --json",
        "description": "A number that is not finite is printed as null. New versions may add keys.",
        "$defs": definitions,
    }


if __name__ == "__main__":
    print(json.dumps(schema(PAGE.read_text(encoding="utf-8")), indent=1, ensure_ascii=False))
