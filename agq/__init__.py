"""agq: quantize language models to INT4 and run them on CPUs.

`load` opens a model that answers prompts. The other functions have the names of the subcommands and their arguments.
All are imported on first use, so that `import agq` is cheap and needs neither PyTorch nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agq.version import __version__

__all__ = [
    "AgqError",
    "Model",
    "UsageError",
    "__version__",
    "calibrate",
    "compare",
    "evaluate_perplexity",
    "load",
    "pack",
    "quantize",
]

if TYPE_CHECKING:
    from agq.artifact.pack import pack
    from agq.calibration.calibrate import calibrate
    from agq.comparison import compare
    from agq.errors import AgqError, UsageError
    from agq.evaluation import evaluate_perplexity
    from agq.quantization.quantize import quantize
    from agq.runtime.model import Model, load

_WHERE = {
    "AgqError": "agq.errors",
    "UsageError": "agq.errors",
    "calibrate": "agq.calibration.calibrate",
    "compare": "agq.comparison",
    "quantize": "agq.quantization.quantize",
    "pack": "agq.artifact.pack",
    "load": "agq.runtime.model",
    "Model": "agq.runtime.model",
    "evaluate_perplexity": "agq.evaluation",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'agq' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
