"""What the scripts of this folder share: calibration samples, and digests of what a library reads back.

Every script runs in the environment of one library, without agq.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what every script takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model folder; `tiny`: a random LLaMA of one block")
    parser.add_argument("output", type=Path)
    parser.add_argument("--text", type=Path, help="calibration text; default: random tokens")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=512, help="tokens of a sample")
    parser.add_argument("--expected", type=Path, help="write digests of the weights as the library reads them here")
    return parser


def tiny(folder: Path, hidden: int = 64, ffn: int = 128) -> Path:
    """A random LLaMA of one block with weights on a coarse grid, and the tokenizer that libraries insist on."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=64,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(64)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w2", pad_token="w3").save_pretrained(folder)
    return folder


def samples(args: argparse.Namespace) -> list[list[int]]:
    """Token ids of the calibration samples."""
    if args.text is None:
        generator = torch.Generator().manual_seed(2)
        size = (args.samples, args.length)
        return torch.randint(4, 64, size, generator=generator).tolist()
    ids = AutoTokenizer.from_pretrained(args.model)(args.text.read_text(encoding="utf-8"))["input_ids"]
    return [ids[at : at + args.length] for at in range(0, args.samples * args.length, args.length)]


def write_digests(path: Path, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """SHA-256 of each weight matrix, float32 [out, in] without negative zeros, by its module's name."""
    found = {
        name: hashlib.sha256((values.detach().float() + 0.0).contiguous().numpy().tobytes()).hexdigest()
        for name, values in weights
    }
    path.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")
