"""Perplexity of a quantized folder in transformers, by the libraries that its quantization needs: what agq's is
compared with (docs/folders.md).

In the environment of the library that wrote the folder; on a processor, in float32 where its kernels take that:

    python benchmarks/folders/in_transformers.py FOLDER --text demo/text/heldout.txt --length 512

The protocol is that of `agq eval-ppl --method gptq --ctx 512`: the whole text as tokens, cut into windows, the mean
loss of all tokens but each window's first.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig, GPTQConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--length", type=int, default=512, help="tokens of a window")
    parser.add_argument("--windows", type=int, default=0, help="0: all")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--backend", help="GPTQModel's kernel, such as torch, which computes all of its folders")
    parser.add_argument("--each-token", action="store_true", help="a scale for each token where inputs are matrices")
    parser.add_argument("--float-inputs", action="store_true", help="of compressed-tensors: inputs are not quantized")
    args = parser.parse_args()
    ids = AutoTokenizer.from_pretrained(args.folder)(args.text.read_text(encoding="utf-8"))["input_ids"]
    more: dict[str, Any] = {"device_map": "cpu"}
    if args.float_inputs:
        more["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    if args.backend:
        more["quantization_config"] = GPTQConfig(bits=4, backend=args.backend)  # bits: the folder's count
    model = AutoModelForCausalLM.from_pretrained(args.folder, dtype=getattr(torch, args.dtype), **more).eval()
    for module in model.modules() if args.float_inputs else ():
        module.quantization_enabled = False  # compressed-tensors rounds inputs of dequantized weights, too
    for module in model.modules() if args.each_token else ():
        # compressed-tensors takes the first two dimensions for batch and tokens; OPT's fc1 has tokens and channels.
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0][None] if inputs[0].ndim == 2 else inputs[0],))
    losses = []
    count = len(ids) // args.length
    with torch.inference_mode():
        for window in range(min(count, args.windows) if args.windows else count):
            tokens = torch.tensor(ids[window * args.length : (window + 1) * args.length])[None]
            logits = model(tokens).logits[0, :-1].float()
            losses.append(torch.nn.functional.cross_entropy(logits, tokens[0, 1:]).item())
    perplexity = math.exp(sum(losses) / len(losses))
    print(json.dumps({"folder": args.folder.name, "perplexity": perplexity, "windows": len(losses)}))


if __name__ == "__main__":
    main()
