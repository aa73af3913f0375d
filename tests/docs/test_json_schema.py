"""docs/json.schema.json is what scripts/json_schema.py makes of docs/json.md."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support import REPOSITORY

DOCS = REPOSITORY / "docs"


def test_the_schema_is_the_page() -> None:
    script = REPOSITORY / "scripts" / "json_schema.py"
    printed = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    assert printed == (DOCS / "json.schema.json").read_text(encoding="utf-8")


def test_every_heading_and_key_is_in_it() -> None:
    page = (DOCS / "json.md").read_text(encoding="utf-8")
    definitions = json.loads((DOCS / "json.schema.json").read_text(encoding="utf-8"))["$defs"]
    assert list(definitions) == [line[3:] for line in page.splitlines() if line.startswith("## ")]
    for name, definition in definitions.items():
        found = definition.get("items", definition)
        assert found["properties"] and found["required"] == list(found["properties"]), name
        assert ("allOf" in found) == (f"## {name}\nThese keys more." in page)
    assert definitions["agq eval-ppl --prune"]["allOf"] == [{"$ref": "#/$defs/agq eval-ppl"}]
    assert definitions["agq bench"]["type"] == "array"
