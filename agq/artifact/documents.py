"""The texts that travel in an artifact: tokenizer, chat template, configs, and facts about special tokens."""

from typing import Any

from agq.artifact.schema import SPECIAL_FLAGS, SPECIAL_TEXTS
from agq.checkpoint.base import Checkpoint
from agq.errors import AgqError
from agq.models.config import Config
from agq.safetensors.files import load_json

_MAKE_TOKENIZER = "make one with transformers: `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`"


def _object(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """A JSON file of the model; {} where there is none."""
    data = checkpoint.text(name)
    if data is None:
        return {}
    value = load_json(data, f"`{checkpoint.path / name}`")
    if not isinstance(value, dict):
        raise AgqError(f"`{checkpoint.path / name}` is not a JSON object")
    return value


def read_documents(checkpoint: Checkpoint) -> dict[str, bytes]:
    """tokenizer.json, config.json and, where the folder has them, chat_template and generation_config.json.

    Raises:
        AgqError: no tokenizer.json (with a hint how to make one), or files that are not what they should be.
    """
    folder = checkpoint.path
    tokenizer = checkpoint.text("tokenizer.json")
    if tokenizer is None:
        raise AgqError(f"`{folder}` has no tokenizer.json", hint=_MAKE_TOKENIZER)
    if not isinstance(load_json(tokenizer, f"`{folder / 'tokenizer.json'}`"), dict):
        raise AgqError(f"`{folder / 'tokenizer.json'}` is not a tokenizer", hint=_MAKE_TOKENIZER)
    documents = {"tokenizer.json": tokenizer}
    template = _chat_template(checkpoint)
    if template is not None:
        documents["chat_template"] = template.encode("utf-8")
    generation = checkpoint.text("generation_config.json")
    if generation is not None:
        documents["generation_config.json"] = generation
    documents["config.json"] = checkpoint.text("config.json") or b"{}"
    return documents


def _chat_template(checkpoint: Checkpoint) -> str | None:
    """chat_template.jinja, else chat_template.json, else tokenizer_config.json; of several named ones `default`."""
    data = checkpoint.text("chat_template.jinja")
    if data is not None:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise AgqError(f"`{checkpoint.path / 'chat_template.jinja'}` is not UTF-8 text") from error
    for name in ("chat_template.json", "tokenizer_config.json"):
        value = _object(checkpoint, name).get("chat_template")
        if isinstance(value, list):
            named = {str(item.get("name")): item.get("template") for item in value if isinstance(item, dict)}
            value = named.get("default", next(iter(named.values()), None))
        if isinstance(value, str):
            return value
    return None


def special_tokens(checkpoint: Checkpoint) -> dict[str, Any]:
    """Ids and texts of the special tokens (descriptor.ArtifactModel.special).

    End-of-text ids are generation_config.json's, else config.json's: an id or a list of them.
    """
    spec = checkpoint.spec
    generation = Config(_object(checkpoint, "generation_config.json"), "generation_config.json")
    eos = generation.token_ids("eos_token_id", spec.vocab) or spec.eos_ids
    bos = generation.token_ids("bos_token_id", spec.vocab)
    tables = [_object(checkpoint, name) for name in ("tokenizer_config.json", "special_tokens_map.json")]
    special: dict[str, Any] = {"bos_id": spec.bos_id if spec.bos_id is not None else next(iter(bos), None)}
    special["eos_ids"] = list(eos)
    for name in SPECIAL_TEXTS:
        texts = [_text(table.get(name)) for table in tables]
        special[name] = next((text for text in texts if text is not None), None)
    for name in SPECIAL_FLAGS:
        value = tables[0].get(name)
        special[name] = value if isinstance(value, bool) else None
    return special


def _text(value: Any) -> str | None:
    """A special token's text: a string, or an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
