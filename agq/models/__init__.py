"""The supported families: config.json -> ModelSpec (what is computed) and ModelParts (how it is named)."""

from importlib import import_module
from typing import Any, Protocol

from agq.errors import AgqError
from agq.models.config import Config
from agq.models.families import FAMILIES
from agq.models.parts import BlockParts, Linear, ModelParts
from agq.models.rope import RopeSpec
from agq.models.spec import ModelSpec

__all__ = ["FAMILIES", "BlockParts", "Linear", "ModelParts", "ModelSpec", "RopeSpec", "parts", "spec_from_config"]

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
