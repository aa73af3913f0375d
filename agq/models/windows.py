"""Layers whose queries see a window of the latest tokens only, as config.json names them."""

from agq.errors import AgqError
from agq.models.config import CONTEXT, Config

FULL, SLIDING = "full_attention", "sliding_attention"


def window_size(config: Config, default: int | None) -> int | None:
    """`sliding_window`; None: there is none. default: of a config.json that does not name it; `null` means none."""
    if config.values.get("sliding_window") is None:
        return default if config.silent("sliding_window") else None
    return config.integer("sliding_window", **CONTEXT)


def sliding_layers(config: Config, layers: int, usual: list[bool]) -> tuple[int, ...]:
    """Indices of the layers with a window. usual: for each layer, where config.json has no `layer_types`.

    Raises AgqError for a list of another length, or a type of layers that agq does not know.
    """
    types = config.values.get("layer_types")
    if types is None:
        return tuple(index for index, slides in enumerate(usual) if slides)
    if not isinstance(types, list) or len(types) < layers:
        raise AgqError(f"{config.where}: `layer_types` is not a list with an entry for each of {layers} layers")
    for found in types[:layers]:
        if found not in (FULL, SLIDING):
            raise AgqError(
                f"{config.where}: layers of type `{found}` are not supported", hint=f"supported: {FULL}, {SLIDING}"
            )
    return tuple(index for index, found in enumerate(types[:layers]) if found == SLIDING)


def windows(config: Config, window: int | None, layers: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """`window` and `window_layers` of a ModelSpec. AgqError for layers with a window of unknown size."""
    if layers and window is None:
        raise AgqError(f"{config.where} has layers with a sliding window, and no `sliding_window`")
    return (window or 0, layers) if layers else (0, ())
