"""What is settled before an engine is made: the packed file of a model, its chat template, its token pruning."""

import os
from typing import Literal

from agq.artifact.reader import Artifact
from agq.recipe.pruning import PruningOptions
from agq.reporting import console
from agq.runtime.cache import open_model
from agq.runtime.chat import ChatTemplate
from agq.runtime.engine import Engine


def opened(model: str | os.PathLike[str] | Artifact) -> Artifact:
    """The packed file of a model; what is not packed is packed into the cache, once.

    Raises:
        AgqError: no such model, a damaged file. TypeError: no path, name or artifact.
    """
    if not isinstance(model, str | os.PathLike | Artifact):
        raise TypeError(f"a model is a path or a name, not {type(model).__name__}")
    return model if isinstance(model, Artifact) else open_model(model, console.say)


def template_of(artifact: Artifact, chat: bool | None) -> ChatTemplate | None:
    """The chat template that prompts go through, or None. chat: None: where there is one; True: AgqError where there is
    none.
    """
    return ChatTemplate(artifact) if chat or (chat is None and artifact.has("chat_template")) else None


def wanted_pruning(artifact: Artifact, asked: PruningOptions | Literal[False] | None) -> PruningOptions | None:
    """Token pruning as asked for; None: as the artifact's recipe says, False: none."""
    return PruningOptions.of_record(artifact.recipe) if asked is None else asked or None


def warn_beyond_training(engine: Engine) -> None:
    """A warning where the context is larger than the model knows."""
    if engine.context > engine.spec.context:
        console.warning(
            f"a context of {engine.context} is more than the {engine.spec.context} that the model was trained for"
        )
