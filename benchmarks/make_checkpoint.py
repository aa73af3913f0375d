"""Writes a LLaMA checkpoint of any shape with seeded random weights and a tokenizer: a Hugging Face folder to time
things on.

    python benchmarks/make_checkpoint.py OUT [--shape tinyllama-1.1b | --hidden 2048 --ffn 5632 --layers 22 --heads 32
    --kv-heads 4 ...]

The weights are normal with a standard deviation of 1/sqrt(columns), in bfloat16, so that activations stay of order
one and nothing in a timing depends on special values. Text that such a model writes means nothing. The same
arguments give the same bytes.
"""

import argparse
import itertools
import json
import math
import string
import sys
from pathlib import Path

import numpy as np

from agq.files import atomic_directory, ensure_free_space
from agq.safetensors.files import SafetensorsWriter, f32_to_bf16

# hidden, ffn, layers, heads, kv heads, head size, vocabulary, context
SHAPES = {
    "llama-7b": (4096, 11008, 32, 32, 32, 128, 32000, 2048),
    "llama-7b-block": (4096, 11008, 1, 32, 32, 128, 32000, 2048),
    "llama-3.2-1b": (2048, 8192, 16, 32, 8, 64, 128256, 8192),
    "tinyllama-1.1b": (2048, 5632, 22, 32, 4, 64, 32000, 8192),
    "tiny": (256, 704, 2, 4, 2, 64, 1024, 512),
}


def tokenizer_json(vocab: int) -> dict:
    """A byte-level BPE tokenizer with exactly `vocab` entries: <s>, </s>, the 256 bytes, then letter sequences of
    growing length."""
    if vocab < 260:
        raise SystemExit("error: the vocabulary needs at least 260 entries")
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shown = {byte: chr(byte) for byte in printable}
    for index, byte in enumerate(byte for byte in range(256) if byte not in shown):
        shown[byte] = chr(256 + index)
    entries = ["<s>", "</s>", *(shown[byte] for byte in range(256))]
    merges: list[list[str]] = []
    for length in itertools.count(2):
        for letters in itertools.product(string.ascii_lowercase, repeat=length):
            if len(entries) == vocab:
                break
            entries.append("".join(letters))
            merges.append(["".join(letters[:-1]), letters[-1]])
        if len(entries) == vocab:
            break
    special = [
        {
            "id": i,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, text in enumerate(entries[:2])
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "post_processor": {
            "type": "TemplateProcessing", "single": [bos, sequence], "pair": [bos, sequence],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
        },
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate(entries)}, "merges": merges,
        },
    }  # fmt: skip


def tensors(a: argparse.Namespace):
    """(name, shape) of every tensor in file order."""
    yield "model.embed_tokens.weight", (a.vocab, a.hidden)
    for i in range(a.layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (a.hidden,)
        for name, rows in (("q", a.heads), ("k", a.kv_heads), ("v", a.kv_heads)):
            yield f"{p}self_attn.{name}_proj.weight", (rows * a.head_dim, a.hidden)
        yield p + "self_attn.o_proj.weight", (a.hidden, a.heads * a.head_dim)
        yield p + "post_attention_layernorm.weight", (a.hidden,)
        for name in ("gate", "up"):
            yield f"{p}mlp.{name}_proj.weight", (a.ffn, a.hidden)
        yield p + "mlp.down_proj.weight", (a.hidden, a.ffn)
    yield "model.norm.weight", (a.hidden,)
    if not a.tied:
        yield "lm_head.weight", (a.vocab, a.hidden)


def write(out: Path, a: argparse.Namespace) -> None:
    """Writes the folder `out` (it must not exist) described by the arguments."""
    table = [(name, "BF16", shape) for name, shape in tensors(a)]
    ensure_free_space(out, sum(2 * math.prod(shape) for _, _, shape in table))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": a.hidden,
        "intermediate_size": a.ffn, "num_hidden_layers": a.layers, "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads, "head_dim": a.head_dim, "vocab_size": a.vocab,
        "max_position_embeddings": a.context, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": a.tied, "bos_token_id": 0, "eos_token_id": 1,
        "initializer_range": 0.02, "use_cache": True, "torch_dtype": "bfloat16",
    }  # fmt: skip
    generator = np.random.default_rng(a.seed)
    with atomic_directory(out) as folder:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(a.vocab)))
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}) + "\n"
        )
        (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 1}) + "\n")
        with open(folder / "model.safetensors", "wb") as file:
            writer = SafetensorsWriter(file, table, {"format": "pt"})
            for name, _, shape in table:
                if len(shape) == 1:
                    data = np.ones(shape, np.float32)
                else:
                    data = generator.standard_normal(shape, dtype=np.float32)
                    data *= 1 / math.sqrt(shape[1])
                writer.write(name, f32_to_bf16(data))
            writer.close()


NAMES = ("hidden", "ffn", "layers", "heads", "kv_heads", "head_dim", "vocab", "context")


def make(out: Path, shape: str, tied: bool = False, seed: int = 0, **sizes: int | None) -> None:
    """Writes a checkpoint of a named shape, with the sizes that are not None in place of its own.

    Raises:
        ValueError: sizes that do not fit together.
    """
    values = dict(zip(NAMES, SHAPES[shape], strict=True)) | {name: n for name, n in sizes.items() if n is not None}
    if min(values.values()) < 1 or values["heads"] % values["kv_heads"] or values["head_dim"] % 2:
        raise ValueError("sizes must be positive, heads a multiple of kv-heads, head-dim even")
    write(out, argparse.Namespace(**values, tied=tied, seed=seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="tinyllama-1.1b")
    for name in NAMES:
        parser.add_argument("--" + name.replace("_", "-"), type=int, help="overrides the shape's")
    parser.add_argument("--tied", action="store_true", help="the output head is the embedding")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    if a.out.exists():
        parser.error(f"{a.out} exists already")
    try:
        make(a.out, a.shape, a.tied, a.seed, **{name: getattr(a, name) for name in NAMES})
    except ValueError as error:
        parser.error(str(error))
    size = (a.out / "model.safetensors").stat().st_size
    print(f"{a.out}: {size / 2 / 1e6:.1f} M parameters, {size / 1e9:.2f} GB", file=sys.stderr)


if __name__ == "__main__":
    main()
