"""The texts that travel in an artifact: tokenizer, chat template, configs, and facts about special tokens."""

from typing import Any

from agq.artifact.special import OTHERS, SPECIAL_FLAGS, SPECIAL_TEXTS
from agq.checkpoint.base import Checkpoint
from agq.models.config import Config
from agq.tokenizer.files import TokenizerFiles, read_object


def read_documents(checkpoint: Checkpoint, tokenizer: TokenizerFiles) -> dict[str, bytes]:
    """tokenizer.json, config.json and, where the model has them, chat_template and generation_config.json."""
    documents = {"tokenizer.json": tokenizer.document}
    if tokenizer.template is not None:
        documents["chat_template"] = tokenizer.template.encode("utf-8")
    generation = checkpoint.text("generation_config.json")
    if generation is not None:
        documents["generation_config.json"] = generation
    documents["config.json"] = checkpoint.text("config.json") or b"{}"
    return documents


def special_tokens(checkpoint: Checkpoint, tokenizer: TokenizerFiles) -> dict[str, Any]:
    """Ids and texts of the special tokens (ArtifactModel.special)."""
    spec = checkpoint.spec
    where = f"`{checkpoint.path}`"
    generation = Config(read_object(checkpoint.text, "generation_config.json", where), "generation_config.json")
    stated = generation.token_ids("eos_token_id", spec.vocab) or spec.eos_ids
    bos = generation.token_ids("bos_token_id", spec.vocab)
    special: dict[str, Any] = {"bos_id": spec.bos_id if spec.bos_id is not None else next(iter(bos), None)}
    special["eos_ids"] = [index for index in tokenizer.ends(tuple(stated)) if index < spec.vocab]
    special |= {name: tokenizer.named.get(name) for name in SPECIAL_TEXTS}
    special |= {name: tokenizer.flags[name] for name in SPECIAL_FLAGS}
    others = {name: text for name, text in tokenizer.named.items() if name not in SPECIAL_TEXTS}
    if others:
        special[OTHERS] = others
    return special
