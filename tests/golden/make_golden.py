"""Writes golden files with the agq that Python finds: packed files of tiny models, and what it computes from them.

    PYTHONPATH=TREE AGQ_ISA=scalar python tests/golden/make_golden.py OUTPUT [--folders]

TREE is the source tree of the version, with compiled kernels: `make -C kernels LEVELS=scalar`. OUTPUT is
`tests/golden/abiN` for the ABI of that version. Only the command line and the engine are used, in the form that every
version has. `--folders` writes the quantized folders of `tests/golden/folders` instead, with the hashes of what they
pack to.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

PROMPT = (1, 17, 5, 90, 33, 33, 64, 8, 71, 2, 40, 59)
NEW_TOKENS = 16
VOCABULARY = 96
# Relative to the folder of the models, in which the commands run.
CALIBRATION = ("--data", "text.txt", "--samples", "8", "--seq-len", "32")

# name -> (model, arguments of quantize, or None to pack it as it is, arguments of pack)
ARTIFACTS: dict[str, tuple[str, tuple[str, ...] | None, tuple[str, ...]]] = {
    "llama-w4a8": ("llama", ("--preset", "rtn", "--scheme", "W4A8", "-g", "32"), ()),
    "llama-w4a4": (
        "llama",
        ("--preset", "rtn", "--scheme", "W4A4", "-g", "32", "--act-group", "32", "--hadamard", "32", "--kv-bits", "4"),
        (),
    ),
    "opt-w8a8": ("opt", ("--preset", "rtn", "--scheme", "W8A8"), ()),
    "opt-agile": ("opt", ("--preset", "agile-a4", "-g", "32", *CALIBRATION), ()),
    "bloom-w4a8-asym": ("bloom", ("--preset", "rtn", "--scheme", "W4A8_ASYM", "-g", "32"), ()),
    "bloom-bf16": ("bloom-small", None, ("--weights", "bf16")),
}
# What ABI 5 added: families with norms, caps and windows of their own, and a GGUF file's minima.
FAMILIES = {
    "gemma2-w4a8": ("gemma2", ("--preset", "rtn", "--scheme", "W4A8", "-g", "32"), ()),
    "phi3-w8a8": ("phi3", ("--preset", "rtn", "--scheme", "W8A8"), ()),
    "qwen3-w4a8": ("qwen3", ("--preset", "rtn", "--scheme", "W4A8", "-g", "32"), ("--kv-bits", "4")),
    "llama-q4_1": ("llama.gguf", None, ()),
}
# What ABI 6 added: a rotated embedding that is the head behind a matrix, and heads of 6 bits.
TIED = {
    "llama-tied-w4a8": ("llama-tied", ("--preset", "rtn", "--scheme", "W4A8", "-g", "32", "--rotate"), ()),
    "llama-tied-head6": (
        "llama-tied",
        ("--preset", "rtn", "--scheme", "W4A8", "-g", "32", "--rotate"),
        ("--head-bits", "6"),
    ),
}
# What ABI 7 added: columns in another order, of a GPTQ folder whose groups have scattered columns.
ORDERED = {"llama-gptq-order": ("llama-order", None, ())}
# What ABI 4 added.
SINKS = ("--preset", "rtn", "--scheme", "W4A4", "-g", "32", "--act-group", "32", "--sink-tokens", "4")
FOLDERS = ("llama-w4a8", "opt-w8a8", "bloom-w4a8-asym")


def write_models(folder: Path) -> None:
    """Random weights in bfloat16, a tokenizer of one word per token, and a text of such words."""
    import torch
    from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

    llama = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    opt = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        ffn_dim=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    bloom = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
    models = {
        "llama": lambda: LlamaForCausalLM(llama),
        "opt": lambda: OPTForCausalLM(opt),
        "bloom": lambda: BloomForCausalLM(BloomConfig(**bloom, hidden_size=64, n_layer=1, n_head=2)),
        "bloom-small": lambda: BloomForCausalLM(BloomConfig(**bloom, hidden_size=32, n_layer=1, n_head=2)),
    }
    models |= families()
    models["llama-tied"] = lambda: LlamaForCausalLM(LlamaConfig(**llama.to_dict() | {"tie_word_embeddings": True}))
    words = {"<unk>": 0, **{f"t{index}": index for index in range(1, VOCABULARY)}}
    tokenizer = {
        "version": "1.0",
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    }
    tokens = np.random.default_rng(0).integers(1, VOCABULARY, 2000)
    (folder / "text.txt").write_text(" ".join(f"t{token}" for token in tokens))
    for seed, (name, build) in enumerate(models.items()):
        torch.manual_seed(seed)
        model = build()
        for parameter in model.parameters():
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        model.to(torch.bfloat16).save_pretrained(folder / name)
        (folder / name / "tokenizer.json").write_text(json.dumps(tokenizer))


def families() -> dict[str, Any]:
    """Models that need ABI 5."""
    from transformers import Gemma2Config, Gemma2ForCausalLM, Phi3Config, Phi3ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    gemma2 = Gemma2Config(**shape, head_dim=16, sliding_window=5, query_pre_attn_scalar=16)
    phi3 = Phi3Config(**shape, sliding_window=7, partial_rotary_factor=0.5)
    return {
        "gemma2": lambda: Gemma2ForCausalLM(gemma2),
        "phi3": lambda: Phi3ForCausalLM(phi3),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=32)),
    }


def write_gguf(models: Path) -> None:
    """The LLaMA as a GGUF file of Q4_1 blocks, with a vocabulary that such a file can have."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.gguf.gguf_files import types_of, write

    torch.manual_seed(9)
    config = LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    write(models / "llama.gguf", LlamaForCausalLM(config), "llama", types_of("Q4_1"))


