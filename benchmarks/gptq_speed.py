"""GPTQ of one decoder block of LLaMA-7B's shape: seconds, and the share of torch's matrix product speed that it
reaches.

    python benchmarks/gptq_speed.py --samples 128 --seq-len 2048       what GPTQ's authors calibrate with
    python benchmarks/gptq_speed.py --scale small      less: hidden 1024, 16 windows of 512 tokens

`floor` is the time that the operations alone would take at the speeds of torch's own products, which are measured
before and after: calibration windows through the block (the feed-forward's first half twice), sums of x x^T,
Cholesky factors and inverse in float64, the columns' updates, the losses. A CUDA device is used where there is one.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import Foreign, parser, report

SCALES = {
    "7b": (4096, 11008, 32, 128, 128, 2048),
    "small": (1024, 2816, 8, 128, 16, 512),
    "tiny": (128, 384, 2, 64, 2, 64),
}
FIELDS = ("hidden", "ffn", "heads", "head_dim", "samples", "seq_len")


def operations(hidden: int, ffn: int, heads: int, head_dim: int, samples: int, seq_len: int) -> tuple[float, float]:
    """(float32, float64) operations, two for a multiply-accumulate."""
    tokens, wide = samples * seq_len, heads * head_dim
    attention_weights, up, down = 4 * hidden * wide, 2 * hidden * ffn, hidden * ffn
    forward = 2.0 * tokens * (attention_weights + 2 * up + down + wide * seq_len)  # causal: half of 4 n^2 d
    hessians = float(tokens) * (2 * hidden**2 + wide**2 + ffn**2)  # one triangle
    solved = [(3 * wide, hidden), (hidden, wide), (2 * ffn, hidden), (hidden, ffn)]
    updates = sum(float(rows) * columns**2 for rows, columns in solved)
    losses = sum(4.0 * rows * columns**2 for rows, columns in solved)
    factors = sum(4 / 3 * float(columns) ** 3 for _, columns in solved)
    return forward + hessians + updates + losses, factors


def product_speed(dtype: Any, device: str, size: int) -> float:
    """Operations per second of torch's product of two square matrices: the best of some."""
    import torch

    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        c = a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2.0 * size**3 / (time.perf_counter() - start))
    del c
    return best


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--scale", choices=SCALES, default="7b")
    options.add_argument("--samples", type=int, help="calibration windows")
    options.add_argument("--seq-len", type=int, help="tokens of each")
    options.add_argument("-t", "--threads", type=int, help="of torch; default its own")
    options.add_argument("--scheme", default="W4A8")
    options.add_argument("--device", choices=("cpu", "cuda"), help="default CUDA where there is one")
    options.set_defaults(rounds=1)
    args = options.parse_args()
    import torch
    from make_checkpoint import make

    import agq
    from agq.reporting.progress import Progress
    from agq.system.devices import torch_device

    class Times(Progress):
        """Seconds of each block."""

        def __init__(self) -> None:
            self.seconds: list[float] = []

        def block(self, index: int, seconds: float, resumed: bool) -> None:
            self.seconds.append(seconds)

    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch_device(args.device).type
    sizes = dict(zip(FIELDS, SCALES[args.scale], strict=True))
    sizes |= {name: value for name in ("samples", "seq_len") if (value := getattr(args, name)) is not None}
    foreign = Foreign()
    times = Times()
    square = min(2048, sizes["hidden"])
    with tempfile.TemporaryDirectory(prefix="agq-bench-") as name:
        folder = Path(name)
        make(folder / "block", "llama-7b-block", hidden=sizes["hidden"], ffn=sizes["ffn"], heads=sizes["heads"],
             kv_heads=sizes["heads"], head_dim=sizes["head_dim"], vocab=1024,
             context=max(sizes["seq_len"], 64))  # fmt: skip
        count = 40 * sizes["samples"] * sizes["seq_len"]
        letters = np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz "), count)
        (folder / "text.txt").write_text("".join(letters))
        speeds = []
        for round_ in range(args.rounds):
            before = [product_speed(kind, device, square) for kind in (torch.float32, torch.float64)]
            agq.quantize(
                folder / "block", folder / f"out{round_}", scheme=args.scheme, method="gptq",
                data=str(folder / "text.txt"), samples=sizes["samples"], seq_len=sizes["seq_len"],
                progress=times, device=device,
            )  # fmt: skip
            after = [product_speed(kind, device, square) for kind in (torch.float32, torch.float64)]
            speeds.append([max(pair) for pair in zip(before, after, strict=True)])
    single, double = operations(**sizes)
    rows = []
    for seconds, (fast, slow) in zip(times.seconds, speeds, strict=True):
        floor = single / fast + double / slow
        rows.append({
            "device": device, "threads": torch.get_num_threads(),
            **{{"samples": "windows"}.get(key, key): value for key, value in sizes.items()},
            "seconds": seconds, "floor s": floor, "share of torch's speed": floor / seconds,
            "GFLOPS f32": 1e-9 * fast, "GFLOPS f64": 1e-9 * slow,
        })  # fmt: skip
    report(args, "GPTQ of one decoder block", rows, foreign)


if __name__ == "__main__":
    main()
