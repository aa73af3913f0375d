"""One way to open a model for evaluation: a packed file, a GGUF file or a folder."""

import os
from pathlib import Path

from agq.errors import AgqError
from agq.evaluation.engine_scorer import EngineScorer
from agq.evaluation.reference_scorer import ReferenceScorer
from agq.evaluation.scorers import Scorer
from agq.gguf.files import is_gguf
from agq.reporting import console
from agq.runtime.cache import packed_gguf


def open_scorer(
    path: str | os.PathLike[str],
    seq_len: int | None = None,
    threads: int | None = None,
    batch: int | None = None,
    fake_quant: bool = True,
    device: str | None = None,
    floats: bool = False,
) -> Scorer:
    """The scorer of a file (packed artifact, or GGUF, which is packed into the cache) or folder.

    Args:
        seq_len: the longest window to come. threads: default as engine or torch choose. batch: tokens computed at once
            (artifact).
        fake_quant, device: see ReferenceScorer; the kernels of an artifact run on the processor.
        floats: a GGUF file's weights are computed as floats by ReferenceScorer, as when it is quantized.

    Raises:
        AgqError: no such path, or not a model.
    """
    path = Path(path).expanduser()
    if path.is_dir() or (floats and is_gguf(path)):
        return ReferenceScorer(path, fake_quant, threads, device)
    if not path.exists():
        raise AgqError(f"no such file or folder: `{path}`")
    return EngineScorer(packed_gguf(path, console.say), seq_len, threads, batch)
