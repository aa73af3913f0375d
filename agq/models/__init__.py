"""The supported families: config.json -> ModelSpec (what is computed) and ModelParts (how it is named)."""

from importlib import import_module
from typing import Any, Protocol

from agq.errors import AgqError
from agq.models.config import Config
from agq.models.families import FAMILIES, TEXT_PARTS
from agq.models.parts import BlockParts, Linear, ModelParts
from agq.models.rope import RopeSpec
from agq.models.spec import ModelSpec

__all__ = [
    "FAMILIES",
    "BlockParts",
    "Linear",
    "ModelParts",
    "ModelSpec",
    "RopeSpec",
    "parts",
    "spec_from_config",
    "text_part",
]

# Of `model_type` in the folders of models with online transformations: transformers and vLLM refuse them by name.
ONLINE_PREFIX = "agq_"


class _Family(Protocol):
    """A family's module."""

    def spec(self, config: Config) -> ModelSpec: ...

    def parts(self, spec: ModelSpec) -> ModelParts: ...


def _family(name: str) -> _Family:
    module: Any = import_module(FAMILIES[name])
    found: _Family = module
    return found


# What a text part's config takes from the whole one where it has none.
_SHARED = ("bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype", "quantization_config")


def text_part(config: Any) -> Any:
    """The config.json of the language model inside that of one of several kinds of input; any other as it is."""
    if not isinstance(config, dict) or str(config.get("model_type")) not in TEXT_PARTS:
        return config
    inner = config.get("text_config")
    shared = {key: config[key] for key in _SHARED if key in config}
    return {**shared, **(inner if isinstance(inner, dict) else {}), "model_type": TEXT_PARTS[config["model_type"]]}


def spec_from_config(config: Any, where: str = "config.json") -> ModelSpec:
    """The ModelSpec of a parsed config.json.

    Args:
        config: the JSON object.
        where: its name in error messages.

    Raises:
        AgqError: not an object, another family or kind of model, a missing or impossible value.
    """
    if not isinstance(config, dict):
        raise AgqError(f"{where} is not a JSON object")
    config = text_part(config)
    reader = Config(config, where)
    # "agq_llama": a transformed LLaMA with steps that other software does not compute (agq.json names them).
    family = reader.text("model_type", default="").removeprefix(ONLINE_PREFIX)
    supported = ", ".join(FAMILIES)
    if family not in FAMILIES:
        name = f"model family `{family}` is not supported" if family else f"{where} has no `model_type`"
        raise AgqError(name, hint=f"supported families: {supported}")
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures:
        names = [str(item) for item in architectures]
        if not any(item.lower().endswith(("forcausallm", "lmheadmodel", "model")) for item in names):
            raise AgqError(
                f"{where}: `{names[0]}` is not a language model with an output head",
                hint="agq runs causal language models (…ForCausalLM)",
            )
    reader.family = family
    return _family(family).spec(reader)


def parts(spec: ModelSpec) -> ModelParts:
    """Module names of the family of `spec`."""
    return _family(spec.family).parts(spec)
