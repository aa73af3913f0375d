"""Start-up: `agq --help`, and `agq run` from the start of the process to its first token, against a bare Python start.

    python benchmarks/startup.py MODEL.agq.safetensors

Measured alternately, files in the page cache. Without a model the demo model of the repository is packed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Foreign, alternate, parser, ratio, report

DEMO = Path(__file__).resolve().parent.parent / "demo" / "llama-demo"


def process(*command: str) -> float:
    """Starts a second of a process that runs to its end."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return 1 / (time.perf_counter() - start)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("model", type=Path, nargs="?", help="packed artifact")
    options.add_argument("-t", "--threads", type=int, default=2)
    args = options.parse_args()
    from agq.cli.startup import first_token
    from agq.native.library import load_library

    with tempfile.TemporaryDirectory(prefix="agq-bench-") as folder:
        model = args.model
        if model is None:
            import agq

            model = Path(folder) / "demo.agq.safetensors"
            agq.quantize(DEMO, scheme="W4A8", method="rtn", output=Path(folder) / "quantized")
            agq.pack(Path(folder) / "quantized", model)
        isa = load_library().isa
        foreign = Foreign()
        samples = alternate(
            {
                "python -c pass": lambda: process(sys.executable, "-c", "pass"),
                "agq --help": lambda: process(sys.executable, "-m", "agq", "--help"),
                "agq run, first token": lambda: 1e9 / first_token(model, args.threads, isa, 1)[0],
            },
            args.rounds,
        )
    base = samples["python -c pass"]
    rows = [
        {"start": name, "seconds": 1 / statistics.median(values), "times a bare Python": ratio(base, values),
         "samples": [1 / value for value in values]}
        for name, values in samples.items()
    ]  # fmt: skip
    report(args, "start-up", rows, foreign)


if __name__ == "__main__":
    main()
