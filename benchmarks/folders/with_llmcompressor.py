"""Quantizes a model folder with llm-compressor: a compressed-tensors folder that agq reads (docs/folders.md).

In an environment with `pip install llmcompressor`; on a processor:

    python benchmarks/folders/with_llmcompressor.py demo/llama-demo OUT --scheme FP8_DYNAMIC
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from common import arguments, samples, tiny, write_digests
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

# Schemes that the library has no name for.
OWN = {
    "W8A8_STATIC": QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(num_bits=8, strategy="channel", symmetric=True),
        input_activations=QuantizationArgs(num_bits=8, strategy="tensor", symmetric=True, dynamic=False),
    ),
    "W8A8_ASYM": QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(num_bits=8, strategy="channel", symmetric=True),
        input_activations=QuantizationArgs(num_bits=8, strategy="token", symmetric=False, dynamic=True),
    ),
    "W3A16_ASYM": QuantizationScheme(
        targets=["Linear"], weights=QuantizationArgs(num_bits=3, strategy="group", group_size=32, symmetric=False)
    ),
    "W4A16_32": QuantizationScheme(
        targets=["Linear"], weights=QuantizationArgs(num_bits=4, strategy="group", group_size=32, symmetric=True)
    ),
    "FP8_SMALL_BLOCKS": QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(num_bits=8, type="float", strategy="block", block_structure=[16, 32]),
    ),
}


def weights(folder: Path, dtype: str) -> Iterator[tuple[str, torch.Tensor]]:
    """What compressed-tensors makes of the codes when transformers loads the folder."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), quantization_config=CompressedTensorsConfig(dequantize=True)
    )
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            yield name, module.weight


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--scheme", default="W4A16", help=f"a preset of the library, or one of {', '.join(OWN)}")
    parser.add_argument("--gptq", action="store_true", help="by GPTQ; else rounded to nearest")
    parser.add_argument("--head", action="store_true", help="quantize the output head, too")
    parser.add_argument("--dtype", default="float32", help="what --expected loads the folder in")
    args = parser.parse_args()
    if str(args.model) == "tiny":
        args.model = tiny(Path(tempfile.mkdtemp()))
    ignore = [] if args.head else ["lm_head"]
    if args.scheme in OWN:
        chosen = {"config_groups": {"group_0": OWN[args.scheme]}, "ignore": ignore}
    else:
        chosen = {"targets": "Linear", "scheme": args.scheme, "ignore": ignore}
    recipe = (GPTQModifier if args.gptq else QuantizationModifier)(**chosen)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    ids = samples(args)
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(sample) for sample in ids]})
    oneshot(
        model=model,
        processor=tokenizer,
        dataset=data,
        recipe=recipe,
        max_seq_length=args.length,
        num_calibration_samples=args.samples,
    )
    model.save_pretrained(args.output, save_compressed=True)
    tokenizer.save_pretrained(args.output)
    if args.expected is not None:
        write_digests(args.expected, weights(args.output, args.dtype))


if __name__ == "__main__":
    main()
