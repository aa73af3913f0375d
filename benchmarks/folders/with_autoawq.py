"""Quantizes a model folder with AutoAWQ: a folder that agq reads (docs/folders.md).

In an environment with `pip install autoawq`; on a processor:

    python benchmarks/folders/with_autoawq.py demo/llama-demo OUT --text demo/text/calibration.txt
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from awq import AutoAWQForCausalLM
from awq.utils.packing_utils import dequantize_gemm
from common import arguments, samples, tiny, write_digests
from safetensors.torch import load_file
from transformers import AutoTokenizer


def weights(folder: Path, group: int) -> Iterator[tuple[str, torch.Tensor]]:
    """What the library's own function makes of the codes, with scales in float32."""
    tensors = load_file(folder / "model.safetensors")
    for name in [key.removesuffix(".qweight") for key in tensors if key.endswith(".qweight")]:
        parts = (tensors[f"{name}.{leaf}"] for leaf in ("qweight", "qzeros"))
        yield name, dequantize_gemm(*parts, tensors[f"{name}.scales"].float(), 4, group).T


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--group", type=int, default=128)
    args = parser.parse_args()
    if str(args.model) == "tiny":
        args.model = tiny(Path(tempfile.mkdtemp()))
    model = AutoAWQForCausalLM.from_pretrained(str(args.model), device_map="cpu")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    config = {"zero_point": True, "q_group_size": args.group, "w_bit": 4, "version": "GEMM"}
    texts = [tokenizer.decode(sample) for sample in samples(args)]
    model.quantize(
        tokenizer,
        quant_config=config,
        calib_data=texts,
        max_calib_samples=args.samples,
        max_calib_seq_len=args.length,
    )
    model.save_quantized(str(args.output))
    tokenizer.save_pretrained(args.output)
    if args.expected is not None:
        write_digests(args.expected, weights(args.output, args.group))


if __name__ == "__main__":
    main()
