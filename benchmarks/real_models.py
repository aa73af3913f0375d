"""A real model in llama.cpp's types and in agq's packed files: sizes and perplexities in one table, as it is and on its
off-grid twin.

    python benchmarks/real_models.py model.gguf --work DIR --windows 4 --text wt2=test.txt --text wiki=heldout.txt \\
        --calibration text.txt --agq "W4A8 -g 64=a.agq.safetensors" --twin-agq "W4A8 -g 64=b.agq.safetensors"

The model comes from a GGUF file (gguf_folder.py says what the twin is, and why there is one). DIR gets both folders,
`as-it-is` and `twin`, which `agq quantize` takes, and their files of float32, which llama.cpp quantizes. Both programs
get the same token ids: windows of 2,048 from the beginning of each text, without BOS, each from an empty context.
Ratios are to the same model in float32 in llama.cpp. MB are files' bytes over 10^6, tokenizer and all.

Each measurement is written to `DIR/rows.json` as soon as it is there. A later call goes on from it, with more types,
files or texts of the same protocol, and shows all of them. A libllama with its quantization is in the package
llama-cpp-python; `--types ""` needs none, once the rows F32 are there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from common import Foreign, parser, report
from gguf_folder import ORIGIN, SEED, Source
from gguf_perplexity import LlamaScorer
from llama_library import find_library
from llama_types import FLOATS, IMPORTANCE, INDIFFERENT, TYPES, Model, file_type, importance

from agq.errors import AgqError
from agq.evaluation.evaluate import evaluate_perplexity, make_plan
from agq.evaluation.perplexity import evaluate_plan
from agq.files import atomic_write_text, sha256_file

METHOD = "gptq"  # of `agq eval-ppl`: consecutive windows
AS_IT_IS, TWIN = "as it is", "twin"
# A measurement: bytes of the file, and text -> perplexity.
Row = dict[str, Any]


def pair(value: str) -> tuple[str, str]:
    """LABEL=VALUE."""
    label, equals, rest = value.rpartition("=")
    if not (label and equals and rest):
        raise argparse.ArgumentTypeError(f"`{value}` is not LABEL=VALUE")
    return label, rest


class Results:
    """`rows.json`: the protocol, and (model, program, name) -> row. Rows of one protocol only stand together."""

    def __init__(self, path: Path, protocol: dict[str, Any]) -> None:
        self._path, self._lock = path, threading.Lock()
        self.rows: list[Row] = []
        if path.exists():
            stored = json.loads(path.read_text())
            if stored["protocol"] != protocol:
                raise SystemExit(f"error: `{path}` holds rows of another protocol\nhint: choose another --work")
            self.rows = stored["rows"]
        self._protocol = protocol

    def find(self, model: str, name: str) -> Row | None:
        """A row that is there already."""
        return next((row for row in self.rows if (row["model"], row["name"]) == (model, name)), None)

    def add(self, row: Row) -> None:
        """Takes in a row, in place of an older one of that name, and writes the file."""
        with self._lock:
            old = self.find(row["model"], row["name"])
            self.rows = [other for other in self.rows if other is not old] + [row]
            atomic_write_text(self._path, json.dumps({"protocol": self._protocol, "rows": self.rows}, indent=2) + "\n")


@dataclass(frozen=True)
class Measurement:
    """How files are measured. windows: of each text; texts: label -> file."""

    source: Source
    texts: dict[str, str]
    seq_len: int
    windows: int
    threads: int

    def llama(self, library: Path, file: Path) -> dict[str, float]:
        """Text -> perplexity of a GGUF file in llama.cpp."""
        scorer = LlamaScorer(library, file, self.seq_len, self.threads, floats=False)
        try:
            return {label: evaluate_plan(scorer, plan, METHOD).ppl for label, plan in self._plans.items()}
        finally:
            scorer.close()

    @cached_property
    def _plans(self) -> dict[str, Any]:
        from agq.text.tokenizers import load_tokenizer

        tokenizer = load_tokenizer(self.source.checkpoint)
        return {
            label: make_plan(text, tokenizer, METHOD, self.seq_len, add_bos=False, max_windows=self.windows)[0]
            for label, text in self.texts.items()
        }

    def agq(self, file: Path) -> dict[str, float]:
        """Text -> perplexity of a packed file: `agq eval-ppl`."""
        return {
            label: evaluate_perplexity(
                file, text, self.seq_len, METHOD, add_bos=False, max_windows=self.windows, threads=self.threads
            ).ppl
            for label, text in self.texts.items()
        }


def names_of(types: list[str]) -> list[str]:
    """Rows of llama.cpp: the floats, then each type without and with importance matrix. ValueError: no such type."""
    for name in types:
        file_type(name)
    found = [FLOATS] if types else []
    for name in types:
        found += [name] if name in INDIFFERENT else [name, f"{name} {IMPORTANCE}"]
    return found


def ratios(rows: list[Row], texts: list[str]) -> list[Row]:
    """The rows with `ratio`: text -> perplexity over that of the same model in floats."""
    base = {row["model"]: row["ppl"] for row in rows if row["name"] == FLOATS}
    return [
        row | {"ratio": {text: row["ppl"][text] / base[row["model"]][text] for text in texts}}
        for row in rows
        if row["model"] in base
    ]


def table(rows: list[Row], texts: list[str]) -> list[dict[str, Any]]:
    """One line for each type or setting, the largest first: ratios of both models, of the floats perplexities."""
    lines: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["name"] != FLOATS, -row["bytes"], row["name"])):
        line = lines.setdefault(row["name"], {"program": row["program"], "type": row["name"], "MB": ""})
        # Files of the two models differ by some bytes at most, but where agq chose finer formats for one.
        line["MB"] = f"{max(row['bytes'] / 1e6, float(line['MB'] or 0)):.1f}"
        for text in texts:
            value = f"{row['ppl'][text]:.3f}" if row["name"] == FLOATS else f"{row['ratio'][text]:.4f}"
            line[f"{text}, {row['model']}"] = value
    columns = ["program", "type", "MB", *(f"{text}, {model}" for model in (AS_IT_IS, TWIN) for text in texts)]
    return [{column: line.get(column, "-") for column in columns} for line in lines.values()]


def by_size(rows: list[Row], texts: list[str]) -> dict[str, str]:
    """Of each of llama.cpp's types on the twin: which setting of agq has no more bytes and is better on all texts."""
    twin = [row for row in rows if row["model"] == TWIN and row["name"] != FLOATS]
    ours = [row for row in twin if row["program"] == "agq"]

    def said(row: Row) -> str:
        values = ", ".join(f"{row['ratio'][text]:.4f}" for text in texts)
        return f"{row['name']} ({row['bytes'] / 1e6:.1f} MB: {values})"

    found = {}
    for row in sorted(twin, key=lambda row: -row["bytes"]):
        if row["program"] == "agq" or not ours:
            continue
        better = [
            one
            for one in ours
            if one["bytes"] <= row["bytes"] and all(one["ratio"][text] < row["ratio"][text] for text in texts)
        ]
        best = min(better, key=lambda one: sum(one["ratio"].values()), default=None)
        found[f"no larger and better on the twin than {said(row)}"] = "none" if best is None else said(best)
    return found


