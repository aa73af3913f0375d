"""Quantizes a model folder with GPTQModel: a folder that agq reads (docs/folders.md).

In an environment with `pip install gptqmodel optimum`; on a processor (with few cores, `GPTQMODEL_CPU_WORKERS=2`):

    python benchmarks/folders/with_gptqmodel.py demo/llama-demo OUT --text demo/text/calibration.txt --desc-act
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from common import arguments, samples, tiny, write_digests
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig


def weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """What the library's own kernel in torch makes of the codes, with scales in float32."""
    model = GPTQModel.load(str(folder), backend=BACKEND.TORCH, device="cpu", dtype=torch.float16)
    for name, module in model.model.named_modules():
        if hasattr(module, "qweight"):
            module.scales = module.scales.float()
            yield name, module.dequantize_weight().T


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=128, help="-1: a scale for the whole row")
    parser.add_argument("--asym", action="store_true")
    parser.add_argument("--desc-act", action="store_true", help="groups in order of activation energy")
    parser.add_argument("--format", default="gptq", help="gptq, gptq_v2; of --method awq: gemm")
    parser.add_argument("--method", default="gptq", choices=("gptq", "awq"))
    args = parser.parse_args()
    if str(args.model) == "tiny":
        args.model = tiny(Path(tempfile.mkdtemp()))
    settings = {"bits": args.bits, "group_size": args.group, "sym": not args.asym, "format": args.format}
    if args.method == "gptq":
        # An order of the library's own, which keeps the columns of a group together.
        own_order = not args.desc_act and args.group > 0
        settings |= {"desc_act": args.desc_act, "act_group_aware": own_order}
    config = QuantizeConfig(method=args.method, device="cpu", **settings)
    model = GPTQModel.load(str(args.model), config, backend=BACKEND.TORCH)
    ids = [{"input_ids": sample, "attention_mask": [1] * len(sample)} for sample in samples(args)]
    model.quantize(ids, batch_size=1)
    model.save(str(args.output))
    if args.expected is not None:
        write_digests(args.expected, weights(args.output))


if __name__ == "__main__":
    main()