def write_ordered(models: Path) -> None:
    """A folder in GPTQ's layout with random codes, its groups in a random activation order."""
    from tests.checkpoint.folders import config
    from tests.checkpoint.word_folders import write_words

    table = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": True}
    rng = np.random.default_rng(7)
    orders = {columns: rng.permutation(columns) for columns in (64, 96)}
    settings = config("llama", vocab_size=VOCABULARY)
    write_words(models / "llama-order", settings, table, lambda columns, size: orders[columns] // size)


def agq(models: Path, *arguments: str | Path) -> None:
    """Runs a command in the models' folder; its error ends the program."""
    subprocess.run([sys.executable, "-m", "agq", *map(str, arguments)], check=True, cwd=models)


def quantize(models: Path, model: str, options: tuple[str, ...], output: Path) -> None:
    """A quantized folder."""
    agq(models, "quantize", model, *options, "--threads", "1", "-o", output)


def computed(path: Path, isa: str) -> dict[str, Any]:
    """What the engine makes of PROMPT.

    logits_sha256: of the prompt's float32 logits [12, 96] in little endian. logits: the first eight after the prompt.
    tokens: the likeliest ones, NEW_TOKENS of them.
    """
    from agq.runtime.engine import Engine

    with Engine(path, threads=1, context=64, isa=isa) as engine:
        logits = engine.forward(list(PROMPT), logits="all")
        digest = hashlib.sha256(np.ascontiguousarray(logits, "<f4").tobytes()).hexdigest()
        first = [float(value) for value in logits[-1, :8]]
        tokens = [int(logits[-1].argmax())]
        while len(tokens) < NEW_TOKENS:
            tokens.append(int(engine.forward(tokens[-1:])[-1].argmax()))
    return {"tokens": tokens, "logits_sha256": digest, "logits": first}


def packed_hash(path: Path) -> str:
    """SHA-256 of a packed file without the name of the version that wrote it and the header's own hash."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    for key in ("agq.created_by", "agq.header_sha256"):
        del header["__metadata__"][key]
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + data[start:]).hexdigest()


def write_artifacts(models: Path, output: Path) -> dict[str, Any]:
    """Packed files into `output`; returns what is computed from each."""
    from agq.artifact.header import ABI

    found = {}
    artifacts = {**ARTIFACTS, "llama-sinks": ("llama", SINKS, ())} if ABI >= 4 else ARTIFACTS
    if ABI >= 5:  # a file of what was there before is one of ABI 4
        artifacts = FAMILIES
    if ABI == 5:
        write_gguf(models)
    if ABI == 6:
        artifacts = TIED
    if ABI >= 7:
        write_ordered(models)
        artifacts = ORDERED
    for name, (model, options, more) in artifacts.items():
        folder = models / model
        if options is not None:
            folder = models / "quantized" / name
            quantize(models, model, options, folder)
        path = output / f"{name}.agq.safetensors"
        agq(models, "pack", folder, *more, "-o", path, "--force")
        found[name] = {**computed(path, "scalar"), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return {"abi": ABI, "prompt": list(PROMPT), "artifacts": found}


def write_folders(models: Path, output: Path) -> dict[str, Any]:
    """Quantized folders into `output`; returns the hashes of what they pack to."""
    found = {}
    for name in FOLDERS:
        model, options, _ = ARTIFACTS[name]
        quantize(models, model, options or (), output / name)
        agq(models, "pack", output / name, "-o", models / f"{name}.packed")
        found[name] = packed_hash(models / f"{name}.packed")
    return {"packed_hash": found}


def main() -> None:
    output = Path(sys.argv[1]).resolve()
    output.mkdir(parents=True, exist_ok=True)
    if os.environ.get("AGQ_ISA") != "scalar":
        raise SystemExit("error: set AGQ_ISA=scalar, whose numbers are the same on every machine")
    with tempfile.TemporaryDirectory() as name:
        models = Path(name)
        write_models(models)
        (models / "quantized").mkdir()
        write = write_folders if "--folders" in sys.argv[2:] else write_artifacts
        expected = write(models, output)
    (output / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
