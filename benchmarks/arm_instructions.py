"""Executed instructions per token on emulated Raspberry Pi processors, and llama.cpp's for the same shape if its
binary is given.

    python benchmarks/arm_instructions.py
    python benchmarks/arm_instructions.py --peer path/to/aarch64/llama-bench --gguf model-q4_0.gguf --sizes
    hidden=256,...

Needs aarch64-linux-gnu-gcc and qemu-aarch64 (7 or later, with plugins). A processor is emulated, so instructions
are counted, not time; kernels/bench/mca.py (run too with --mca) says how many cycles a core needs for those of the
kernels. Each program runs its work once and twice; the difference is the work alone. One thread: others would be
counted while they wait.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import Foreign, parser, report

KERNELS = Path(__file__).resolve().parent.parent / "kernels"
CROSS = "aarch64-linux-gnu-"
CORES = {"cortex-a72": "neon", "cortex-a76": "dotprod"}  # Raspberry Pi 4 and 5
# Some blocks of TinyLlama-1.1B's. Of the last one both programs compute no more than keys and values for most tokens of
# a prompt.
SIZES = "hidden=2048,ffn=5632,heads=32,kv_heads=4,head_dim=64,layers=4,vocab=512"


def run(command: list[str], **more: Any) -> str:
    """Its stdout; the script ends where it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    except FileNotFoundError:
        raise SystemExit(f"error: {command[0]} is missing\nhint: `make deps` installs the Arm tools") from None
    if result.returncode:
        raise SystemExit(f"error: {' '.join(command)} gave {result.returncode}\n{result.stderr.strip()[-800:]}")
    return result.stdout


class Counter:
    """The emulator with the counting plugin."""

    def __init__(self, folder: Path, qemu: str) -> None:
        self._folder, self._qemu = folder, qemu
        for version in range(1, 8):  # an emulator takes plugins of a few versions only, and each does for us
            self._plugin = folder / f"count{version}.so"
            run(["cc", "-shared", "-fPIC", "-O2", f"-DPLUGIN_VERSION={version}", "-o", str(self._plugin),
                 str(KERNELS / "bench" / "qemu_count.c")])  # fmt: skip
            probe = [qemu, "-plugin", f"{self._plugin},out=/dev/null", "/nonexistent"]
            said = subprocess.run(probe, capture_output=True, text=True, check=False).stderr
            if "lugin" not in said:
                return
        raise SystemExit(f"error: {qemu} takes no plugin\nhint: apt-get install qemu-user, version 7 or later")

    def instructions(self, cpu: str, command: list[str]) -> int:
        """That a program executes."""
        out = self._folder / "count"
        run([self._qemu, "-cpu", cpu, "-plugin", f"{self._plugin},out={out}", *command])
        return int(out.read_text())


def products_per_token(sizes: str, tokens: int) -> float:
    """Multiply-accumulates of a token in linears: the mean of `tokens`, of which the last one's logits are wanted."""
    n = {key: int(value) for key, value in (item.split("=") for item in sizes.split(","))}
    query, keys_values = n["heads"] * n["head_dim"], 2 * n["kv_heads"] * n["head_dim"]
    first, rest = n["hidden"] * (query + keys_values), n["hidden"] * (query + 3 * n["ffn"])
    return n["layers"] * first + (n["layers"] - 1 + 1 / tokens) * rest + n["hidden"] * n["vocab"] / tokens


def main() -> None:
    options = parser(__doc__, rounds=False)
    options.add_argument("--sizes", default=SIZES, help=f"of the model, as bench_engine takes them (default {SIZES})")
    options.add_argument("--schemes", default="W4A8,W4A4", help="W4A8, W4A4, W8A8 by comma")
    options.add_argument("--group", type=int, default=128)
    options.add_argument("-p", "--prefill", type=int, default=32, help="tokens (default 32)")
    options.add_argument("-n", "--decode", type=int, default=2, help="tokens (default 2)")
    options.add_argument("--cores", default=",".join(CORES), help=f"some of {', '.join(CORES)}")
    options.add_argument("--qemu", default="qemu-aarch64")
    options.add_argument("--peer", help="llama-bench for aarch64, linked statically")
    options.add_argument("--gguf", help="model of the same shape for it; several by comma")
    options.add_argument("--mca", action="store_true", help="also cycles, by kernels/bench/mca.py")
    args = options.parse_args()
    if bool(args.peer) != bool(args.gguf):
        options.error("--peer and --gguf go together")
    foreign = Foreign()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="agq-bench-") as name:
        counter = Counter(Path(name), args.qemu)
        for cpu in args.cores.split(","):
            level = CORES[cpu]
            build = ["make", "-s", "-C", str(KERNELS), f"CROSS={CROSS}", f"LEVELS={level}", "LINK_STATIC=-static"]
            run([*build, "bench-programs"])
            program = KERNELS / "build" / "aarch64" / level / "bench_engine"
            for kind, tokens in (("prefill", args.prefill), ("decode", args.decode)):
                work = {"prompt": tokens, "decode": 0, "depth": 0}
                if kind == "decode":
                    work = {"prompt": 0, "decode": tokens, "depth": 8}
                counts: dict[str, float] = {}
                for scheme in args.schemes.split(","):
                    settings = {"bits": scheme[1], "act": scheme[3], "group": args.group if scheme[1] == "4" else 0}
                    values = [f"{key}={value}" for key, value in (work | settings | {"threads": 1}).items()]
                    command = [str(program), *args.sizes.split(","), *values]
                    once, twice = (counter.instructions(cpu, [*command, f"repeat={count}"]) for count in (1, 2))
                    counts[scheme] = (twice - once) / tokens
                for file in args.gguf.split(",") if args.gguf else ():
                    test = ["-p", str(tokens), "-n", "0"] if kind == "prefill" else ["-p", "0", "-n", str(tokens)]
                    command = [args.peer, "-m", file, "-t", "1", *test, "-o", "json"]
                    once, twice = (counter.instructions(cpu, [*command, "-r", str(count)]) for count in (1, 2))
                    counts[Path(file).stem] = (twice - once) / tokens
                products = products_per_token(args.sizes, 1 if kind == "decode" else tokens)
                base = args.schemes.split(",")[0]
                for what, count in counts.items():
                    rows.append({"core": cpu, "level": level, "test": f"{kind} {tokens}", "what": what,
                                 "M instructions/token": 1e-6 * count, "products/instruction": products / count,
                                 f"ratio to {base}": count / counts[base]})  # fmt: skip
    more = {}
    if args.mca:
        lines = run([sys.executable, str(KERNELS / "bench" / "mca.py"), "--json", "--levels", "neon,dotprod"])
        more["MAC per cycle"] = [json.loads(line) for line in lines.splitlines()]
    report(args, "executed instructions per token on emulated Arm processors", rows, foreign, **more)


if __name__ == "__main__":
    main()
