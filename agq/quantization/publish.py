"""A quantized folder as a model of the hub: its card, and the upload."""

from __future__ import annotations

import json
from pathlib import Path

from agq.errors import AgqError
from agq.evaluation.evaluate import Evaluation, evaluate_perplexity
from agq.files import atomic_write_text
from agq.formats.effective import mean_words
from agq.hub import push_folder
from agq.quantization.plan import Plan
from agq.quantization.report import QuantizeReport
from agq.reporting import console
from agq.reporting.output import human_size

CARD = "README.md"
# What the card's table is measured on: enough to see a broken model, little enough to be done in a minute.
_DATA, _WINDOWS, _LENGTH = "wikitext2", 16, 512


def publish(plan: Plan, report: QuantizeReport, repo: str) -> str:
    """Measures a finished folder, writes its card (README.md) into it and uploads both to the hub model `repo`; the
    address. Raises AgqError where the upload fails."""
    measured: Evaluation | str
    try:
        console.say(f"measuring {_WINDOWS} windows of {_DATA} for the model card")
        length = min(_LENGTH, plan.checkpoint.spec.context or _LENGTH)
        source = str(plan.checkpoint.path)
        measured = evaluate_perplexity(report.path, _DATA, length, max_windows=_WINDOWS, baseline=source)
    except AgqError as error:  # no network for the text, or too little memory: the model is no worse for it
        console.warning(f"the model card has no perplexity: {error.message}")
        measured = error.message
    atomic_write_text(report.path / CARD, model_card(plan, report, repo, measured))
    scheme = plan.recipe.scheme.name
    return push_folder(report.path, repo, f"{Path(plan.model).name} in {scheme}, quantized by agq")


def model_card(plan: Plan, report: QuantizeReport, repo: str, measured: Evaluation | str) -> str:
    """The text of the card. measured: against the original, or why it was not."""
    recipe, name = plan.recipe, repo.rpartition("/")[2]
    hub_id, _, revision = plan.model.partition("@")
    base = hub_id if not Path(plan.model).exists() and hub_id.count("/") == 1 else None
    agq = json.loads((report.path / "agq.json").read_text(encoding="utf-8"))
    head = ["library_name: transformers", "pipeline_tag: text-generation"]
    if base:
        head += [f"base_model: {base}", "base_model_relation: quantized"]
    head += ["tags:", *(f"- {tag}" for tag in ("agq", "compressed-tensors", recipe.scheme.name))]
    origin = f"[{base}](https://huggingface.co/{base})" if base else f"`{Path(plan.model).name}`"
    origin += f" at `{revision}`" if revision else ""
    text = agq["calibration"]
    data = "none" if text is None else f"{text['description']} (SHA-256 {text['sha256']})"
    lines = [
        *("---", *head, "---", "", f"# {name}", ""),
        f"{origin} in {recipe.scheme.name} ({recipe.scheme.describe()}), quantized by agq {agq['version']}.",
        *("", "## How it was made", ""),
        f"- method: {recipe.method.upper()}",
        f"- calibration text: {data}",
        f"- fingerprint of the original: {agq['model_fingerprint']}",
        *(f"- {note}" for note in plan.notes),
        *(
            "",
            "The recipe, a configuration of `agq quantize`:",
            "",
            "```yaml",
            (report.path / "recipe.yaml").read_text(encoding="utf-8").rstrip(),
            "```",
            "",
        ),
        *("## Measured", ""),
        f"{report.bits_per_weight:.3f} bits per quantized weight, {_activations(report)}, "
        f"{human_size(report.total_bytes)} of weight files.",
        "",
        *_table(measured),
        *("", "## How to run it", "", "```sh"),
        *(f"agq pack {repo} -o {name}.agq.safetensors", f'agq run {name}.agq.safetensors "..."', "```"),
    ]
    if report.transforms.plain:
        lines += [
            "",
            "Or in transformers, with `pip install compressed-tensors`:",
            *("", "```python", "from transformers import AutoModelForCausalLM", ""),
            *(f'model = AutoModelForCausalLM.from_pretrained("{repo}")', "```", ""),
        ]
        found = plan.unserved
        lines += [f"vLLM does not serve it: {'; '.join(found)}."] if found else ["Or by vLLM:", "", "```sh"]
        lines += [] if found else [f"vllm serve {repo}", "```"]
    return "\n".join(lines) + "\n"


def _activations(report: QuantizeReport) -> str:
    """Effective bits of the inputs that the perplexity below was measured with."""
    return "float activations" if report.activation_bits is None else mean_words(report.activation_bits.mean)


def _table(measured: Evaluation | str) -> list[str]:
    """Perplexity of the original and of the result, as Markdown."""
    if isinstance(measured, str) or measured.divergence is None:
        return [f"No perplexity was measured: {measured}"]
    found, result = measured.divergence, measured.result
    return [
        f"| {measured.data} | perplexity | ratio | KL divergence | same likeliest token |",
        "|---|---:|---:|---:|---:|",
        f"| original | {found.baseline_ppl:.3f} | | | |",
        f"| this model | {result.ppl:.3f} | {found.ratio:.4f} +- {found.ratio_stderr:.4f} | {found.kl:.4f} | "
        f"{100 * found.same_top1:.1f} % |",
        "",
        f"Method `gptq`, {_WINDOWS} windows at most, float32 with simulated quantization.",
    ]
