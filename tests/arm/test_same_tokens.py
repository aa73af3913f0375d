"""The same artifact gives the same greedy tokens on this machine and on emulated Raspberry Pi 4 and 5 processors.

There is no Python on the emulated side: run_tokens.c loads the cross-compiled libraries that a wheel for the Pi would
hold, lets them choose by score, and generates. What is compared is thus the whole engine: kernels, attention, norms,
sampling's arg max.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.arm.image import model_image

pytestmark = pytest.mark.slow

CROSS = "aarch64-linux-gnu-"
SYSROOT = "/usr/aarch64-linux-gnu"
CONTEXT = 128
GENERATE = 32
PROMPT = "The history of the steam engine is the history of"


@pytest.fixture(scope="module")
def arm_runner(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path, Path], list[str]]:
    """Runs run_tokens on an emulated CPU; returns the lines that it printed. Fails, not skips, where the tools are
    missing."""
    for tool in (f"{CROSS}gcc", "qemu-aarch64"):
        if shutil.which(tool) is None:
            pytest.fail(f"{tool} is missing: `make deps` installs what the tests under Arm emulation need")
    made = subprocess.run(
        ["make", "-s", "-C", "kernels", f"CROSS={CROSS}"], cwd=repository, capture_output=True, text=True, timeout=600
    )
    assert made.returncode == 0, made.stderr
    program = tmp_path_factory.mktemp("arm") / "run_tokens"
    built = subprocess.run(
        [
            f"{CROSS}gcc",
            "-std=gnu11",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Ikernels/include",
            "tests/arm/run_tokens.c",
            "-o",
            str(program),
            "-ldl",
        ],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert built.returncode == 0, built.stderr

    def run(cpu: str, image: Path, artifact: Path) -> list[str]:
        result = subprocess.run(
            [
                "qemu-aarch64",
                "-L",
                SYSROOT,
                "-cpu",
                cpu,
                str(program),
                "kernels/build/aarch64",
                str(image),
                str(artifact),
            ],
            cwd=repository,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()

    return run


@pytest.fixture(scope="module")
def artifacts(demo_artifact: Path, demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo model packed as W4A8 and as W4A4."""
    import agq

    folder = tmp_path_factory.mktemp("arm-artifacts")
    agq.quantize(demo_model, scheme="W4A4", method="rtn", output=folder / "w4a4")
    agq.pack(folder / "w4a4", folder / "w4a4.agq.safetensors")
    return {"W4A8": demo_artifact, "W4A4": folder / "w4a4.agq.safetensors"}


def artifact_base(artifact) -> int:
    """Address at which the artifact's file is mapped."""
    with open(artifact.path, "rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_bytes))
    return artifact.address("final_norm.weight") - 8 - header_bytes - header["final_norm.weight"]["data_offsets"][0]


def tokens_here(path: Path, prompt: list[int], generate: int) -> list[int]:
    """Greedy tokens of the engine on this machine."""
    from agq.runtime.engine import Engine

    with Engine(path, context=CONTEXT, threads=2) as engine:
        pending, generated = list(prompt), []
        while len(generated) < generate:
            generated.append(int(np.argmax(np.asarray(engine.forward(pending)).reshape(-1))))
            pending = generated[-1:]
        return generated


@pytest.mark.parametrize("scheme", ["W4A8", "W4A4"])
@pytest.mark.parametrize(("cpu", "isa"), [("cortex-a72", "neon"), ("cortex-a76", "dotprod"), ("max", "i8mm")])
def test_same_tokens_as_here(
    arm_runner, artifacts: dict[str, Path], tmp_path: Path, scheme: str, cpu: str, isa: str
) -> None:
    from agq.artifact import open_artifact
    from agq.native.library import load_library
    from agq.runtime.descriptor import build_model, rope_frequencies
    from agq.runtime.tokenizer import Tokenizer

    path = artifacts[scheme]
    artifact = open_artifact(path)
    prompt = Tokenizer(artifact.document("tokenizer.json"), artifact.spec.vocab).encode(PROMPT, add_bos=True)
    ffi = load_library().ffi
    model, keep = build_model(ffi, artifact)
    assert artifact.spec.rope is not None
    inv_freq, scaling = rope_frequencies(artifact.spec, artifact.spec.rope, CONTEXT)
    image = tmp_path / "model.image"
    image.write_bytes(
        model_image(
            ffi,
            model,
            artifact_base(artifact),
            artifact.size,
            inv_freq,
            scaling,
            prompt,
            GENERATE,
            CONTEXT,
            kv_bits=artifact.info.kv_bits,
        )
    )
    del keep
    first, *tokens = arm_runner(cpu, image, path)
    assert first == f"isa {isa}"
    assert [int(token) for token in tokens] == tokens_here(path, prompt, GENERATE)
