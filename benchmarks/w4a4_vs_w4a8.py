"""4-bit activations against 8-bit ones, same model, same weights, measured alternately: a ratio above 1 is W4A4's
gain.

    python benchmarks/w4a4_vs_w4a8.py --isa sse41 --threads 1

No common processor multiplies 4-bit integers, so W4A4 can gain only where 8-bit products are summed in 16 bits
(SSE, AVX2, NEON without dot products) or where fewer bytes of activations move. Elsewhere the two should be equal.
"""

from __future__ import annotations

import statistics

from common import Foreign, Timed, alternate, artifact, model_parser, ratio, report, workplace


def main() -> None:
    options = model_parser(__doc__)
    options.add_argument("-t", "--threads", default="1,2", help="several by comma (default 1,2)")
    options.add_argument("-p", "--prefill", type=int, default=512)
    options.add_argument("-n", "--decode", type=int, default=64)
    args = options.parse_args()
    rows = []
    with workplace(args) as work:
        models = {scheme: artifact(args, work, scheme) for scheme in ("W4A8", "W4A4")}
        foreign = Foreign()
        for threads in map(int, args.threads.split(",")):
            for kind, tokens in (("prefill", args.prefill), ("decode", args.decode)):
                tests = {name: Timed(model, kind, tokens, threads, isa=args.isa) for name, model in models.items()}
                samples = alternate(tests, args.rounds)
                limits = tests["W4A8"].limits()
                speed = {name: statistics.median(values) for name, values in samples.items()}
                rows.append({
                    "isa": tests["W4A8"].engine.library.isa, "threads": threads, "test": f"{kind} {tokens}",
                    "W4A8 tok/s": speed["W4A8"], "W4A4 tok/s": speed["W4A4"],
                    "ratio": ratio(samples["W4A4"], samples["W4A8"]),
                    "W4A8 of limit": tests["W4A8"].share(speed["W4A8"], limits),
                    "W4A4 of limit": tests["W4A4"].share(speed["W4A4"], limits), "samples": samples,
                })  # fmt: skip
                for test in tests.values():
                    test.close()
        report(args, "W4A4 over W4A8, tokens per second", rows, foreign)


if __name__ == "__main__":
    main()
