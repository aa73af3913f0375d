"""The results of `agq bench` as a Markdown table, JSON, JSON lines or CSV."""

from __future__ import annotations

import csv
import shutil
import sys
from typing import TYPE_CHECKING, Any

from agq.reporting import console
from agq.reporting.output import print_json

if TYPE_CHECKING:
    from agq.artifact.reader import Artifact
    from agq.runtime.benchmark import Result

_CSV = ("kind", "tokens", "depth", "batch", "isa", "threads", "tokens_per_s", "deviation", "bandwidth", "peak", "bound",
        "share_of_limit", "samples_ns")  # fmt: skip
_TABLE = 140  # columns of a terminal that holds a row of the Markdown table


class Printer:
    """Rows of one of the formats, each as soon as it is measured where the format allows."""

    def __init__(self, form: str, artifact: Artifact) -> None:
        from agq.formats import words

        self._form = form
        self._results: list[Result] = []
        scheme = words.linear(*artifact.linears["blocks.0.qkv"].words())
        self._model: dict[str, Any] = {"model": artifact.path.name, "scheme": scheme, "bytes": artifact.size}
        # A Markdown table would be broken at every row of an ordinary terminal.
        self._narrow = console.is_terminal(sys.stdout) and shutil.get_terminal_size().columns < _TABLE
        self._said = ""

    def row(self, result: Result) -> None:
        """One result."""
        first = not self._results
        self._results.append(result)
        if self._form == "jsonl":
            print_json(self._model | result.to_dict())
        elif self._form == "csv":
            self._csv(result, first)
        elif self._form == "md" and self._narrow:
            self._lines(result)
        elif self._form == "md":
            self._markdown(result, first)

    def end(self) -> None:
        """What comes after all of them."""
        if self._form == "json":
            print_json([self._model | result.to_dict() for result in self._results])
        if self._form not in ("md", "csv"):
            return
        # CSV stays one table: the profile goes to stderr.
        stream = sys.stdout if self._form == "md" else sys.stderr
        for result in self._results:
            if result.profile is not None:
                print(profile_table(result), file=stream)
        stream.flush()

    def _csv(self, result: Result, first: bool) -> None:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        if first:
            writer.writerow([*self._model, *_CSV])
        values = result.to_dict() | {"samples_ns": " ".join(map(str, result.samples_ns))}
        writer.writerow([*self._model.values(), *(_number(values[name]) for name in _CSV)])
        sys.stdout.flush()

    def _lines(self, result: Result) -> None:
        """For a narrow terminal: what all rows share once, above them."""
        if not self._said:
            size = f"{self._model['bytes'] / 1e6:.1f} MB"
            print(f"{self._model['model']}, {self._model['scheme']}, {size}")
        machine = f"kernels {result.isa}, threads {result.threads}"
        if machine != self._said:
            print(f"{machine}\n{'test':<17}{'tok/s':<19}{'of the limit':<14}limit")
            self._said = machine
        share, limit = limit_words(result)
        limit = limit.removesuffix(result.instruction or "").rstrip()
        print(f"{test_name(result):<17}{_speed(result):<19}{share:<14}{limit}".rstrip())
        sys.stdout.flush()

    def _markdown(self, result: Result, first: bool) -> None:
        if first:
            print("| model | scheme | size | kernels | threads | test | tok/s | of the limit | limit |")
            print("|---|---|---:|---|---:|---|---:|---:|---|")
        size = f"{self._model['bytes'] / 1e6:.1f} MB"
        speed = _speed(result)
        cells = (
            self._model["model"], self._model["scheme"], size, result.isa, result.threads, test_name(result), speed,
            *limit_words(result),
        )  # fmt: skip
        print("| " + " | ".join(map(str, cells)) + " |")
        sys.stdout.flush()


def _speed(result: Result) -> str:
    """Tokens a second, or the seconds to the first token, with the standard deviation."""
    if result.kind == "startup":
        spread = result.deviation / result.tokens_per_s * result.mean_s
        return f"{result.mean_s:.3f} ± {spread:.3f} s"
    return f"{result.tokens_per_s:.2f} ± {result.deviation:.2f}"


def test_name(result: Result) -> str:
    """As llama-bench names its tests: pp512, tg128 @ d4096; x4: four sequences."""
    if result.kind == "startup":
        return "first token"
    name = {"prefill": "pp", "decode": "tg"}[result.kind] + str(result.tokens)
    name += f" @ d{result.depth}" if result.depth else ""
    return name + (f" x{result.batch}" if result.batch > 1 else "")


def limit_words(result: Result) -> tuple[str, str]:
    """("61.2 %", "compute, 1332 GOPS vpdpbusd zmm"); dashes where it was not measured."""
    if result.share_of_limit is None or result.bandwidth is None or result.peak is None:
        return "-", "-"
    if result.bound == "memory":
        limit = f"memory, {result.bandwidth * 1e-9:.1f} GB/s"
    else:
        limit = f"compute, {2e-9 * result.peak:.0f} GOPS {result.instruction}"
    return f"{100 * result.share_of_limit:.1f} %", limit


def profile_table(result: Result) -> str:
    """Markdown: milliseconds of each operation (of all tokens of a prompt; of one step of decoding), its share, and
    the share of the machine's limit that it reaches.
    """
    steps = result.tokens if result.kind == "decode" else 1
    unit = "ms a step" if result.kind == "decode" else "ms"
    lines = [
        "",
        f"| {test_name(result)}, {result.isa}, {result.threads} threads | {unit} | share | of its limit |",
        "|---|---:|---:|---:|",
    ]
    for item in result.profile or ():
        limit = "-" if item.share_of_limit is None else f"{100 * item.share_of_limit:.1f} %"
        lines.append(f"| {item.name} | {1e3 * item.seconds / steps:.3f} | {100 * item.share:.1f} % | {limit} |")
    return "\n".join(lines)


def _number(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
