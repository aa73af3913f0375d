"""What gives logits: the engine on a packed artifact, the torch reference on a folder, or any function.

A scorer hands out logits a few hundred rows at a time, so that a window of 2048 tokens over a vocabulary of 128,000
never stands in memory as a whole.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from agq.errors import AgqError
from agq.formats import words
from agq.text.tokenizers import TextTokenizer, load_tokenizer

if TYPE_CHECKING:
    from agq.checkpoint import Checkpoint
    from agq.recipe.pruning import PruningOptions

_PRUNED_BYTES = 512 << 20  # of logits of a pruned prompt at once: every further part computes the prompt again
_CHUNK_BYTES = 32 << 20  # logits handed out at once
_TOGETHER = 256  # tokens from which on one forward pass gains nothing by more


class Scorer(Protocol):
    """A model to evaluate.

    Attributes:
        form: "original" (unquantized folder), "quantized" (compressed-tensors folder), "packed" (artifact).
        scheme: number formats, e.g. "W4A8". kernel: what computes. vocab: columns of the logits.
        context: positions that the model was made for; None: any number. extends: whether it computes beyond that.
    """

    form: str
    scheme: str
    kernel: str
    vocab: int
    context: int | None
    extends: bool

    def logits(self, tokens: np.ndarray, first: int, count: int, rows: int) -> Iterator[np.ndarray]:
        """float32 [<= rows, vocab], in order: the logits at positions first..first+count-1 of `tokens` (int64 [n]),
        which start a new sequence. The receiver may overwrite them."""
        ...

    def tokenizer(self) -> TextTokenizer:
        """The model's tokenizer."""
        ...

    def sha256(self) -> str:
        """What the model is: of an artifact the file's SHA-256, of a folder its checkpoint's fingerprint."""
        ...

    def close(self) -> None:
        """Frees what the scorer holds."""
        ...


@runtime_checkable
class Together(Protocol):
    """What a scorer has besides if it can compute several windows in one forward pass."""

    def at_once(self, length: int) -> int:
        """How many windows of up to `length` tokens one forward pass takes."""
        ...

    def logits_of_several(self, windows: Sequence[tuple[np.ndarray, int, int]]) -> list[np.ndarray]:
        """float32 [count, vocab] of each window (tokens, first, count): what `Scorer.logits` gives for each of them."""
        ...


def default_rows(vocab: int) -> int:
    """Rows of logits to hand out at once: 32 MB of them, between 16 and 512; from 256 on whole chunks of the engine,
    which would compute a rest of a few tokens at the price of many.
    """
    rows = max(16, min(512, _CHUNK_BYTES // (4 * vocab)))
    return rows // _TOGETHER * _TOGETHER if rows >= _TOGETHER else rows


class FunctionScorer:
    """A function as a scorer: int64 tokens [n] -> logits [n, vocab] of any float type."""

    form, scheme, kernel = "function", "unknown", "function"
    context: int | None = None
    extends = True

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], vocab: int = 1) -> None:
        self.function, self.vocab = function, vocab

    def logits(self, tokens: np.ndarray, first: int, count: int, rows: int) -> Iterator[np.ndarray]:
        values = np.asarray(self.function(tokens), dtype=np.float32)
        self.vocab = values.shape[1]
        for start in range(first, first + count, rows):
            yield np.array(values[start : min(start + rows, first + count)])

    def tokenizer(self) -> TextTokenizer:
        raise AgqError("a function has no tokenizer", hint="give token ids instead of a text")

    def sha256(self) -> str:
        return ""

    def close(self) -> None:
        pass


