"""Several sequences computed together against one: tokens per second of all of them, measured alternately.

    python benchmarks/batches.py --batches 1,2,4,8,16

Decoding one sequence reads every weight for one token; B sequences share the reading, so speed grows with B until
computing is the limit.
"""

from __future__ import annotations

import statistics

from common import Foreign, Timed, alternate, artifact, model_parser, ratio, report, workplace


def main() -> None:
    options = model_parser(__doc__, "W4A8")
    options.add_argument("-t", "--threads", type=int, default=2)
    options.add_argument("-b", "--batches", default="1,2,4,8,16", help="the first is the base (default 1,2,4,8,16)")
    options.add_argument("-n", "--decode", type=int, default=16)
    options.add_argument("-d", "--depth", type=int, default=32)
    args = options.parse_args()
    numbers = [int(item) for item in args.batches.split(",")]
    rows = []
    with workplace(args) as work:
        model = artifact(args, work, args.scheme)
        foreign = Foreign()
        tests = {
            str(number): Timed(model, "decode", args.decode, args.threads, args.depth, number, args.isa)
            for number in numbers
        }
        samples = alternate(tests, args.rounds)
        for number, test in zip(numbers, tests.values(), strict=True):
            speed = statistics.median(samples[str(number)])
            rows.append({
                "isa": test.engine.library.isa, "threads": test.engine.threads, "sequences": number, "tok/s": speed,
                "ratio": ratio(samples[str(number)], samples[str(numbers[0])]),
                "of limit": test.share(speed, test.limits()), "samples": samples[str(number)],
            })  # fmt: skip
            test.close()
        report(args, f"sequences decoded together over {numbers[0]}, tokens per second, {args.scheme}", rows, foreign)


if __name__ == "__main__":
    main()
