#!/usr/bin/env python3
"""Which models fit into the memory of which Raspberry Pi: computed from their shapes, as a table in Markdown.

    python3 scripts/fits.py

What is added up: the packed file at W4A8, the 8-bit KV cache of 2048 tokens, the workspace of a pass of 256 tokens, and
half a gigabyte for the system and Python. Nothing of it was measured on a Raspberry Pi; tests/docs/test_fits.py
compares the size of the file with that of a real one. 1 GB is 10^9 bytes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agq.formats.cache import DEFAULT_CACHE
from agq.formats.groups import fit

SYSTEM = 500_000_000
TOKENS = 2048
PASS = 256
# Bytes of tokenizer.json for an entry of the vocabulary: 99 for the demo model, 72 for SmolLM2.
TOKENIZER = 100
PIS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Shape:
    """A model's sizes, as its config.json has them. matrices: of the feed-forward part, 3 (gate, up, down) or 2."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    matrices: int = 3
    tied: bool = True

    @property
    def block(self) -> int:
        """Weights of a block's linears."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return attention + self.matrices * self.hidden * self.ffn

    @property
    def parameters(self) -> int:
        """Weights of the model as it comes; of a tied one embedding and head count once."""
        return self.layers * self.block + (1 if self.tied else 2) * self.vocab * self.hidden

    @property
    def file(self) -> int:
        """Bytes of the packed file: 4-bit codes with a bf16 scale for a group; embedding and head, which rotations
        part, with 8 bits and a scale (4 and 2 bytes) for a row; float32 norms, two for a block and the last; the
        tokenizer."""
        group = fit((self.hidden, self.heads * self.head_dim, self.ffn)).columns(self.hidden)
        blocks = self.layers * self.block * (4 + 16 / group) / 8
        tables = self.vocab * (2 * self.hidden + 4 + 2)
        return round(blocks) + tables + 4 * self.hidden * (2 * self.layers + 1) + TOKENIZER * self.vocab

    @property
    def cache(self) -> int:
        """Bytes of keys and values."""
        return TOKENS * self.layers * self.kv_heads * DEFAULT_CACHE.head_bytes(self.head_dim)

    @property
    def workspace(self) -> int:
        """Bytes of a pass: hidden states, their norms and the feed-forward's inner layer in float32; its codes of 8
        bits."""
        return PASS * (4 * (2 * self.hidden + self.ffn) + self.ffn)

    @property
    def memory(self) -> int:
        """Bytes that a machine must have."""
        return self.file + self.cache + self.workspace + SYSTEM


MODELS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Shape(576, 30, 9, 3, 64, 1536, 49152),
    "HuggingFaceTB/SmolLM2-360M-Instruct": Shape(960, 32, 15, 5, 64, 2560, 49152),
    "bigscience/bloom-560m": Shape(1024, 24, 16, 16, 64, 4096, 250880, matrices=2),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": Shape(2048, 22, 32, 4, 64, 5632, 32000, tied=False),
    "meta-llama/Llama-3.2-1B-Instruct": Shape(2048, 16, 32, 8, 64, 8192, 128256),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": Shape(2048, 24, 32, 32, 64, 8192, 49152),
    "facebook/opt-2.7b": Shape(2560, 32, 32, 32, 80, 10240, 50272, matrices=2),
    "meta-llama/Llama-3.2-3B-Instruct": Shape(3072, 28, 24, 8, 128, 8192, 128256),
    "meta-llama/Llama-2-7b-chat-hf": Shape(4096, 32, 32, 32, 128, 11008, 32000, tied=False),
    "meta-llama/Llama-3.1-8B-Instruct": Shape(4096, 32, 32, 8, 128, 14336, 128256, tied=False),
    "meta-llama/Llama-2-13b-chat-hf": Shape(5120, 40, 40, 40, 128, 13824, 32000, tied=False),
}


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def table() -> list[str]:
    """The lines of the table."""
    lines = [
        f"| model | parameters | file | cache | in memory | {' | '.join(f'{pi} GB' for pi in PIS)} |",
        f"|---|--:|--:|--:|--:|{':-:|' * len(PIS)}",
    ]
    for name, shape in MODELS.items():
        parameters = f"{shape.parameters / 1e9:.2f} B" if shape.parameters >= 1e9 else f"{shape.parameters / 1e6:.0f} M"
        cells = [name, parameters, size(shape.file), size(shape.cache), size(shape.memory)]
        cells += ["yes" if shape.memory <= pi * 1e9 else "-" for pi in PIS]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
