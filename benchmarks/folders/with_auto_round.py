"""Quantizes a model folder with auto-round: a folder that agq reads (docs/folders.md).

In an environment with `pip install auto-round auto-round-lib`; on a processor:

    python benchmarks/folders/with_auto_round.py demo/llama-demo OUT --text demo/text/calibration.txt --asym
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from auto_round import AutoRound
from common import arguments, samples, tiny, write_digests
from transformers import AutoModelForCausalLM, AutoTokenizer


def weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """What the library's own modules make of the codes: their answers to unit vectors, in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu")
    for name, module in model.named_modules():
        if hasattr(module, "qweight"):
            columns = module.infeatures if hasattr(module, "infeatures") else module.in_features
            with torch.inference_mode():
                yield name, module(torch.eye(columns)).T


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=128, help="-1: a scale for the whole row")
    parser.add_argument("--asym", action="store_true")
    parser.add_argument("--iters", type=int, default=20, help="steps of a block's tuning; 0: round to nearest")
    parser.add_argument("--format", default="auto_round", help="auto_round, auto_gptq, auto_awq, ...")
    args = parser.parse_args()
    if str(args.model) == "tiny":
        args.model = tiny(Path(tempfile.mkdtemp()))
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    texts = [tokenizer.decode(sample) for sample in samples(args)]
    rounding = AutoRound(
        model,
        tokenizer,
        bits=args.bits,
        group_size=args.group,
        sym=not args.asym,
        iters=args.iters,
        dataset=texts,
        nsamples=args.samples,
        seqlen=args.length // 2,  # decoded texts have other numbers of tokens
        batch_size=2,
        device_map="cpu",
    )
    with tempfile.TemporaryDirectory() as folder:
        rounding.quantize_and_save(folder, format=args.format)
        made = [path.parent for path in Path(folder).rglob("config.json")]  # the library adds a folder
        shutil.copytree(made[0], args.output)
    if args.expected is not None:
        write_digests(args.expected, weights(args.output))


if __name__ == "__main__":
    main()
