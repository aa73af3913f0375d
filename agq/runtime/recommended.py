"""How a model's authors want it sampled: its generation_config.json."""

from agq.artifact.reader import Artifact
from agq.errors import AgqError
from agq.models.config import Config
from agq.runtime.sampling import Sampler
from agq.safetensors.files import load_json

# Where the authors say nothing. Always the likeliest token would make small models repeat themselves without end.
TEMPERATURE, TOP_P = 0.7, 0.9
# What transformers does where a generation_config.json that asks for sampling leaves a value out.
_TEMPERATURE, _TOP_K = 1.0, 50


def recommended_sampling(artifact: Artifact) -> dict[str, float]:
    """Arguments of `Sampler` by their names, without the seed.

    `do_sample: false` is greedy. A file that names no setting of sampling says nothing: temperature 0.7, top-p 0.9.

    Raises:
        AgqError: a generation_config.json that is no JSON object, or has a value of the wrong type or out of range.
    """
    name = "generation_config.json"
    values = load_json(artifact.document(name), f"{name} of `{artifact.path}`") if artifact.has(name) else {}
    if not isinstance(values, dict):
        raise AgqError(f"{name} of `{artifact.path}` is not a JSON object")
    config = Config(values, name)
    settings = ("temperature", "top_k", "top_p", "min_p")
    sampled = config.flag("do_sample", any(config.values.get(key) is not None for key in settings))
    penalty = config.number("repetition_penalty", low=1e-3, high=1e3, default=1.0)
    if not sampled:
        says = config.values.get("do_sample") is not None
        found: dict[str, float] = {"temperature": 0.0} if says else {"temperature": TEMPERATURE, "top_p": TOP_P}
        return found | {"repetition_penalty": penalty}
    return {
        "temperature": config.number("temperature", low=0, high=1e3, default=_TEMPERATURE),
        "top_k": config.integer("top_k", low=0, high=1 << 31, default=_TOP_K),
        "top_p": config.number("top_p", low=0, high=1, default=1.0),
        "min_p": config.number("min_p", low=0, high=1, default=0.0),
        "repetition_penalty": penalty,
    }


def choose_sampler(base: dict[str, float], given: dict[str, float | None], seed: int | None) -> Sampler:
    """A sampler from `base`, with the settings of `given` that are not None in their place."""
    chosen = base | {name: value for name, value in given.items() if value is not None}
    return Sampler(
        temperature=chosen.get("temperature", 0.0),
        top_k=int(chosen.get("top_k", 0)),
        top_p=chosen.get("top_p", 1.0),
        min_p=chosen.get("min_p", 0.0),
        repetition_penalty=chosen.get("repetition_penalty", 1.0),
        seed=seed,
    )