def prepare(source: Source, args: argparse.Namespace) -> dict[str, Model]:
    """Both models in the work folder, made where they are missing."""
    found = {}
    for name, folder, seed in ((AS_IT_IS, "as-it-is", None), (TWIN, "twin", args.seed)):
        path, floats = args.work / folder, args.work / f"{folder}-f32.gguf"
        if not path.exists():
            source.write_folder(path, seed)
        elif json.loads((path / ORIGIN).read_text()) != source.origin(seed):
            raise SystemExit(
                f"error: `{path}` was made of another file or by another seed\nhint: choose another --work"
            )
        matrix = {}
        if args.types:
            if not floats.exists():
                source.write_gguf(path, floats)
            matrix = importance(source, path, args.calibration, args.work / f"{folder}-inputs.safetensors")
        found[name] = Model(name, path, floats, matrix)
    return found


def cases(
    args: argparse.Namespace, models: dict[str, Model], how: Measurement
) -> dict[tuple[str, str], Callable[[], Row]]:
    """(model, name) -> what measures it."""
    library = find_library(args.library) if args.types else Path()

    def of_llama(model: Model, name: str) -> Row:
        with tempfile.TemporaryDirectory(dir=args.work) as work:
            file = model.quantized(library, name, Path(work) / "model.gguf", args.threads)
            return {"program": "llama.cpp", "bytes": file.stat().st_size, "ppl": how.llama(library, file)}

    def of_agq(file: Path) -> Row:
        return {"program": "agq", "bytes": file.stat().st_size, "ppl": how.agq(file)}

    found: dict[tuple[str, str], Callable[[], Row]] = {}
    for name in names_of(args.types):
        found |= {
            (model.name, name): (lambda model=model, name=name: of_llama(model, name)) for model in models.values()
        }
    for model_name, files in ((AS_IT_IS, args.agq), (TWIN, args.twin_agq)):
        found |= {(model_name, label): (lambda path=path: of_agq(Path(path))) for label, path in files}
    return found


