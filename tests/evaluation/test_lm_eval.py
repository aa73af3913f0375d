"""lm_eval on a packed model with float weights, against lm_eval's own `hf` model on the folder: tasks of all three
kinds, from files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agq.errors import AgqError, UsageError
from tests.support import clean_environment

pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install lm-eval (about 350 MB with what it needs)")
pytestmark = pytest.mark.slow

TEXTS = (
    "The red wolf is a large canid of the south",
    "In 1964 the river was dammed",
    "Steam engines drove the mills of",
)
CHOICES = [
    {"text": text, "choices": choices, "label": label}
    for text, choices, label in zip(
        TEXTS * 4,
        [["eastern United States", "a", "of the"], [" again.", "ing"], ["the north of England", "x y z"]] * 4,
        [0, 0, 0, 1, 1, 1, 2, 0, 1, 0, 1, 0],
        strict=True,
    )
]
TASKS = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{long}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "answers": {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{text}}",
        "generation_kwargs": {"until": [".", "\n"], "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory, demo_text: Path) -> Path:
    """A folder with the tasks and their documents."""
    folder = tmp_path_factory.mktemp("tasks")
    long = (demo_text / "heldout.txt").read_text(encoding="utf-8")
    rows = [{**row, "long": long[1000 * i : 1000 * i + 150 * (i + 1)]} for i, row in enumerate(CHOICES)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, values in TASKS.items():
        task = {
            "task": f"agq_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
            "test_split": "test",
            **values,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML
    return folder


def evaluated(model: Any, tasks: Path, names: list[str], **options: Any) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """(metrics of each task, what the model said to each of its documents)."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model=model,
        tasks=[f"agq_{name}" for name in names],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
        **options,
    )
    said = {name: [sample["filtered_resps"] for sample in samples] for name, samples in found["samples"].items()}
    numbers = {
        name: {metric: value for metric, value in values.items() if isinstance(value, float) and "stderr" not in metric}
        for name, values in found["results"].items()
    }
    return numbers, said


@pytest.fixture(scope="module")
def theirs(tasks: Path, demo_model: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """What the `hf` model says."""
    pytest.importorskip("peft", reason="lm_eval's `hf` model is not installed: pip install 'lm-eval[hf]'")
    options = f"pretrained={demo_model},dtype=float32,max_length=100"
    return evaluated("hf", tasks, list(TASKS), model_args=options, device="cpu", batch_size=1)


@pytest.mark.parametrize("batch", [1, 5])
def test_it_says_what_transformers_says(
    batch: int,
    theirs: tuple[dict[str, Any], dict[str, list[Any]]],
    tasks: Path,
    demo_model: Path,
    fp32_artifact: Callable[[Path], Path],
) -> None:
    """Accuracies and texts are equal, log-likelihoods to 1e-3. A context of 100 tokens cuts the longer texts."""
    from agq.evaluation.lm_eval import AgqLM

    model = AgqLM(str(fp32_artifact(demo_model)), batch, max_length=100, threads=1)
    ours, said = evaluated(model, tasks, list(TASKS))
    numbers, expected = theirs
    assert said["agq_answers"] == expected["agq_answers"] and len(set(map(str, said["agq_answers"]))) == 3
    assert ours["agq_choices"] == numbers["agq_choices"] and 0 < ours["agq_choices"]["acc,none"] < 1
    assert ours["agq_answers"] == numbers["agq_answers"]
    assert ours["agq_rolling"] == pytest.approx(numbers["agq_rolling"], rel=1e-4)
    for one, two in zip(said["agq_choices"], expected["agq_choices"], strict=True):
        assert [greedy for _, greedy in one] == [greedy for _, greedy in two]
        assert [value for value, _ in one] == pytest.approx([value for value, _ in two], abs=1e-3)
    rolling = [[value for (value,) in values["agq_rolling"]] for values in (said, expected)]
    assert rolling[0] == pytest.approx(rolling[1], rel=1e-4)


def test_the_command(tasks: Path, demo_artifact: Path, tmp_path: Path) -> None:
    """lm_eval's own arguments, and its table."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "agq.evaluation.lm_eval", "--model", "agq"),
            *("--model_args", f"artifact={demo_artifact},threads=1", "--batch_size", "4"),
            *("--tasks", "agq_choices", "--include_path", str(tasks), "--output_path", str(tmp_path / "out")),
        ],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "agq_choices" in run.stdout and "acc_norm" in run.stdout
    written = json.loads(next((tmp_path / "out").rglob("results*.json")).read_text())
    assert written["config"]["model"] == "agq" and 0 <= written["results"]["agq_choices"]["acc,none"] <= 1


def test_chats(chat_artifact: Path) -> None:
    from agq.evaluation.lm_eval import AgqLM

    model = AgqLM(str(chat_artifact), "auto", max_batch_size=2, max_length=64, threads=1)
    assert model.batch_size == 2 and model.chat_template(True).startswith("{{ bos_token }}")
    history = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Well"}]
    prompt = model.apply_chat_template(history[:1])
    assert prompt == "<s>user: Hello\nassistant:"
    assert model.apply_chat_template(history, add_generation_prompt=False) == "<s>user: Hello\nassistant: Well"
    ids = model.tok_encode(prompt)  # the template has written BOS already
    assert ids.count(model.prefix_token_id) == 1 and ids[0] == model.prefix_token_id


def test_refusals(demo_artifact: Path) -> None:
    from lm_eval.api.instance import Instance

    from agq.evaluation.lm_eval import AgqLM

    for words, arguments in {
        "batch_size is `many`": {"batch_size": "many"},
        "context": {"max_length": 0},
    }.items():
        with pytest.raises(UsageError, match=words):
            AgqLM(str(demo_artifact), **arguments)
    model = AgqLM(str(demo_artifact), max_length=32, threads=1)
    for words, settings in {
        "generation_kwargs has `num_beams`": {"num_beams": 4},
        "32 tokens are to be generated": {"max_gen_toks": 32},
    }.items():
        with pytest.raises(UsageError, match=words):
            model.generate_until([Instance("generate_until", {}, ("The", settings), 0)])
    with pytest.raises(AgqError, match="a continuation has 41 tokens"):
        model.loglikelihood([Instance("loglikelihood", {}, ("The", " of" * 41), 0)], disable_tqdm=True)
    with pytest.raises(AgqError, match="no chat template"):
        model.apply_chat_template([{"role": "user", "content": "Hello"}])
