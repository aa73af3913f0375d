"""Time to the first token: a fresh process, from its start to the first token that it prints, the artifact's pages in
the page cache. Python, loading the kernels, mapping the artifact, the tokenizer and the prompt are all part of it.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from agq.errors import AgqError

PROMPT = "Once upon a time"


def first_token(
    artifact: str | os.PathLike[str],
    threads: int,
    isa: str,
    repetitions: int = 5,
    prompt: str = PROMPT,
    kv_bits: int | None = None,
) -> list[int]:
    """Nanoseconds of each start, after one that is not counted (it fills the page cache).

    Raises:
        AgqError: the process fails; with what it said.
    """
    command = [
        sys.executable,
        "-m",
        "agq",
        "run",
        str(artifact),
        prompt,
        "-n",
        "1",
        "-t",
        str(threads),
        "--json",
        "--no-chat",
    ]
    if kv_bits is not None:
        command += ["--kv-bits", str(kv_bits)]
    package = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {
        "AGQ_ISA": isa,
        "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
    }
    return [_start(command, environment) for _ in range(repetitions + 1)][1:]


def _start(command: list[str], environment: dict[str, str]) -> int:
    start = time.perf_counter_ns()
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        took = time.perf_counter_ns() - start
        _, problem = process.communicate()
    if process.returncode != 0 or not line:
        raise AgqError(
            "the time to the first token cannot be measured: " + problem.decode("utf-8", "replace").strip()[-400:],
            hint="--no-startup leaves it out",
        )
    return took
