"""One GGUF file in agq and in llama.cpp: prefill and decode, measured alternately.

    python benchmarks/gguf_speed.py model.gguf --threads 2 --prefill 512 --decode 64

Both programs run in this process, one after the other, round by round; `ratio` is agq's speed over llama.cpp's, the
median of the rounds. agq packs the file first, as `agq run` does; that takes its time once and is told apart.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import Foreign, Timed, alternate, parser, ratio, report
from llama_library import LlamaCpp, find_library

from agq.artifact import open_artifact
from agq.artifact.pack import pack


def prefill(model: LlamaCpp, tokens: int) -> float:
    """Tokens per second of a prompt, of which the last token's logits are wanted."""
    ids = np.random.default_rng(0).integers(0, model.vocab, tokens)
    model.clear()
    start = Timed.clock()
    model.forward(ids)
    return tokens / (Timed.clock() - start)


def decode(model: LlamaCpp, tokens: int) -> float:
    """Tokens per second, one after the other, from an empty sequence on."""
    ids = np.random.default_rng(1).integers(0, model.vocab, tokens)
    model.clear()
    start = Timed.clock()
    for index in range(tokens):
        model.forward(ids[index : index + 1])
    return tokens / (Timed.clock() - start)


def main() -> None:
    """The measurement."""
    found: argparse.ArgumentParser = parser(__doc__ or "")
    found.add_argument("model", type=Path, help="a GGUF file")
    found.add_argument("--library", help="libllama; default: that of an installed package")
    found.add_argument("--prefill", "-p", type=int, default=256, help="tokens of the prompt (default 256)")
    found.add_argument("--decode", "-n", type=int, default=64, help="tokens to generate (default 64)")
    found.add_argument("--threads", "-t", type=int, default=1, help="of both programs (default 1)")
    found.add_argument("--act-bits", type=int, default=None, help="inputs of agq's linears: 8 (default) or 16")
    found.add_argument("--isa", help="agq's kernel library; default AGQ_ISA, else the best")
    found.add_argument(
        "--cpu-time", action="store_true", help="processor time instead of elapsed time; one thread only"
    )
    args = found.parse_args()
    Timed.clock = staticmethod(time.process_time if args.cpu_time else time.perf_counter)
    if args.cpu_time and args.threads != 1:
        found.error("--cpu-time counts one thread only")
    foreign, rows = Foreign(), []
    peer = LlamaCpp(find_library(args.library), args.model, max(args.prefill, args.decode), 512, args.threads)
    with tempfile.TemporaryDirectory(prefix="agq-gguf-") as folder:
        packed = pack(args.model, Path(folder) / "packed", act_bits=args.act_bits)
        artifact = open_artifact(packed.path)
        for kind, tokens, theirs in (("prefill", args.prefill, prefill), ("decode", args.decode, decode)):
            timed = Timed(artifact, kind, tokens, args.threads, isa=args.isa)
            theirs(peer, tokens)  # warm-up
            samples = alternate({"agq": timed, "llama.cpp": lambda run=theirs, n=tokens: run(peer, n)}, args.rounds)
            timed.close()
            row: dict[str, Any] = {"test": f"{kind} {tokens}", "threads": args.threads}
            row |= {f"{name} tokens/s": statistics.median(values) for name, values in samples.items()}
            rows.append(row | {"ratio": ratio(samples["agq"], samples["llama.cpp"]), "samples": samples})
    peer.close()
    claim = f"{args.model.name} in agq ({', '.join(packed.schemes)}) and llama.cpp"
    report(args, claim, rows, foreign, packing=f"{packed.seconds:.1f} s, {packed.bytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
