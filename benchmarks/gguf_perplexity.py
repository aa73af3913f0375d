"""The same GGUF file in agq and in llama.cpp: perplexity on the same windows, and greedy texts.

    python benchmarks/gguf_perplexity.py model.gguf --data wikitext2 --seq-len 512 --windows 20
    python benchmarks/gguf_perplexity.py model.gguf --data text.txt --texts 10

Both programs get the same token ids, those of the file's tokenizer in agq. The file is packed with 8-bit inputs of
linears in groups of 32 columns, as llama.cpp quantizes them, and with float ones (`--act-bits`). Greedy texts begin
where windows of the data do.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import Foreign, parser, report
from llama_library import LlamaCpp, find_library

from agq.artifact.pack import pack
from agq.evaluation.engine_scorer import EngineScorer
from agq.evaluation.evaluate import make_plan
from agq.evaluation.perplexity import compare_plan
from agq.runtime.engine import Engine
from agq.text.tokenizers import TextTokenizer

_PROMPT = 16  # tokens before a greedy text


class LlamaScorer:
    """llama.cpp as a scorer (agq.evaluation.scorers.Scorer)."""

    form, scheme, kernel = "GGUF", "as the file", "llama.cpp"
    context: int | None = None
    extends = True

    def __init__(self, library: Path, model: Path, seq_len: int, threads: int) -> None:
        self.model = LlamaCpp(library, model, seq_len, threads=threads)
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


def greedy(forward: Any, ids: np.ndarray, count: int) -> list[int]:
    """The likeliest `count` tokens after a prompt. forward: ids -> logits of the last one."""
    found: list[int] = []
    logits = forward(ids)
    while len(found) < count:
        found.append(int(np.asarray(logits).argmax()))
        logits = forward(np.array(found[-1:]))
    return found


def texts(engine: Engine, theirs: LlamaScorer, windows: list[Any], count: int) -> list[int]:
    """Of each window: how many greedy tokens after its beginning are the same in both programs, up to `count`."""
    found = []
    for window in windows:
        prompt = np.asarray(window.inputs[:_PROMPT])
        engine.truncate(0, 0)
        theirs.model.clear()
        a, b = greedy(engine.forward, prompt, count), greedy(theirs.model.forward, prompt, count)
        same = [x == y for x, y in zip(a, b, strict=True)]
        found.append(same.index(False) if False in same else count)
    return found


def main() -> None:
    """The measurement."""
    found: argparse.ArgumentParser = parser(__doc__ or "", rounds=False)
    found.add_argument("model", type=Path, help="a GGUF file")
    found.add_argument("--library", help="libllama; default: that of an installed package")
    found.add_argument("--data", default="wikitext2", help="as of `agq eval-ppl` (default wikitext2)")
    found.add_argument("--method", default="gptq", help="as of `agq eval-ppl`; llama.cpp: BOS before each window")
    found.add_argument("--seq-len", type=int, default=512, help="tokens of a window (default 512)")
    found.add_argument("--windows", type=int, default=8, help="windows (default 8)")
    found.add_argument("--texts", type=int, default=0, help="greedy texts to compare (default none)")
    found.add_argument("--tokens", type=int, default=32, help="tokens of a greedy text (default 32)")
    found.add_argument("--threads", "-t", type=int, default=1, help="of both programs (default 1)")
    found.add_argument("--act-bits", default="8,16", help="inputs of agq's linears, several by comma (default 8,16)")
    found.add_argument("--kv-bits", type=int, default=None, help="of agq's KV cache (default: as packed)")
    args = found.parse_args()
    foreign, rows = Foreign(), []
    theirs = LlamaScorer(find_library(args.library), args.model, args.seq_len, args.threads)
    with tempfile.TemporaryDirectory(prefix="agq-gguf-") as folder:
        for bits in map(int, args.act_bits.split(",")):
            path = Path(folder) / f"a{bits}"
            pack(args.model, path, act_bits=bits, kv_bits=args.kv_bits)
            ours = EngineScorer(path, args.seq_len, args.threads)
            plan, text = make_plan(args.data, ours.tokenizer(), args.method, args.seq_len, max_windows=args.windows)
            result, base, divergence = compare_plan(ours, theirs, plan, args.method)
            row: dict[str, Any] = {
                "inputs": bits,
                "agq": result.ppl,
                "llama.cpp": base.ppl,
                "ratio": f"{divergence.ratio:.4f} +- {divergence.ratio_stderr:.4f}",
                "KL": f"{divergence.kl:.5f}",
                "same top": f"{divergence.same_top1:.4f}",
            }
            if args.texts:
                engine = Engine(ours.artifact, threads=args.threads, context=args.seq_len)
                lengths = texts(engine, theirs, list(plan.windows[: args.texts]), args.tokens)
                row["same greedy tokens"] = " ".join(map(str, lengths))
            rows.append(row)
            ours.close()
    theirs.close()
    report(args, f"perplexity of {args.model.name} in agq and llama.cpp, {text.label}", rows, foreign)


if __name__ == "__main__":
    main()
