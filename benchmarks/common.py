"""What the benchmarks share: models to time, alternating measurements, ratios, the machine's limits, and a report.

Speeds of one machine drift with its temperature and with what else it does. So two things are compared by running them
alternately, round after round, in one process tree; a ratio is the median of the rounds' ratios. `foreign` says which
share of the processors' time went to other programs meanwhile: figures with more than a few percent are worth little.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent)]  # the agq of this checkout, not one that is installed

from agq.artifact import open_artifact  # noqa: E402
from agq.artifact.reader import Artifact  # noqa: E402
from agq.errors import AgqError  # noqa: E402
from agq.runtime.benchmark import Case, Passes  # noqa: E402
from agq.runtime.engine import Engine  # noqa: E402
from agq.runtime.limits import Limits, measure_limits, weight_bytes  # noqa: E402

# The random model that is timed where none is named.
_SHAPE = "tinyllama-1.1b"


def parser(description: str, rounds: bool = True) -> argparse.ArgumentParser:
    """Options that all benchmarks have; rounds: things are measured several times."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--json", action="store_true", help="JSON on stdout instead of text")
    if rounds:
        found.add_argument("-r", "--rounds", type=int, default=5, help="measurements of each thing (default 5)")
    return found


def add_clock_option(found: argparse.ArgumentParser) -> None:
    """--cpu-time."""
    found.add_argument(
        "--cpu-time", action="store_true",
        help="processor time instead of elapsed time, for a machine that others use, too; with one thread only",
    )  # fmt: skip


def model_parser(description: str, scheme: str | None = None, clock: bool = True) -> argparse.ArgumentParser:
    """`parser` with the options of benchmarks that time a model.

    scheme: default of the model's scheme, None where the benchmark chooses; clock: processor time can be measured.
    """
    from make_checkpoint import SHAPES

    found = parser(description)
    found.add_argument("--shape", choices=SHAPES, default=_SHAPE, help=f"random model to time (default {_SHAPE})")
    found.add_argument("--folder", type=Path, help="a Hugging Face LLaMA folder to time instead of a random model")
    found.add_argument("--group", type=int, default=128, help="weight group size, -1: per channel (default 128)")
    found.add_argument("--isa", help="kernel library; default AGQ_ISA, else the best")
    found.add_argument("--work", type=Path, help="keep models here for later runs; default: a temporary folder")
    if clock:
        add_clock_option(found)
    if scheme is not None:
        found.add_argument("--scheme", default=scheme, help=f"of the model (default {scheme})")
    return found


@contextmanager
def workplace(args: argparse.Namespace) -> Iterator[Path]:
    """The folder for models. Settles the clock, too."""
    Timed.clock = staticmethod(time.process_time if getattr(args, "cpu_time", False) else time.perf_counter)
    if args.work is not None:
        args.work.mkdir(parents=True, exist_ok=True)
        yield args.work
        return
    with tempfile.TemporaryDirectory(prefix="agq-bench-") as name:
        yield Path(name)


def checkpoint(args: argparse.Namespace, work: Path) -> Path:
    """The Hugging Face folder to time."""
    if args.folder is not None:
        return Path(args.folder)
    from make_checkpoint import make

    folder = work / args.shape
    if not folder.exists():
        make(folder, args.shape)
    return folder


def artifact(args: argparse.Namespace, work: Path, scheme: str) -> Artifact:
    """The model packed by `scheme` ("W4A8"), rounded to nearest: speed does not depend on the values."""
    import agq

    source = checkpoint(args, work)
    known = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:8]
    output = work / f"{source.name}-{known}-{scheme}-g{args.group}-v{agq.__version__}.agq.safetensors"
    try:
        return open_artifact(output)
    except AgqError:  # not made yet, or by an agq of another format
        output.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=work) as name:
            options: dict[str, Any] = {"group_size": args.group} if scheme.startswith("W4") else {}
            if scheme.endswith("A4"):
                options["act_group"] = args.group if 0 < args.group < 128 else 128
            agq.quantize(source, scheme=scheme, method="rtn", output=Path(name) / "quantized", mse=False, **options)
            agq.pack(Path(name) / "quantized", output)
    return open_artifact(output)


