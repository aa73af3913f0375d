"""The whole pipeline on the demo model: types the commands that a user would type, shows each, and puts the results in
one table. Then a conversation with a real model, where one can be fetched.

Run by `make demo`; or `.venv/bin/python demo/demo.py` from anywhere. Writes to `.demo/` in the repository. Exit code 0,
or that of the first command that failed.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import smollm2
from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
MODEL = "demo/llama-demo"
CALIBRATION_TEXT = "demo/text/calibration.txt"
HELDOUT_TEXT = "demo/text/heldout.txt"
OUTPUT = Path(".demo")
SCHEMES = ("W4A8", "W4A4")
PROMPT = "The history of the steam engine"
SPEED_PROMPT_CHARACTERS = 1800  # about 480 tokens: enough for a rate of prefill that means something

LEGEND = f"""\
folder: computed in PyTorch with simulated quantization. packed: computed by the C kernels, in integers.
bits per weight: of the linear layers of the blocks; embedding and output head have 8 bits in the quantized files.
activation bits: a mean; of W4A4 inputs that would lose too much have 8.
perplexity: {HELDOUT_TEXT}, windows of 1024 tokens, lower is better. W4A8: 4-bit weights, 8-bit activations.
tok/s: tokens per second on this machine, of a prompt (prefill) and of generated text (decode)."""

console = Console()


@dataclass
class Row:
    """One line of the table. Sizes in bytes, rates in tokens per second; None where the form has no such number, or
    activations are floats."""

    form: str
    bits_per_weight: float
    size: int
    perplexity: float
    activation_bits: float | None
    prefill: float | None = None
    decode: float | None = None


def say(text: str) -> None:
    console.print(f"\n[bold]== {text}[/bold]", highlight=False, soft_wrap=True)


def agq(*arguments: object, capture: bool = False) -> str:
    """Runs one `agq` command in the repository, after showing it. Its progress stays visible; `capture` returns what it
    printed."""
    words = [str(argument) for argument in arguments]
    console.print(f"[green]$[/green] agq {shlex.join(words)}", highlight=False, soft_wrap=True)
    result = subprocess.run(
        [sys.executable, "-m", "agq", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE if capture else None,
        text=True,
        encoding="utf-8",
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if result.returncode != 0:
        console.print(f"\n[red]The demo stops here: that command gave exit code {result.returncode}.[/red]")
        sys.exit(result.returncode)
    return result.stdout or ""


def last_object(output: str) -> dict:
    """The object that a command's `--json` output ends with."""
    return json.loads(output.strip().splitlines()[-1])


def perplexity(model: str | Path) -> tuple[float, float | None]:
    """And the activation bits that it was reached with."""
    found = last_object(agq("eval-ppl", model, "--data", HELDOUT_TEXT, "--seq-len", 1024, "--json", capture=True))
    return found["ppl"], found["activation_bits"]


def speed(artifact: Path, prompt: Path) -> tuple[float, float]:
    """Tokens per second of prefill and of decode."""
    result = last_object(agq("run", artifact, "-f", prompt, "-n", 128, "--temp", 0, "--json", capture=True))
    return result["prefill_tokens_per_s"], result["decode_tokens_per_s"]


def bits_per_weight(artifact: Path) -> float:
    return last_object(agq("info", artifact, "--json", capture=True))["bits_per_weight"]


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def unquantized_rows(prompt: Path) -> list[Row]:
    say("The model as it came, and the engine on it without quantization")
    original = perplexity(MODEL)
    artifact = OUTPUT / "llama-demo-bf16.agq.safetensors"
    agq("pack", MODEL, "--weights", "bf16", "-o", artifact)
    return [
        Row("bf16 folder", 16.0, folder_size(ROOT / MODEL), *original),
        Row(
            "bf16 packed",
            bits_per_weight(artifact),
            artifact.stat().st_size,
            *perplexity(artifact),
            *speed(artifact, prompt),
        ),
    ]


