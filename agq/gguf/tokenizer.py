"""The vocabulary in GGUF metadata as tokenizer.json."""

import json
from typing import Any

from agq.errors import AgqError
from agq.gguf.reader import GgufFile

_CONTROL, _USER = 3, 4


def tokenizer_texts(file: GgufFile) -> dict[str, bytes]:
    """tokenizer.json, tokenizer_config.json and generation_config.json of a file."""
    kind = file.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise AgqError(f"`{file.path}`: tokenizers of kind `{kind}` are not supported", hint="supported: gpt2")
    tokens, types = file.get("tokenizer.ggml.tokens"), file.get("tokenizer.ggml.token_type")
    added = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == _CONTROL,
        }
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_CONTROL, _USER)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    value: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, level],
        },
        "decoder": {**level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": file.get("tokenizer.ggml.merges"),
        },
    }
    config: dict[str, Any] = {"add_bos_token": bool(file.get("tokenizer.ggml.add_bos_token", False))}
    for name in ("bos", "eos"):
        found = file.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(found, int) and found < len(tokens):
            config[f"{name}_token"] = tokens[found]
    template = file.get("tokenizer.chat_template")
    if template is not None:
        config["chat_template"] = template
    return {"tokenizer.json": json.dumps(value).encode(), "tokenizer_config.json": json.dumps(config).encode()}
