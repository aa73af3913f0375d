#!/usr/bin/env python3
"""Which models fit into the memory of which Raspberry Pi: computed from their shapes, as a table in Markdown.

    python3 scripts/fits.py
    python3 scripts/fits.py --measure FILE ...

What `agq run` takes is the packed file at W4A8, the 8-bit KV cache of 2048 tokens, the workspace of a pass of 256
tokens, and Python with the tokenizer. The machine needs an allowance for its system besides. --measure compares this
sum with the largest memory (VmHWM) of a real `agq run` of packed files that fills the cache; tests/docs/test_fits.py
does so with a small one. Nothing of it was measured on a Raspberry Pi. 1 GB is 10^9 bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agq.formats.cache import DEFAULT_CACHE
from agq.formats.groups import fit
from agq.planning.sizes import ENTRY_BYTES, PROCESS_BYTES

ROOT = Path(__file__).resolve().parent.parent
# An allowance for Raspberry Pi OS Lite without a desktop. What the graphics part keeps is the difference between a
# board's 2^30 bytes and our 10^9.
SYSTEM = 300_000_000
TOKENS = 2048
PASS = 256
# Bytes of tokenizer.json for an entry of the vocabulary: 99 for the demo model, 72 for SmolLM2.
TOKENIZER = 100
PIS = (1, 2, 4, 8)


def in_memory(file: int, cache: int, workspace: int, entries: int) -> int:
    """Bytes of `agq run` with a full cache, of the bytes of file, cache and workspace. entries: of the tokenizer, its
    merges too."""
    return file + cache + workspace + PROCESS_BYTES + ENTRY_BYTES * entries


@dataclass(frozen=True)
class Shape:
    """A model's sizes, as its config.json has them. matrices: of the feed-forward part, 3 (gate, up, down) or 2.
    merges: of the tokenizer; None: as many as entries, which is about right for byte-level ones."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    matrices: int = 3
    tied: bool = True
    merges: int | None = None

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
    def one_table(self) -> bool:
        """Whether embedding and head share a table when the model is rotated (agq/checkpoint/head_matrix.py): tied ones
        with RMS norms, which are those with gates."""
        return self.tied and self.matrices == 3

    @property
    def file(self) -> int:
        """Bytes of the packed file: 4-bit codes with a bf16 scale for a group; embedding and head with 8 bits and a
        scale (4 and 2 bytes) for a row, or one table behind a float32 matrix; float32 norms, two for a block and the
        last; the tokenizer."""
        group = fit((self.hidden, self.heads * self.head_dim, self.ffn)).columns(self.hidden)
        blocks = self.layers * self.block * (4 + 16 / group) / 8
        tables = self.vocab * (self.hidden + 2)
        tables += 4 * self.hidden**2 if self.one_table else self.vocab * (self.hidden + 4)
        return round(blocks) + tables + 4 * self.hidden * (2 * self.layers + 1) + TOKENIZER * self.vocab

    @property
    def cache(self) -> int:
        """Bytes of keys and values."""
        return TOKENS * self.layers * self.kv_heads * DEFAULT_CACHE.head_bytes(self.head_dim)

    @property
    def workspace(self) -> int:
        """Bytes of a pass: hidden states, their norms and the feed-forward's inner layer in float32; its codes of 8
        bits, or what a head matrix reads, whichever is more, and what that puts out."""
        matrix = 4 * self.hidden if self.tied else 0
        return PASS * (4 * (2 * self.hidden + self.ffn) + max(self.ffn, matrix) + matrix)

    @property
    def run(self) -> int:
        """Bytes of `agq run`."""
        merges = self.vocab if self.merges is None else self.merges
        return in_memory(self.file, self.cache, self.workspace, self.vocab + merges)