def quantized_rows(scheme: str, statistics: Path, prompt: Path) -> tuple[list[Row], Path]:
    say(f"{scheme}: quantize, pack, measure both forms")
    folder = OUTPUT / f"llama-demo-{scheme}"
    artifact = OUTPUT / f"llama-demo-{scheme}.agq.safetensors"
    agq("quantize", MODEL, "--scheme", scheme, "--calibration", statistics, "--tune", "60", "-o", folder)
    agq("pack", folder, "-o", artifact)
    bits = bits_per_weight(artifact)
    return [
        Row(f"{scheme} folder", bits, folder_size(folder), *perplexity(folder)),
        Row(f"{scheme} packed", bits, artifact.stat().st_size, *perplexity(artifact), *speed(artifact, prompt)),
    ], artifact


def show(rows: list[Row]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("form", no_wrap=True)
    for heading in (
        "bits per\nweight",
        "activation\nbits",
        "file\nsize",
        "perplexity",
        "prefill\ntok/s",
        "decode\ntok/s",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        rates = [f"{rate:,.0f}" if rate is not None else "-" for rate in (row.prefill, row.decode)]
        activations = "float" if row.activation_bits is None else f"{row.activation_bits:.2f}"
        table.add_row(
            row.form,
            f"{row.bits_per_weight:.2f}",
            activations,
            f"{row.size / 1e6:.1f} MB",
            f"{row.perplexity:.2f}",
            *rates,
        )
    say("Result")
    console.print(table)
    console.print(LEGEND, highlight=False, soft_wrap=True)


def conversation() -> None:
    """Three questions to a real model; a sentence where it cannot be fetched."""
    say("A conversation with a real model: SmolLM2-135M-Instruct, from its GGUF file")
    try:
        model = smollm2.fetch()
    except smollm2.Unavailable as problem:
        console.print(f"Left out: {problem}.", highlight=False, soft_wrap=True)
        return
    agq("pack", model, *smollm2.PACK, "--force")
    from agq.runtime.session import Session

    console.print(f"[green]$[/green] agq run {smollm2.ARTIFACT} --temp 0", highlight=False, soft_wrap=True)
    with Session(str(smollm2.ARTIFACT), chat=True, max_tokens=100) as session:
        for question in smollm2.QUESTIONS:
            console.print(f"> {question}", highlight=False, soft_wrap=True)
            answer = session.answer(question)
            for piece in answer:
                console.out(piece.text, end="", highlight=False)
            session.keep(question, answer)
            console.print()


def main() -> None:
    start = time.monotonic()
    os.chdir(ROOT)
    OUTPUT.mkdir(exist_ok=True)
    for path in OUTPUT.iterdir():
        if path.name != smollm2.FOLDER.name:  # what was fetched stays
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    prompt = OUTPUT / "prompt.txt"
    prompt.write_text(Path(HELDOUT_TEXT).read_text(encoding="utf-8")[:SPEED_PROMPT_CHARACTERS], encoding="utf-8")
    rows = unquantized_rows(prompt)

    say("Calibrate: what goes into each layer, on text that is neither training nor evaluation text")
    statistics = OUTPUT / "statistics.safetensors"
    agq("calibrate", MODEL, "--data", CALIBRATION_TEXT, "--samples", 64, "--seq-len", 512, "-o", statistics)

    artifacts = {}
    for scheme in SCHEMES:
        more, artifacts[scheme] = quantized_rows(scheme, statistics, prompt)
        rows += more

    say("Text from the packed W4A8 model (a very small model: grammatical, and about nothing)")
    agq("run", artifacts["W4A8"], PROMPT, "-n", 80, "--temp", 0.7, "--top-p", 0.9, "--seed", 1)
    show(rows)
    conversation()
    console.print(
        f"\nThe demo took {time.monotonic() - start:.0f} s. Its files are in .demo/; `make demo-clean` removes them."
    )
    console.print(
        "Try it yourself:  [green]make chat[/green]   (talk to SmolLM2; or to a model of yours: "
        "[green].venv/bin/agq run FILE[/green])",
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
