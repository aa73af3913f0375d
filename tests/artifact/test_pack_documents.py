"""pack: the tokenizer, the chat template and special tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agq.artifact import open_artifact
from agq.artifact.pack import pack
from agq.errors import AgqError
from tests.checkpoint.folders import config, write_folder, write_quantized


def test_documents_and_special_tokens(tmp_path: Path) -> None:
    folder = write_quantized(tmp_path / "q", config("llama"))
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 6], "bos_token_id": 4}')
    texts = {
        "bos_token": {"content": "<s>"},
        "eos_token": "</s>",
        "chat_template": "{{ messages }} é",
        "add_bos_token": False,
        "add_eos_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(texts))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [
        {"id": 1 + index, "content": text} for index, text in enumerate(("<s>", "</s>", "<pad>"))
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "special_tokens_map.json").write_text('{"pad_token": "<pad>", "eos_token": "</s>"}')
    pack(folder, tmp_path / "a.safetensors")
    artifact = open_artifact(tmp_path / "a.safetensors")
    for name in ("tokenizer.json", "config.json", "generation_config.json"):
        assert artifact.document(name) == (folder / name).read_bytes()
    assert artifact.document("chat_template").decode() == "{{ messages }} é"
    assert artifact.info.special == {
        "bos_id": 1,
        "eos_ids": [5, 6, 2],
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": None,
        "add_bos_token": False,
        "add_eos_token": None,
    }
    (folder / "chat_template.jinja").write_text("from the file")
    pack(folder, tmp_path / "b.safetensors")
    assert open_artifact(tmp_path / "b.safetensors").document("chat_template") == b"from the file"


def test_named_chat_templates(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", config("llama"))
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    pack(folder, tmp_path / "a.safetensors")
    artifact = open_artifact(tmp_path / "a.safetensors")
    assert artifact.document("chat_template") == b"yes" and artifact.info.special["eos_ids"] == [2, 3]


@pytest.mark.parametrize("content", [None, "", "[]", "{"])
def test_tokenizer_is_needed(tmp_path: Path, content: str | None) -> None:
    folder = write_folder(tmp_path / "m", config("llama"), tokenizer=False)
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(AgqError, match=r"tokenizer\.json"):
        pack(folder, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == [folder]
