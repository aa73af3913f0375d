"""Writes a LLaMA folder as an F16 GGUF file, so that llama.cpp and its relatives can be timed on the very same
weights.

    pip install gguf
    python benchmarks/to_gguf.py FOLDER OUT.gguf
    llama-quantize OUT.gguf OUT-q4_0.gguf Q4_0

Only speed is compared on such files: the tokenizer written here names the entries of the vocabulary and is not one
to encode text with.
"""

import argparse
from pathlib import Path

import numpy as np

from agq.checkpoint import open_checkpoint

PARTS = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k [heads*d, columns] from halves (Hugging Face's rotary order) to neighbouring pairs (GGUF's)."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    a = parser.parse_args()
    try:
        import gguf
    except ImportError:
        raise SystemExit("error: the package gguf is missing\nhint: pip install gguf") from None
    checkpoint = open_checkpoint(a.folder)
    spec, parts = checkpoint.spec, checkpoint.parts
    if spec.family != "llama" or spec.attention_bias or spec.mlp_bias or spec.rope.kind != "default":
        raise SystemExit("error: only plain LLaMA checkpoints (no biases, default RoPE) are written")
    w = gguf.GGUFWriter(str(a.out), "llama", use_temp_file=False)
    w.add_context_length(spec.context)
    w.add_embedding_length(spec.hidden)
    w.add_block_count(spec.layers)
    w.add_feed_forward_length(spec.ffn)
    w.add_head_count(spec.heads)
    w.add_head_count_kv(spec.kv_heads)
    w.add_key_length(spec.head_dim)
    w.add_value_length(spec.head_dim)
    w.add_rope_dimension_count(spec.head_dim)
    w.add_rope_freq_base(spec.rope.theta)
    w.add_layer_norm_rms_eps(spec.norm_eps)
    w.add_vocab_size(spec.vocab)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    w.add_tokenizer_model("llama")
    w.add_token_list([b"<unk>", b"<s>", b"</s>", *(f"t{i}".encode() for i in range(3, spec.vocab))])
    w.add_token_scores([0.0] * spec.vocab)
    w.add_token_types(
        [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
        + [gguf.TokenType.NORMAL] * (spec.vocab - 3)
    )
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)

    def add(name: str, source: str, kind: type = np.float16, heads: int = 0) -> None:
        data = checkpoint.read(source)
        w.add_tensor(name, (permute(data, heads) if heads else data).astype(kind))

    add("token_embd.weight", parts.embed + ".weight")
    add("output_norm.weight", parts.final_norm + ".weight", np.float32)
    if not spec.tied:
        add("output.weight", parts.head + ".weight")
    for i in range(spec.layers):
        block = parts.block(i)
        add(f"blk.{i}.attn_norm.weight", block.attn_norm + ".weight", np.float32)
        add(f"blk.{i}.ffn_norm.weight", block.mlp_norm + ".weight", np.float32)
        for role, name in PARTS.items():
            heads = {"q": spec.heads, "k": spec.kv_heads}.get(role, 0)
            add(f"blk.{i}.{name}.weight", block.linears[role].module + ".weight", heads=heads)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main()