class Timed:
    """One test of one artifact, ready to be run again and again."""

    clock = staticmethod(time.perf_counter)

    def __init__(self, model: Artifact, kind: str, tokens: int, threads: int, depth: int = 0, batch: int = 1,
                 isa: str | None = None, kv_bits: int | None = None) -> None:  # fmt: skip
        if self.clock is time.process_time and threads != 1:
            raise SystemExit("error: --cpu-time counts one thread only\nhint: add -t 1")
        self.case = Case(kind, tokens, depth, threads, isa, batch)
        self.engine = Engine(model, threads=threads, context=depth + tokens, slots=batch, isa=isa, kv_bits=kv_bits)
        self._passes = Passes(self.engine, self.case)
        self()  # warm-up

    def __call__(self) -> float:
        """Tokens per second."""
        self._passes.reset()
        start = self.clock()
        self._passes.run()
        return self.case.tokens * self.case.batch / (self.clock() - start)

    def limits(self) -> Limits:
        """Of the machine, with this test's threads and kernels."""
        return measure_limits(self.engine.library, self.engine.threads, weight_bytes(self.engine.artifact))

    def share(self, tokens_per_s: float, limits: Limits) -> float | None:
        """Of the limit; None for processor time, which limits measured by the clock say nothing about."""
        if self.clock is time.process_time:
            return None
        tokens = self.case.tokens * self.case.batch
        return self._passes.least().bound_s(limits)[0] / (tokens / tokens_per_s)

    def close(self) -> None:
        """Frees the engine."""
        self.engine.close()


def alternate(things: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Calls each thing once a round and collects what they return (rates)."""
    samples: dict[str, list[float]] = {name: [] for name in things}
    for index in range(rounds):
        # Every other round backwards: a drift within a round favours nobody.
        for name in things if index % 2 == 0 else reversed(things):
            samples[name].append(things[name]())
    return samples


def ratio(over: list[float], under: list[float]) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def _busy() -> tuple[float, float]:
    """(seconds that all processors were busy, seconds of this process and its dead children)."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(value) for value in file.readline().split()[1:]]
    own = os.times()
    ticks = os.sysconf("SC_CLK_TCK")
    mine = own.user + own.system + own.children_user + own.children_system
    return (sum(fields[:8]) - fields[3] - fields[4]) / ticks, mine


class Foreign:
    """Share of the processors' time that other programs took since this object was made."""

    def __init__(self) -> None:
        self._start, self._busy = time.monotonic(), _busy()

    def share(self) -> float:
        """0..1."""
        busy, own = _busy()
        seconds = (time.monotonic() - self._start) * (os.cpu_count() or 1)
        return max((busy - self._busy[0]) - (own - self._busy[1]), 0.0) / seconds


def machine() -> str:
    """Processor and cores, for the report."""
    name = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {len(os.sched_getaffinity(0))} processors"


def report(args: argparse.Namespace, claim: str, rows: list[dict[str, Any]], foreign: Foreign, **more: Any) -> None:
    """JSON, or a table of the rows; `samples` are left out of the table."""
    share = foreign.share()
    if args.json:
        from agq.reporting.output import print_json

        print_json({"claim": claim, "machine": machine(), "foreign_load": round(share, 3), **more, "rows": rows})
        return
    print(f"{claim}\n{machine()}; {100 * share:.0f} % of its time went to other programs")
    for name, value in more.items():
        print(f"{name}: {_cell(value)}")
    if rows:
        columns = [name for name in rows[0] if name != "samples"]
        cells = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
        widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
        for line in cells:
            print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return value if isinstance(value, str) else json.dumps(value)
