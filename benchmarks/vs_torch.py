"""agq against PyTorch in 16 and 32 bits (transformers) on the same weights, measured alternately: what quantizing gains
over not doing it.

    python benchmarks/vs_torch.py --schemes W4A8,W8A8 --dtypes bfloat16,float32 --threads 1,2

One forward pass of --prefill tokens; --decode passes of one token over a growing KV cache. The 1.1-billion shape takes
4.4 GB in float32; speed does not depend on the values.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from common import Foreign, Timed, alternate, artifact, checkpoint, model_parser, ratio, report, workplace


class TorchModel:
    """A transformers model in one number format."""

    def __init__(self, folder: Path, dtype: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def test(self, kind: str, tokens: int, threads: int) -> float:
        """Tokens per second."""
        torch = self.torch
        torch.set_num_threads(threads)
        ids = (torch.arange(tokens) % 97 + 2).reshape(1, -1)
        with torch.inference_mode():
            if kind == "prefill":
                start = time.perf_counter()
                self.model(ids, logits_to_keep=1)
            else:
                cache = self.model(ids[:, :1], use_cache=True).past_key_values
                start = time.perf_counter()
                for index in range(tokens):
                    cache = self.model(ids[:, index : index + 1], past_key_values=cache, use_cache=True).past_key_values
        return tokens / (time.perf_counter() - start)


def main() -> None:
    options = model_parser(__doc__, clock=False)
    options.add_argument("--schemes", default="W4A8", help="ours: W4A8, W4A4, W8A8 by comma (default W4A8)")
    options.add_argument("--dtypes", default="bfloat16,float32", help="of torch (default bfloat16,float32)")
    options.add_argument("-t", "--threads", default="1,2", help="several by comma (default 1,2)")
    options.add_argument("-p", "--prefill", type=int, default=512, help="tokens (default 512)")
    options.add_argument("-n", "--decode", type=int, default=16, help="tokens (default 16)")
    args = options.parse_args()
    with workplace(args) as work:
        foreign = Foreign()
        rows = [row for dtype in args.dtypes.split(",") for row in compare(args, work, dtype)]
        report(args, "agq over PyTorch, tokens per second", rows, foreign)


def compare(args: argparse.Namespace, work: Path, dtype: str) -> list[dict[str, Any]]:
    """One row for each scheme, test and number of threads."""
    import torch

    other, rows = TorchModel(checkpoint(args, work), dtype), []
    other.test("prefill", 8, 1)  # warm-up
    for threads in map(int, args.threads.split(",")):
        for kind, tokens in (("prefill", args.prefill), ("decode", args.decode)):
            ours = {
                scheme: Timed(artifact(args, work, scheme), kind, tokens, threads, isa=args.isa)
                for scheme in args.schemes.split(",")
            }
            theirs = {dtype: lambda kind=kind, tokens=tokens, threads=threads: other.test(kind, tokens, threads)}
            samples = alternate({**ours, **theirs}, args.rounds)
            for scheme, test in ours.items():
                rows.append({
                    "isa": test.engine.library.isa, "threads": threads, "test": f"{kind} {tokens}", "scheme": scheme,
                    f"torch {torch.__version__.split('+')[0]}": dtype, "agq tok/s": statistics.median(samples[scheme]),
                    "torch tok/s": statistics.median(samples[dtype]), "ratio": ratio(samples[scheme], samples[dtype]),
                    "samples": {"agq": samples[scheme], "torch": samples[dtype]},
                })  # fmt: skip
                test.close()
    return rows


if __name__ == "__main__":
    main()
