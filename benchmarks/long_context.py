"""Long prompts and long memories: prefill of a long prompt and decoding behind it, against a short one, measured
alternately.

    python benchmarks/long_context.py --length 4096

Per token, attention's work grows linearly with what stands before it, everything else not at all. So `attention`
shows the time per token that attention alone takes, and `per key` the same divided by the mean number of keys: it
must not grow.
"""

from __future__ import annotations

import statistics

from common import Foreign, Timed, alternate, artifact, model_parser, ratio, report, workplace


def main() -> None:
    options = model_parser(__doc__, "W4A8")
    options.add_argument("-t", "--threads", type=int, default=2)
    options.add_argument("--short", type=int, default=512)
    options.add_argument("--length", type=int, default=4096)
    options.add_argument("-n", "--decode", type=int, default=32)
    args = options.parse_args()
    rows = []
    with workplace(args) as work:
        model = artifact(args, work, args.scheme)
        foreign = Foreign()
        for kind in ("prefill", "decode"):
            tests = {}
            for length in (args.short, args.length):
                tokens, depth = (length, 0) if kind == "prefill" else (args.decode, length)
                tests[str(length)] = Timed(model, kind, tokens, args.threads, depth, isa=args.isa)
                tests[str(length)].engine.profile()
            samples = alternate(tests, args.rounds)
            for name, test in tests.items():
                seconds = test.engine.profile()
                count = args.rounds * test.case.tokens
                attention = (seconds["attention"] + seconds["kv store"]) / count
                keys = test.case.depth + test.case.tokens / 2
                speed = statistics.median(samples[name])
                rows.append({
                    "isa": test.engine.library.isa, "threads": test.engine.threads,
                    "test": f"{kind} {test.case.tokens}" + (f" @ {test.case.depth}" if test.case.depth else ""),
                    "tok/s": speed, "ratio": ratio(samples[name], samples[str(args.short)]),
                    "attention us/token": 1e6 * attention, "per key ns": 1e9 * attention / keys,
                    "share of time": attention * count / sum(seconds.values()),
                    "KV cache MB": test.engine.kv_bytes * 1e-6, "samples": samples[name],
                })  # fmt: skip
                test.close()
        report(args, f"long context over a short one, tokens per second, {args.scheme}", rows, foreign)


if __name__ == "__main__":
    main()
