"""How speed grows with threads: T threads against one, measured alternately.

    python benchmarks/threads.py --threads 1,2

Prefill is bound by computing and should grow with the cores; decode by memory, which one core rarely uses up.
"""

from __future__ import annotations

import statistics

from common import Foreign, Timed, alternate, artifact, model_parser, ratio, report, workplace


def main() -> None:
    options = model_parser(__doc__, "W4A8", clock=False)
    options.add_argument("-t", "--threads", default="1,2", help="several by comma, the first is the base (default 1,2)")
    options.add_argument("-p", "--prefill", type=int, default=512)
    options.add_argument("-n", "--decode", type=int, default=64)
    args = options.parse_args()
    numbers = [int(item) for item in args.threads.split(",")]
    rows = []
    with workplace(args) as work:
        model = artifact(args, work, args.scheme)
        foreign = Foreign()
        for kind, tokens in (("prefill", args.prefill), ("decode", args.decode)):
            tests = {str(number): Timed(model, kind, tokens, number, isa=args.isa) for number in numbers}
            samples = alternate(tests, args.rounds)
            for number, test in zip(numbers, tests.values(), strict=True):
                speed, limits = statistics.median(samples[str(number)]), test.limits()
                rows.append({
                    "isa": test.engine.library.isa, "test": f"{kind} {tokens}", "threads": test.engine.threads,
                    "tok/s": speed, "ratio": ratio(samples[str(number)], samples[str(numbers[0])]),
                    "of limit": test.share(speed, limits), "GB/s": limits.bandwidth * 1e-9,
                    "GOPS": 2e-9 * limits.peak, "samples": samples[str(number)],
                })  # fmt: skip
                test.close()
        report(args, f"threads over {numbers[0]}, tokens per second, {args.scheme}", rows, foreign)


if __name__ == "__main__":
    main()
