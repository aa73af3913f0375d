"""How `agq run` samples: as the model's authors say where a person reads along, else always the likeliest token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agq.reporting import console

if TYPE_CHECKING:
    from agq.artifact.reader import Artifact
    from agq.runtime.sampling import Sampler


def sampler_for(artifact: Artifact, watched: bool, given: dict[str, float | None], seed: int | None) -> Sampler:
    """The sampler; says which options have no effect beside the others.

    Args:
        watched: a person reads along, and the answer need not be the same next time.
        given: arguments of Sampler by their names; None: not given.

    Raises:
        AgqError: a value out of range, or a generation_config.json that cannot be read.
    """
    from agq.runtime.recommended import choose_sampler, recommended_sampling

    temperature = given["temperature"]
    base = recommended_sampling(artifact) if watched and temperature != 0 else {}
    sampler = choose_sampler(base, given, seed)
    top_p = given["top_p"]
    filters = {"--top-k": given["top_k"], "--top-p": top_p is not None and top_p < 1, "--min-p": given["min_p"]}
    names = [name for name, value in filters.items() if value]
    if sampler.greedy:
        names += ["--seed"] if seed is not None else []
        if names:
            verb = "has" if len(names) == 1 else "have"
            why = "--temp 0.7 would sample" if temperature is None else "--temp 0"
            console.warning(f"{', '.join(names)} {verb} no effect: the likeliest token is taken each time ({why})")
    elif seed is not None and (sampler.top_k == 1 or sampler.top_p == 0 or sampler.min_p == 1):
        console.warning("--seed has no effect: the filters leave one token to choose from")
    return sampler
