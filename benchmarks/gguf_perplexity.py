"""The same GGUF file in agq and in llama.cpp: perplexity on the same windows, and greedy texts.

    python benchmarks/gguf_perplexity.py model.gguf --data wikitext2 --seq-len 512 --windows 20
    python benchmarks/gguf_perplexity.py model.gguf --data text.txt --texts 10 --floats

Both programs get the same token ids, those of the file's tokenizer in agq. The file is packed with 8-bit inputs of
linears in groups of 32 columns, as llama.cpp quantizes them, and with float ones (`--act-bits`). Greedy texts go on
from the beginnings below.

`--floats` compares the weights alone: inputs of linears and caches are float32 in both programs. llama.cpp gets the
file's twin in F32 (gguf_floats.py), as it quantizes the inputs of quantized matrices. agq gets the file, and the twin,
which has no codes that agq might have to round. Where greedy tokens differ, the logits of both are printed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import Foreign, parser, report
from gguf_floats import write_floats
from llama_library import LlamaCpp, find_library

from agq.artifact.pack import pack
from agq.evaluation.engine_scorer import EngineScorer
from agq.evaluation.evaluate import make_plan
from agq.evaluation.perplexity import compare_plan
from agq.runtime.engine import Engine
from agq.text.tokenizers import TextTokenizer

_LONGEST = 64  # tokens of a beginning, at most
BEGINNINGS = (
    "The capital of France is",
    "Once upon a time, there was a fox who",
    "Water boils at a temperature of",
    "To make bread, first",
    "The three laws of thermodynamics say that",
    "def fibonacci(n):\n",
    "Dear Sir or Madam,\n\nI am writing to",
    "In 1969, the first",
    "The difference between a virus and a bacterium is",
    "Roses are red,",
)


class LlamaScorer:
    """llama.cpp as a scorer (agq.evaluation.scorers.Scorer)."""

    form, scheme, kernel = "GGUF", "as the file", "llama.cpp"
    context: int | None = None
    extends = True

    def __init__(self, library: Path, model: Path, context: int, threads: int, floats: bool) -> None:
        self.model = LlamaCpp(library, model, context, threads=threads, float_cache=floats)
        self.vocab = self.model.vocab

    def logits(self, tokens: np.ndarray, first: int, count: int, rows: int) -> Iterator[np.ndarray]:
        self.model.clear()
        if first:
            self.model.forward(tokens[:first])
        for start in range(first, first + count, rows):
            yield self.model.forward(tokens[start : min(start + rows, first + count)], "all")

    def tokenizer(self) -> TextTokenizer:
        raise NotImplementedError("token ids come from agq")

    def sha256(self) -> str:
        return ""

    def close(self) -> None:
        self.model.close()


def greedy(forward: Any, ids: np.ndarray, count: int) -> tuple[list[int], list[np.ndarray]]:
    """The likeliest `count` tokens after a prompt, and the logits that each was chosen by. forward: ids -> logits of
    the last one."""
    found: list[int] = []
    rows: list[np.ndarray] = []
    logits = forward(ids)
    while len(found) < count:
        rows.append(np.array(logits, dtype=np.float32).reshape(-1))
        found.append(int(rows[-1].argmax()))
        logits = forward(np.array(found[-1:]))
    return found, rows


def texts(engine: Engine, theirs: LlamaScorer, prompts: list[np.ndarray], count: int) -> tuple[list[int], list[str]]:
    """Of each prompt: how many greedy tokens behind it are the same in both programs, up to `count`; and a sentence for
    each that differs. prompts: token ids."""
    found, differences = [], []
    for index, prompt in enumerate(prompts):
        engine.truncate(0, 0)
        theirs.model.clear()
        (a, a_rows), (b, b_rows) = greedy(engine.forward, prompt, count), greedy(theirs.model.forward, prompt, count)
        same = [x == y for x, y in zip(a, b, strict=True)]
        at = same.index(False) if False in same else count
        found.append(at)
        if at < count:
            ours, other = (f"{rows[at][a[at]]:.4f} and {rows[at][b[at]]:.4f}" for rows in (a_rows, b_rows))
            differences.append(
                f"text {index + 1}, token {at + 1}: {a[at]} in agq, {b[at]} in llama.cpp; logits of the two: "
                f"{ours} in agq, {other} in llama.cpp"
            )
    return found, differences


@dataclass(frozen=True)
class Case:
    """What is compared: a file packed in some way with a file in llama.cpp.

    Attributes:
        weights: what the row calls them. source: the file that agq packs. act_bits, kv_bits: as of `pack`.
    """

    weights: str
    source: Path
    act_bits: int
    kv_bits: int | None


def compare(
    case: Case, theirs: LlamaScorer, args: argparse.Namespace, context: int, folder: Path
) -> tuple[dict[str, Any], str]:
    """A row of the table, and what the text is called."""
    packed = pack(case.source, folder / "packed", act_bits=case.act_bits, kv_bits=case.kv_bits)
    ours = EngineScorer(packed.path, args.seq_len, args.threads)
    plan, text = make_plan(args.data, ours.tokenizer(), args.method, args.seq_len, max_windows=args.windows)
    result, base, divergence = compare_plan(ours, theirs, plan, args.method)
    row: dict[str, Any] = {
        "weights": case.weights,
        "inputs": case.act_bits,
        "agq": result.ppl,
        "llama.cpp": base.ppl,
        "ratio": f"{divergence.ratio:.5f} +- {divergence.ratio_stderr:.5f}",
        "KL": f"{divergence.kl:.2g}",
        "same top": f"{divergence.same_top1:.4f}",
    }
    if args.texts:
        prompts = [ours.tokenizer().encode(text) for text in BEGINNINGS[: args.texts]]
        with Engine(ours.artifact, threads=args.threads, context=context) as engine:
            lengths, row["differences"] = texts(engine, theirs, prompts, args.tokens)
        row["same greedy tokens"] = " ".join(map(str, lengths))
    ours.close()
    Path(packed.path).unlink()
    return row, text.label


def main() -> None:
    """The measurement."""
    found: argparse.ArgumentParser = parser(__doc__ or "", rounds=False)
    found.add_argument("model", type=Path, help="a GGUF file")
    found.add_argument("--library", help="libllama; default: that of an installed package")
    found.add_argument("--data", default="wikitext2", help="as of `agq eval-ppl` (default wikitext2)")
    found.add_argument("--method", default="gptq", help="as of `agq eval-ppl`; llama.cpp: BOS before each window")
    found.add_argument("--seq-len", type=int, default=512, help="tokens of a window (default 512)")
    found.add_argument("--windows", type=int, default=8, help="windows (default 8)")
    found.add_argument("--texts", type=int, default=0, help="greedy texts to compare, at most 10 (default none)")
    found.add_argument("--tokens", type=int, default=32, help="tokens of a greedy text (default 32)")
    found.add_argument("--threads", "-t", type=int, default=1, help="of both programs (default 1)")
    found.add_argument("--act-bits", default="8,16", help="inputs of agq's linears, several by comma (default 8,16)")
    found.add_argument("--kv-bits", type=int, default=None, help="of agq's KV cache (default: as packed)")
    found.add_argument("--floats", action="store_true", help="float inputs and caches in both, llama.cpp on the twin")
    args = found.parse_args()
    foreign, rows = Foreign(), []
    context = max(args.seq_len, _LONGEST + args.tokens)
    with tempfile.TemporaryDirectory(prefix="agq-gguf-") as name:
        folder = Path(name)
        cases = [Case("the file", args.model, int(bits), args.kv_bits) for bits in args.act_bits.split(",")]
        peer = args.model
        if args.floats:
            peer = write_floats(args.model, folder / "twin.gguf")
            cases = [Case(what, source, 16, 32) for what, source in (("the file", args.model), ("its twin", peer))]
        theirs = LlamaScorer(find_library(args.library), peer, context, args.threads, args.floats)
        for case in cases:
            row, label = compare(case, theirs, args, context, folder)
            rows.append(row)
        theirs.close()
    differences = [f"{row['weights']}: {text}" for row in rows for text in row.pop("differences", [])]
    more = {"differences": differences} if args.texts else {}
    report(args, f"perplexity of {args.model.name} in agq and llama.cpp, {label}", rows, foreign, **more)


if __name__ == "__main__":
    main()