def options() -> argparse.ArgumentParser:
    """The command's options."""
    found = parser(__doc__ or "", rounds=False)
    found.add_argument("model", type=Path, help="the GGUF file that the model comes from")
    found.add_argument("--work", type=Path, required=True, help="folder of models and rows; kept")
    found.add_argument("--text", type=pair, action="append", required=True, help="LABEL=FILE; several times")
    found.add_argument("--windows", type=int, default=24, help="of each text, from its beginning (default 24)")
    found.add_argument("--seq-len", type=int, default=2048, help="tokens of a window (default 2048)")
    found.add_argument("--seed", type=int, default=SEED, help=f"of the twin's noise (default {SEED})")
    found.add_argument("--types", default=",".join(TYPES), help=f"of llama.cpp (default {','.join(TYPES)})")
    found.add_argument("--calibration", help="text of the importance matrices, as of `agq calibrate --data`")
    found.add_argument("--agq", type=pair, action="append", default=[], help="LABEL=FILE, packed from as-it-is")
    found.add_argument("--twin-agq", type=pair, action="append", default=[], help="LABEL=FILE, packed from twin")
    found.add_argument("--library", help="libllama; default: that of an installed package")
    found.add_argument("--threads", "-t", type=int, default=1, help="of each file that is measured (default 1)")
    found.add_argument("--jobs", type=int, default=1, help="files that are measured at once (default 1)")
    found.add_argument("--prepare", action="store_true", help="only make the folders")
    return found


def main() -> None:
    """The measurement."""
    found = options()
    args = found.parse_args()
    args.types = [name for name in args.types.split(",") if name and not args.prepare]
    if args.types and args.calibration is None:
        found.error("--calibration is needed for importance matrices")
    foreign = Foreign()
    args.work.mkdir(parents=True, exist_ok=True)
    texts = dict(args.text)
    source = Source(args.model)
    protocol = {
        "source": source.files,
        "twin": f"uniform noise of half a step, seed {args.seed}",
        "windows": f"first {args.windows} of {args.seq_len} tokens, no BOS",
        "texts": {label: sha256_file(text) for label, text in texts.items()},
    }
    results = Results(args.work / "rows.json", protocol)
    models = prepare(source, args)
    if not args.prepare:
        how = Measurement(source, texts, args.seq_len, args.windows, args.threads)
        missing = {key: measure for key, measure in cases(args, models, how).items() if results.find(*key) is None}

        def run(key: tuple[str, str]) -> None:
            results.add({"model": key[0], "name": key[1], **missing[key]()})
            print(f"{key[1]}, {key[0]}: {results.find(*key)}", file=sys.stderr, flush=True)

        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(run, missing))
    rows = ratios(results.rows, list(texts))
    claim = f"{args.model.name}: perplexity in float32 (F32), and ratios to it"
    report(args, claim, table(rows, list(texts)), foreign, **protocol, **by_size(rows, list(texts)))


if __name__ == "__main__":
    try:
        main()
    except (AgqError, RuntimeError, ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