MODELS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Shape(576, 30, 9, 3, 64, 1536, 49152),
    "HuggingFaceTB/SmolLM2-360M-Instruct": Shape(960, 32, 15, 5, 64, 2560, 49152),
    "Qwen/Qwen2.5-0.5B-Instruct": Shape(896, 24, 14, 2, 64, 4864, 151936),
    "bigscience/bloom-560m": Shape(1024, 24, 16, 16, 64, 4096, 250880, matrices=2),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": Shape(2048, 22, 32, 4, 64, 5632, 32000, tied=False, merges=61249),
    "meta-llama/Llama-3.2-1B-Instruct": Shape(2048, 16, 32, 8, 64, 8192, 128256, merges=280147),
    "Qwen/Qwen2.5-1.5B-Instruct": Shape(1536, 28, 12, 2, 128, 8960, 151936),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": Shape(2048, 24, 32, 32, 64, 8192, 49152),
    "facebook/opt-2.7b": Shape(2560, 32, 32, 32, 80, 10240, 50272, matrices=2),
    "meta-llama/Llama-3.2-3B-Instruct": Shape(3072, 28, 24, 8, 128, 8192, 128256, merges=280147),
    "meta-llama/Llama-2-7b-chat-hf": Shape(4096, 32, 32, 32, 128, 11008, 32000, tied=False, merges=61249),
    "meta-llama/Llama-3.1-8B-Instruct": Shape(4096, 32, 32, 8, 128, 14336, 128256, tied=False, merges=280147),
    "meta-llama/Llama-2-13b-chat-hf": Shape(5120, 40, 40, 40, 128, 13824, 32000, tied=False, merges=61249),
}


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def table() -> list[str]:
    """The lines of the table of MODELS."""
    lines = [
        f"| model | parameters | file | cache | `agq run` | {' | '.join(f'{pi} GB' for pi in PIS)} |",
        f"|---|--:|--:|--:|--:|{':-:|' * len(PIS)}",
    ]
    for name, shape in MODELS.items():
        parameters = f"{shape.parameters / 1e9:.2f} B" if shape.parameters >= 1e9 else f"{shape.parameters / 1e6:.0f} M"
        cells = [name, parameters, size(shape.file), size(shape.cache), size(shape.run)]
        cells += ["yes" if shape.run + SYSTEM <= pi * 1e9 else "-" for pi in PIS]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def measure(file: Path) -> tuple[int, int]:
    """Of a packed file: bytes of `agq run` with TOKENS tokens, computed and measured. Takes the time of that prompt."""
    from agq.artifact.reader import open_artifact
    from agq.runtime.engine import Engine
    from agq.runtime.generation import load_tokenizer

    artifact = open_artifact(file)
    pieces = json.loads(bytes(artifact.document("tokenizer.json")))["model"]
    entries = len(pieces["vocab"]) + len(pieces["merges"])
    with Engine(artifact, context=TOKENS) as engine:
        computed = in_memory(file.stat().st_size, engine.kv_bytes, engine.workspace_bytes, entries)
    tokenizer = load_tokenizer(artifact)
    text = (ROOT / "demo" / "text" / "heldout.txt").read_text(encoding="utf-8")[: 8 * TOKENS]
    prompt = tokenizer.decode(tokenizer.encode(text)[: TOKENS - 64])  # decoded text may have some tokens more
    options = ["-f", "-", "--no-chat", "--context", str(TOKENS), "--max-tokens", "2", "--json"]
    command = [sys.executable, "-m", "agq", "-q", "run", str(file), *options]
    done = subprocess.run(command, cwd=ROOT, input=prompt, stdout=subprocess.PIPE, text=True, check=True).stdout
    return computed, json.loads(done.splitlines()[-1])["peak_rss_bytes"]


def measured(files: list[Path]) -> list[str]:
    """The lines of the table of files."""
    lines = ["| packed file | file | computed | measured |", "|---|--:|--:|--:|"]
    for file in files:
        lines.append(f"| {file.name} | {size(file.stat().st_size)} | {' | '.join(map(size, measure(file)))} |")
    return lines


if __name__ == "__main__":
    names = sys.argv[2:] if sys.argv[1:2] == ["--measure"] else None
    if sys.argv[1:] and not names:
        sys.exit("usage: fits.py [--measure FILE ...]")
    print("\n".join(table() if names is None else measured([Path(name).resolve() for name in names])))
