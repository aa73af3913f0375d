"""Prompt look-up (`agq run --speculate N`) against plain greedy decoding, same tokens, measured alternately.

    python benchmarks/speculation.py MODEL.agq.safetensors [--tokens 128 --speculate 8]

Two prompts: one asks for a summary of a text, one for an edited copy of a piece of code. The gain depends on how
much of its prompt a model repeats, so it is a property of the model: without MODEL the small demo model of the
repository continues the prompts, which is no instruction model.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from common import Foreign, add_clock_option, alternate, parser, ratio, report

DEMO = Path(__file__).resolve().parent.parent / "demo" / "llama-demo"
SUMMARY = """The town lies on a river that freezes in winter. Its first bridge was built of wood in 1740 and burned \
down in 1802.
The second bridge, of stone, was opened in 1811 and stood until the flood of 1894, which carried away two \
of its five arches.
The third bridge, of steel, was opened in 1899. It was made wider in 1956, when the tram was closed, \
and it still carries all the
traffic of the town. A fourth bridge has been planned since 1998, but the council has never agreed on a place for it.

Summary: The town lies on a river that freezes in winter. Its first bridge was built of wood in 1740"""
CODE = """def total(values):
    result = 0
    for value in values:
        if value is not None:
            result = result + value
    return result


def mean(values):
    result = 0
    count = 0
    for value in values:
        if value is not None:
            result = result + value
            count = count + 1
    return result / count


# The same functions, with the sum in a float:
def total(values):
    result = 0.0
    for value in values:
        if value is not None:"""


def main() -> None:
    options = parser(__doc__)
    add_clock_option(options)
    options.add_argument("model", type=Path, nargs="?", help="packed artifact")
    options.add_argument("-t", "--threads", type=int, default=2)
    options.add_argument("--tokens", type=int, default=128, help="to generate (default 128)")
    options.add_argument("--speculate", type=int, default=8, help="tokens proposed at most (default 8)")
    args = options.parse_args()
    from agq.runtime.engine import Engine
    from agq.runtime.generation import Generation, load_tokenizer

    if args.cpu_time and args.threads != 1:
        options.error("--cpu-time counts one thread only: add -t 1")
    clock = time.process_time if args.cpu_time else time.perf_counter
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="agq-bench-") as folder:
        model = args.model
        if model is None:
            import agq

            model = Path(folder) / "demo.agq.safetensors"
            agq.quantize(DEMO, scheme="W4A8", method="rtn", output=Path(folder) / "quantized")
            agq.pack(Path(folder) / "quantized", model)
        foreign = Foreign()
        with Engine(model, threads=args.threads) as engine:
            tokenizer = load_tokenizer(engine.artifact)

            def generate(prompt: str, speculate: int) -> tuple[float, Generation]:
                """(tokens per second of the text after the first token, the generation)."""
                engine.truncate(0, 0)
                found = Generation(
                    engine, tokenizer, prompt, max_tokens=args.tokens, eos_ids=[], speculate=speculate
                )  # fmt: skip
                next(found)
                start = clock()
                for _ in found:
                    pass
                return (len(found.tokens) - 1) / (clock() - start), found

            for name, prompt in (("summarising", SUMMARY), ("code editing", CODE)):
                plain, guessed = generate(prompt, 0)[1], generate(prompt, args.speculate)[1]  # warm-up, too
                if plain.tokens != guessed.tokens:
                    raise SystemExit("error: look-up changed the tokens")
                samples = alternate(
                    {
                        "plain": lambda prompt=prompt: generate(prompt, 0)[0],
                        "look-up": lambda prompt=prompt: generate(prompt, args.speculate)[0],
                    },
                    args.rounds,
                )
                said = guessed.statistics
                rows.append({
                    "prompt": name, "prompt tokens": said.prompt_tokens, "tokens": said.tokens,
                    "ratio": ratio(samples["look-up"], samples["plain"]), "drafted": said.drafted,
                    "accepted": said.accepted, "tokens per pass": (said.tokens - 1) / (said.tokens - 1 - said.accepted),
                    "isa": engine.library.isa, "threads": engine.threads, "samples": samples,
                })  # fmt: skip
    report(args, "prompt look-up over plain greedy decoding, tokens per second", rows, foreign)


if __name__ == "__main__":
    main()
