"""The files of a Hugging Face folder that a GGUF file's metadata stand for."""

import json
from pathlib import Path
from typing import Any

from agq.errors import AgqError
from agq.gguf.reader import GgufFile
from agq.gguf.tokenizer import read_tokenizer

DAMAGED = "the file is damaged: fetch it again"


def folder_texts(file: GgufFile, config: dict[str, Any], path: Path) -> tuple[dict[str, bytes], list[str]]:
    """(name -> content, what the tokenizer's reader has to say). config: of config.json; path: for messages.

    Raises AgqError for a tokenizer that cannot be read.
    """
    keys = [key for key in file.keys() if key.startswith("tokenizer.") or key == "general.name"]
    try:
        found = read_tokenizer({key: file.get(key) for key in keys})
    except AgqError as error:
        raise AgqError(f"`{path}`: {error.message}", hint=error.hint) from error
    except (TypeError, ValueError, KeyError) as error:
        raise AgqError(f"`{path}`: its tokenizer cannot be read: {error}", hint=DAMAGED) from error
    generation = {"bos_token_id": found.bos_id, "eos_token_id": list(found.eos_ids)}
    texts = {
        "tokenizer_config.json": found.config,
        "generation_config.json": {name: value for name, value in generation.items() if value not in (None, [])},
        "config.json": config,
    }
    written = {name: json.dumps(value, indent=2, ensure_ascii=False).encode() for name, value in texts.items()}
    return {"tokenizer.json": found.tokenizer.encode(), **written}, list(found.notes)