class EngineScorer:
    """A packed artifact through the C kernels."""

    form = "packed"
    context: int | None

    def __init__(
        self,
        path: str | os.PathLike[str],
        seq_len: int | None = None,
        threads: int | None = None,
        batch: int | None = None,
    ) -> None:
        """seq_len: the longest window to come (default the model's context). batch: tokens that the kernels compute at
        once.
        """
        from agq.artifact import open_artifact

        self.path = Path(path)
        self.artifact = open_artifact(self.path)
        spec = self.artifact.spec
        self.vocab, self.context, self.extends = spec.vocab, spec.context, spec.position != "learned"
        blocks = [info for name, info in self.artifact.linears.items() if name.startswith("blocks.")]
        self.scheme = _listing(_linear_name(info) for info in blocks)
        # Sequences longer than this have other frequencies from their beginning on.
        ropes = [rope for rope in (spec.rope, spec.rope_local) if rope is not None and rope.depends_on_length]
        self._steady = min((rope.original_context for rope in ropes), default=None)
        self.layers = spec.layers
        self._threads, self._batch = threads, batch
        self._engine: Any = None
        self._length, self._slots = 0, 1
        self._open(seq_len or spec.context)

    def _open(self, length: int, slots: int = 1) -> None:
        from agq.runtime.engine import Engine

        if self._engine is not None:
            self._engine.close()
        self._engine = Engine(self.artifact, threads=self._threads, context=length, slots=slots, batch=self._batch)
        self._length, self._slots = length, slots
        kernels = Counter(plan.prefill_kernel for plan in self._engine.plan() if plan.name.startswith("blocks."))
        self.kernel = f"{self._engine.library.isa}: {', '.join(kernels)}"
        self.threads = self._engine.threads

    def logits(self, tokens: np.ndarray, first: int, count: int, rows: int) -> Iterator[np.ndarray]:
        if len(tokens) > self._length:
            self._open(len(tokens))
        engine = self._engine
        engine.truncate(0, 0)
        if engine.pruning is not None:
            engine.set_pruning(None)
        if self._steady is not None and len(tokens) > self._steady:
            # The frequencies depend on the length of the sequence: all of it must be computed at once.
            values = engine.forward(tokens, logits=_mask(len(tokens), first, count))
            for start in range(0, count, rows):
                yield values[start : start + rows]
            return
        if first:
            engine.forward(tokens[:first], logits="none")
        for start in range(first, first + count, rows):
            yield engine.forward(tokens[start : min(start + rows, first + count)], logits="all")

    def pruned_logits(
        self, tokens: np.ndarray, first: int, count: int, rows: int, options: PruningOptions
    ) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        """See `agq.evaluation.pruned`. The prompt is one batch; where its logits take more than 512 MB it is computed
        again for each further part."""
        if self._engine.batch < len(tokens):
            self._batch = len(tokens)
            self._open(max(len(tokens), self._length))
        engine = self._engine
        engine.truncate(0, 0)
        engine.set_pruning(options, protect_wanted=False)
        most = max(rows, _PRUNED_BYTES // (4 * self.vocab))

        def part(start: int) -> np.ndarray:
            engine.truncate(0, 0)
            return engine.forward(tokens, logits=_mask(len(tokens), start, min(most, first + count - start)))

        values = part(first)
        kept = engine.survivors()

        def pieces() -> Iterator[np.ndarray]:
            block = values
            for start in range(first, first + count, most):
                if start > first:
                    block = part(start)
                for row in range(0, len(block), rows):
                    yield block[row : row + rows]

        return kept, pieces()

    def at_once(self, length: int) -> int:
        """How many windows of up to `length` tokens one forward pass takes (see `logits_of_several`): short ones alone
        would leave the kernels for many tokens half empty.
        """
        count = max(_TOGETHER // length, 1)
        if self._steady is not None and length > self._steady:
            count = 1
        if count > self._slots or length > self._length:
            self._open(max(length, self._length if count == 1 else 0), count)
        return count

    def logits_of_several(self, windows: Sequence[tuple[np.ndarray, int, int]]) -> list[np.ndarray]:
        """One forward pass over several windows (tokens, first, count), a sequence of the engine each: what `logits`
        gives for each of them, bit for bit.
        """
        for slot in range(len(windows)):
            self._engine.truncate(slot, 0)
        tokens = np.concatenate([window for window, _, _ in windows])
        slots = np.repeat(np.arange(len(windows)), [len(window) for window, _, _ in windows])
        wanted = np.concatenate([_mask(len(window), first, count) for window, first, count in windows])
        rows = self._engine.forward(tokens, slot=slots, logits=wanted)
        return np.split(rows, np.cumsum([count for _, _, count in windows])[:-1])

    def tokenizer(self) -> TextTokenizer:
        return TextTokenizer.from_artifact(self.artifact)

    def sha256(self) -> str:
        from agq.files import sha256_file

        return sha256_file(self.path)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


class ReferenceScorer:
    """A Hugging Face folder, quantized or not, through the torch reference in float32."""

    context: int | None

    def __init__(
        self,
        path: str | os.PathLike[str],
        fake_quant: bool = True,
        threads: int | None = None,
        device: str | None = None,
    ) -> None:
        """fake_quant: False computes a quantized folder with its dequantized weights alone. device: "cpu", "cuda"; by
        default CUDA where there is one that the model fits on."""
        import torch

        from agq.checkpoint import open_checkpoint
        from agq.reference.decoder import ReferenceModel
        from agq.system.devices import torch_device

        if threads is not None:
            torch.set_num_threads(threads)
        self.threads = torch.get_num_threads()
        self._torch = torch
        self.path = Path(path)
        self.checkpoint: Checkpoint = open_checkpoint(path)
        checkpoint = self.checkpoint
        self._model = ReferenceModel(checkpoint, fake_quant, device=torch_device(device or _device(checkpoint)))
        spec = self._model.spec
        self.vocab, self.context, self.extends = spec.vocab, spec.context, spec.position != "learned"
        self.layers = spec.layers
        quantized = checkpoint.quantization is not None and bool(checkpoint.quantization.modules())
        self.form = "quantized" if quantized else "original"
        self.scheme = _folder_scheme(checkpoint)
        suffix = ", fake quantization" if quantized and fake_quant else ""
        self.kernel = f"torch {torch.__version__.split('+')[0]} reference, float32{suffix}"
        if self._model.device.type != "cpu":
            self.kernel += f", {self._model.device.type}"

    def logits(self, tokens: np.ndarray, first: int, count: int, rows: int) -> Iterator[np.ndarray]:
        ids = self._torch.as_tensor(tokens, dtype=self._torch.int64).reshape(1, -1)
        yield from self._head(self._model.hidden(ids)[0, first : first + count], rows)

    def _head(self, hidden: Any, rows: int) -> Iterator[np.ndarray]:
        model = self._model
        with self._torch.inference_mode():
            for start in range(0, len(hidden), rows):
                part = hidden[start : start + rows]
                yield model.scores(part).cpu().numpy()

    def pruned_logits(
        self, tokens: np.ndarray, first: int, count: int, rows: int, options: PruningOptions
    ) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        """See `agq.evaluation.pruned`."""
        from agq.reference.pruning import pruned_states

        ids = self._torch.as_tensor(tokens, dtype=self._torch.int64)
        states = pruned_states(self._model, ids, options, protect_wanted=False)
        return states.kept.numpy(), self._head(states.hidden[first : first + count], rows)

    def tokenizer(self) -> TextTokenizer:
        return load_tokenizer(self.checkpoint)

    def sha256(self) -> str:
        return str(self._model.checkpoint.fingerprint())

    def close(self) -> None:
        if hasattr(self, "_model"):
            del self._model


def open_scorer(
    path: str | os.PathLike[str],
    seq_len: int | None = None,
    threads: int | None = None,
    batch: int | None = None,
    fake_quant: bool = True,
    device: str | None = None,
) -> Scorer:
    """The scorer of a file (packed artifact, or GGUF, which is packed into the cache) or folder.

    Args:
        seq_len: the longest window to come. threads: default as engine or torch choose. batch: tokens computed at once
            (artifact).
        fake_quant, device: see ReferenceScorer; the kernels of an artifact run on the processor.

    Raises:
        AgqError: no such path, or not a model.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return ReferenceScorer(path, fake_quant, threads, device)
    if not path.exists():
        raise AgqError(f"no such file or folder: `{path}`")
    from agq.reporting import console
    from agq.runtime.cache import packed_gguf

    return EngineScorer(packed_gguf(path, console.say), seq_len, threads, batch)


def _device(checkpoint: Checkpoint) -> str:
    """Where the reference computes a model unless it is told."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    spec = checkpoint.spec
    weights = (
        sum(linear.out_features * linear.in_features for linear in checkpoint.parts.all_linears())
        + spec.vocab * spec.embed_dim
    )
    # Float32, and as much again for what is computed.
    return "cuda" if 8 * weights < torch.cuda.mem_get_info()[0] else "cpu"


def _mask(n: int, first: int, count: int) -> np.ndarray:
    mask = np.zeros(n, dtype=bool)
    mask[first : first + count] = True
    return mask


def _linear_name(info: Any) -> str:
    if not info.quantized:
        return str(info.dtype).upper()
    return words.name(info.format.bits, info.activations.bits, not info.asym)


def _folder_scheme(checkpoint: Checkpoint) -> str:
    from agq.checkpoint.compressed_tensors import activation_scheme

    names = []
    for index in range(checkpoint.spec.layers):
        for linear in checkpoint.parts.block(index).linears.values():
            found = checkpoint.quantization.scheme(linear.module) if checkpoint.quantization else None
            if found is None:
                names.append(checkpoint.dtype(linear.weight))
            else:
                bits = activation_scheme(checkpoint, linear.module).bits
                names.append(words.name(found.bits, bits, found.symmetric))
    return _listing(names)


def _listing(names: Any) -> str:
    """ "W4A8", or "W4A8 (30), W8A8 (6)" where linears differ, the most frequent first."""
    counts = Counter(names).most_common()
    if len(counts) == 1:
        return str(counts[0][0])
    return ", ".join(f"{name} ({count})" for name, count in counts)
