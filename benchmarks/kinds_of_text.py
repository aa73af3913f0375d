"""What quantizing costs on four kinds of text: encyclopaedia, prose, code, and the original's own chat answers.

    python benchmarks/kinds_of_text.py ORIGINAL MODEL... --encyclopaedia heldout.txt --prose novel.txt

For each model and kind: the original's perplexity, by how many percent the model's is higher, the mean KL divergence
from the original's predictions in nats, and how often both hold the same token likeliest. ORIGINAL is the unquantized
folder; MODEL a packed file or a folder.

Code is taken from Python's standard library, whose version the report names. Chat answers are what the original says to
the prompts below, word for word likeliest; only tokens of the answers are scored. None of these texts is calibrated on.
A kind without a text, and chat without a chat template, are left out; the report says so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import Foreign, parser, report

from agq.checkpoint import Checkpoint, open_checkpoint
from agq.evaluation.methods import Plan, Window, plan_tokens
from agq.evaluation.opening import open_scorer
from agq.evaluation.perplexity import compare_plan
from agq.text.sources import load_text
from agq.text.tokenizers import TextTokenizer, load_tokenizer, read_files
from agq.tokenizer.chat_template import render

KINDS = ("encyclopaedia", "prose", "code", "chat answers")
# Modules of the standard library that make the text of code.
MODULES = (argparse, json, json.decoder, hashlib, platform)
PROMPTS = (
    "How can I remove a coffee stain from a carpet?",
    "Explain photosynthesis in simple words.",
    "Write a short story about a lighthouse keeper.",
    "What is the difference between a lake and a pond?",
    "Give me three tips for learning to play the guitar.",
    "Write a Python function that checks whether a word is a palindrome.",
    "Why do leaves change their color in autumn?",
    "Plan a simple dinner for two vegetarians.",
    "What happened during the first moon landing?",
    "Write a polite email asking a neighbor to turn down the music.",
)


def module_text(modules: tuple[Any, ...] = MODULES) -> str:
    """The sources of modules, one after the other."""
    return "\n".join(Path(module.__file__).read_text("utf-8") for module in modules)


def answers(folder: Path, template: str, prompts: tuple[str, ...], length: int) -> list[Window]:
    """The original's likeliest answers, up to `length` tokens each, as windows that score the answers' tokens."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer, special = load_tokenizer(folder), read_files(folder).named
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    found = []
    for prompt in prompts:
        text = render(template, [{"role": "user", "content": prompt}], special)
        ids = tokenizer.encode(text, add_bos=False)
        with torch.inference_mode():
            made = model.generate(
                torch.from_numpy(ids)[None], attention_mask=torch.ones(1, len(ids)), do_sample=False,
                max_new_tokens=length,
            )[0].numpy()  # fmt: skip
        if len(made) > len(ids):
            found.append(Window(made[:-1], len(ids) - 1, made[len(ids) :]))
    return found


def plans(
    args: argparse.Namespace, checkpoint: Checkpoint, tokenizer: TextTokenizer
) -> Iterator[tuple[str, Plan, str]]:
    """(kind, windows, what the text is) of each kind that there is a text for."""
    for kind in KINDS[:2]:
        if (path := getattr(args, kind)) is not None:
            text = load_text(path)
            yield kind, _cut(text.text, tokenizer, args), f"{text.label}, SHA-256 {text.sha256[:12]}"
    code = module_text()
    digest = hashlib.sha256(code.encode()).hexdigest()[:12]
    named = ", ".join(module.__name__ for module in MODULES)
    yield "code", _cut(code, tokenizer, args), f"{named} of Python {platform.python_version()}, SHA-256 {digest}"
    if (template := read_files(checkpoint).template) is not None:
        windows = answers(checkpoint.path, template, PROMPTS[: args.prompts], args.answer)
        tokens = sum(len(window.inputs) + 1 for window in windows)
        plan = Plan(windows, len(windows), tokens, "as the template has it", False, max(len(w.inputs) for w in windows))
        yield "chat answers", plan, f"likeliest answers to {len(windows)} prompts, up to {args.answer} tokens each"


def _cut(text: str, tokenizer: TextTokenizer, args: argparse.Namespace) -> Plan:
    """The first windows of a text, as in the GPTQ paper."""
    return plan_tokens("gptq", tokenizer.encode(text), args.seq_len, max_windows=args.windows)


def measure(args: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows, a model on a kind of text each, and what each kind's text is."""
    checkpoint = open_checkpoint(args.original)
    texts = {kind: (plan, about) for kind, plan, about in plans(args, checkpoint, load_tokenizer(checkpoint))}
    baseline = open_scorer(args.original, args.seq_len)
    rows = []
    for model in args.models:
        scorer = open_scorer(model, args.seq_len)
        for kind, (plan, _) in texts.items():
            ours, base, far = compare_plan(scorer, baseline, plan, "gptq")
            rows.append(
                {
                    "model": model.name,
                    "kind": kind,
                    "tokens": ours.tokens,
                    "ppl": base.ppl,
                    "loss_percent": 100 * (far.ratio - 1),
                    "loss_stderr": 100 * far.ratio_stderr,
                    "kl": far.kl,
                    "top1_percent": 100 * far.same_top1,
                }
            )
        scorer.close()
    baseline.close()
    return rows, {kind: about for kind, (_, about) in texts.items()}


def main() -> None:
    found = parser(__doc__ or "", rounds=False)
    found.add_argument("original", type=Path, help="the unquantized folder")
    found.add_argument("models", type=Path, nargs="+", help="packed files or quantized folders")
    found.add_argument("--encyclopaedia", type=Path, help="a text or jsonl file; without one the kind is left out")
    found.add_argument("--prose", type=Path, help="the same: a novel or news")
    found.add_argument("--seq-len", type=int, default=512, help="tokens of a window (default 512)")
    found.add_argument("--windows", type=int, default=8, help="windows of each text (default 8)")
    found.add_argument("--prompts", type=int, default=len(PROMPTS), help=f"chat answers (default {len(PROMPTS)})")
    found.add_argument("--answer", type=int, default=128, help="most tokens of an answer (default 128)")
    args = found.parse_args()
    foreign = Foreign()
    rows, texts = measure(args)
    texts |= {kind: "left out" for kind in KINDS if kind not in texts}
    report(args, f"what quantizing {args.original.name} costs by kind of text", rows, foreign, **texts)


if __name__ == "__main__":
    main()
