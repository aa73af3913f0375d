"""The scorer of Hugging Face folders, and of GGUF files as floats: the torch reference."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agq.evaluation.scorers import listing
from agq.formats import words
from agq.text.tokenizers import TextTokenizer, load_tokenizer

if TYPE_CHECKING:
    from agq.checkpoint import Checkpoint
    from agq.recipe.pruning import PruningOptions


class ReferenceScorer:
    """A Hugging Face folder, quantized or not, or the floats of a GGUF file, through the torch reference in float32."""

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

        from agq.checkpoint.effective import effective_bits
        from agq.gguf.opening import open_source
        from agq.reference.decoder import ReferenceModel
        from agq.system.devices import torch_device
        from agq.system.torch_threads import set_threads

        if threads is not None:
            set_threads(threads)
        self.threads = torch.get_num_threads()
        self._torch = torch
        self.path = Path(path)
        self.checkpoint: Checkpoint = open_source(path, floats=True)
        checkpoint = self.checkpoint
        self._model = ReferenceModel(checkpoint, fake_quant, device=torch_device(device or _device(checkpoint)))
        spec = self._model.spec
        self.vocab, self.context, self.extends = spec.vocab, spec.context, spec.position != "learned"
        self.layers = spec.layers
        quantized = checkpoint.quantization is not None and bool(checkpoint.quantization.modules())
        self.form = "quantized" if quantized else "original"
        self.scheme = _folder_scheme(checkpoint)
        self.activation_bits = effective_bits(checkpoint) if fake_quant else None
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
    return listing(names)
