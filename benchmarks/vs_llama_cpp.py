"""agq against llama.cpp or ik_llama.cpp on the same random weights: prefill and decode, measured alternately.

    pip install gguf
    python benchmarks/vs_llama_cpp.py --peer path/to/llama-bench --types Q4_0,Q4_K_M --threads 1,2
    python benchmarks/vs_llama_cpp.py --peer "ik=path/to/ik/llama-bench -rtr 1" --peer
    avx2:cpp=path/to/avx2-build/llama-bench

A peer is [LEVEL:][NAME=]PATH [ARGUMENTS]: its llama-bench, options that it gets beside ours, and the level (sse41,
avx2, ...) that it was built for; agq is held to the same level then (as with AGQ_ISA). llama-quantize must lie
beside llama-bench. One round runs every test of every program once; `ratio` is agq's speed over that of the peer's
type, the median of the rounds. Bandwidth and integer peak are measured beside them; `of limit` is agq's share of
what they allow, `peer GB/s` what the peer's decoding reads.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Foreign, Timed, alternate, artifact, checkpoint, model_parser, ratio, report, workplace

QUANTIZED_FROM = "F16"


@dataclass(frozen=True)
class Peer:
    """A llama-bench: name, level that it was built for (None: this machine's best), path, further options."""

    name: str
    level: str | None
    bench: Path
    options: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Peer:
        """[LEVEL:][NAME=]PATH [ARGUMENTS]; ValueError where there is no such program."""
        head, *options = shlex.split(text)
        name, _, path = head.rpartition("=")
        level, _, name = name.rpartition(":")
        if not name and ":" in path and not Path(path).exists():
            level, _, path = path.partition(":")
        found = shutil.which(path)
        if found is None:
            raise ValueError(f"{path} is not a program")
        return cls(name or "llama.cpp", level or None, Path(found).resolve(), tuple(options))

    def help(self) -> str:
        """What `llama-bench --help` says."""
        result = subprocess.run([self.bench, "--help"], capture_output=True, text=True, check=False)
        return result.stdout + result.stderr

    def command(self, model: Path, threads: int, test: tuple[str, int, int], depth_option: bool) -> list[str]:
        """Of one measurement of a test (kind, tokens, depth)."""
        kind, tokens, depth = test
        command = [str(self.bench), "-m", str(model), "-t", str(threads), "-r", "1", "-o", "json", *self.options]
        prompt, generate = (tokens, 0) if kind == "prefill" else (0, tokens)
        if depth and not depth_option:  # ik_llama.cpp: -gp PROMPT,GENERATED times the second behind the first
            if kind == "prefill":
                raise SystemExit(f"error: {self.bench} cannot measure prefill at a depth\nhint: leave out --depth")
            return [*command, "-p", "0", "-n", "0", "-gp", f"{depth},{tokens}"]
        return [*command, "-p", str(prompt), "-n", str(generate), *(["-d", str(depth)] if depth else [])]


def tokens_per_processor_s(command: list[str], tokens: int) -> float:
    """Tokens per second of processor time of the only test: what a second repetition costs more."""
    spent = []
    for repetitions in ("1", "2"):
        command[command.index("-r") + 1] = repetitions
        before = os.times()
        tokens_per_s(command)
        after = os.times()
        spent.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return tokens / max(spent[1] - spent[0], 1e-3)


def tokens_per_s(command: list[str]) -> float:
    """The only test of a run of llama-bench."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"error: {shlex.join(command)} gave {result.returncode}\n{result.stderr.strip()[-800:]}")
    found = json.loads(result.stdout[result.stdout.index("[") :])
    if len(found) != 1:
        raise SystemExit(f"error: {shlex.join(command)} printed {len(found)} tests, not one")
    return float(found[0]["avg_ts"])


def gguf_files(args: argparse.Namespace, work: Path, peer: Peer) -> dict[str, Path]:
    """Type -> file, made once. Each program quantizes for itself: their types of one name need not be the same."""
    source = checkpoint(args, work)
    base = work / f"{source.name}-f16.gguf"
    if not base.exists():
        script = Path(__file__).resolve().parent / "to_gguf.py"
        subprocess.run([sys.executable, str(script), str(source), str(base)], check=True)
    files = {}
    for kind in args.types.split(","):
        files[kind] = base if kind == QUANTIZED_FROM else work / f"{source.name}-{peer.name}-{kind.lower()}.gguf"
        if not files[kind].exists():
            quantize = args.quantize or peer.bench.parent / "llama-quantize"
            command = [str(quantize), str(base), str(files[kind]) + ".part", kind, "2"]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                raise SystemExit(f"error: {shlex.join(command)} failed\n{result.stderr.strip()[-800:]}")
            Path(str(files[kind]) + ".part").rename(files[kind])
    return files


def compare(args: argparse.Namespace, work: Path, peer: Peer, threads: int, test: tuple[str, int, int]) -> list[dict]:
    """One row for each of our schemes and the peer's types."""
    kind, tokens, depth = test
    isa = peer.level or args.isa
    files = gguf_files(args, work, peer)
    depth_option = "--n-depth" in peer.help()
    ours = {
        scheme: Timed(artifact(args, work, scheme), kind, tokens, threads, depth, isa=isa)
        for scheme in args.schemes.split(",")
    }

    def speed_of(command: list[str]) -> Callable[[], float]:
        if args.cpu_time:
            return lambda: tokens_per_processor_s(command, tokens)
        return lambda: tokens_per_s(command)

    theirs = {name: speed_of(peer.command(file, threads, test, depth_option)) for name, file in files.items()}
    limits = [next(iter(ours.values())).limits()]

    def limited() -> float:
        limits.append(next(iter(ours.values())).limits())
        return 1.0

    samples = alternate({**ours, **theirs, "limits": limited}, args.rounds)
    found = limits[0]
    for item in limits[1:]:
        found = found.best(item)
    rows: list[dict[str, Any]] = []
    for scheme, test_of in ours.items():
        speed = statistics.median(samples[scheme])
        for name, file in files.items():
            other = statistics.median(samples[name])
            rows.append({
                "peer": peer.name, "isa": test_of.engine.library.isa, "threads": threads,
                "test": f"{kind} {tokens}" + (f" @ {depth}" if depth else ""), "scheme": scheme, "type": name,
                "agq tok/s": speed, "peer tok/s": other, "ratio": ratio(samples[scheme], samples[name]),
                "of limit": test_of.share(speed, found), "GB/s": found.bandwidth * 1e-9, "GOPS": 2e-9 * found.peak,
                "peer GB/s": file.stat().st_size * other * 1e-9 if kind == "decode" else None,
                "samples": {"agq": samples[scheme], "peer": samples[name]},
            })  # fmt: skip
        test_of.close()
    return rows


def main() -> None:
    options = model_parser(__doc__)
    options.add_argument("--peer", action="append", required=True, metavar="PEER", help="see above; repeatable")
    options.add_argument("--types", default="Q4_0,Q4_K_M,Q8_0,F16", help="of the peer (default Q4_0,Q4_K_M,Q8_0,F16)")
    options.add_argument("--schemes", default="W4A8", help="ours: W4A8, W4A4, W8A8 by comma (default W4A8)")
    options.add_argument("--quantize", type=Path, help="llama-quantize, if it does not lie beside llama-bench")
    options.add_argument("-t", "--threads", default="1,2", help="several by comma (default 1,2)")
    options.add_argument("-p", "--prefill", type=int, default=512, help="tokens; 0: none (default 512)")
    options.add_argument("-n", "--decode", type=int, default=64, help="tokens; 0: none (default 64)")
    options.add_argument("-d", "--depth", type=int, default=0, help="tokens in the KV cache before (default 0)")
    args = options.parse_args()
    try:
        peers = [Peer.parse(text) for text in args.peer]
    except ValueError as error:
        options.error(str(error))
    tests = [("prefill", args.prefill, args.depth), ("decode", args.decode, args.depth)]
    with workplace(args) as work:
        for peer in peers:
            gguf_files(args, work, peer)
        for scheme in args.schemes.split(","):
            artifact(args, work, scheme)
        foreign = Foreign()
        rows = [
            row
            for peer in peers
            for threads in map(int, args.threads.split(","))
            for test in tests
            if test[1]
            for row in compare(args, work, peer, threads, test)
        ]
        report(args, "agq over the peer, tokens per second", rows, foreign)


if __name__ == "__main__":
    main()
