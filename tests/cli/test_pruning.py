"""Token pruning as a user asks for it: eval-ppl, run, calibrate --search-pruning, and a recipe that carries it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.conftest import DEMO_MODEL


@pytest.fixture(scope="module")
def text(demo_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text((demo_text / "heldout.txt").read_text(encoding="utf-8")[:2500], encoding="utf-8")
    return path


@pytest.mark.slow
def test_three_perplexities(call, demo_model, fp32_artifact, text) -> None:
    """Folder and artifact give the same three numbers; the unpruned ones are those without --prune; --max-ppl looks at
    all tokens."""
    common = ["--data", text, "--seq-len", 256, "--max-windows", 2, "--json", "-t", 1]
    prune = ["--prune", "3-5:0.4"]
    records = [
        json.loads(call("eval-ppl", model, *common, *prune).out) for model in (demo_model, fp32_artifact(demo_model))
    ]
    plain = json.loads(call("eval-ppl", demo_model, *common).out)
    for name in ("ppl_survivors", "ppl_unpruned_same_positions", "ppl_all", "ppl_unpruned"):
        assert math.isclose(records[0][name], records[1][name], rel_tol=1e-4), name
    record = records[0]
    assert math.isclose(record["ppl_unpruned"], plain["ppl"], rel_tol=1e-9)
    assert record["ppl"] == record["ppl_all"] > record["ppl_unpruned"]
    assert record["tokens"] == 510 and record["survivors"] == 2 * (
        155 - 1
    )  # 256 - 40 - 33 - 28, the last has no target
    assert math.isclose(record["sparsity"], 1 - (256 * 2 + 216 + 183 + 155 * 2) / (256 * 6))
    assert record["pruning"] == {"layers": "3-5", "beta": 0.4, "positions": "safe", "scores": "fp"}

    shown = call(
        "eval-ppl", demo_model, *common[:-3], *prune, "--max-ppl", (record["ppl_all"] + record["ppl_unpruned"]) / 2
    )
    assert shown.code == 1 and "above the limit" in shown.err
    for words in ("survivors only", "unpruned, same tokens", "all tokens", "308 of 510 tokens"):
        assert words in shown.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--prune", "3-9:0.2"], "names layer 9, the model has 6"),
        (["--prune", "3-5"], "write LAYERS:BETA"),
        (["--prune", "a-5:0.2"], "does not name layers"),
        (["--prune", "3-5:1.2"], "not at least 0 and below 1"),
        (["--prune", "3:0.2", "--prune-positions", "none"], "use safe or paper"),
        (["--prune", "3:0.2", "--method", "llama.cpp"], "`--method gptq`"),
        (["--prune", "3:0.2", "--baseline", DEMO_MODEL], "exclude each other"),
        (["--prune-positions", "paper"], "needs `--prune`"),
    ],
)
def test_refusals(call, demo_model, text, options: list, words: str) -> None:
    result = call("eval-ppl", demo_model, "--data", text, "--seq-len", 64, *options)
    assert result.code and words in result.err and result.out == ""


@pytest.mark.slow
def test_run_and_a_recipe_that_carries_it(call, demo_model, text, tmp_path: Path) -> None:
    """calibrate --search-pruning writes a recipe; a model quantized and packed with it prunes unless it is told not
    to."""
    found = call(
        "calibrate", demo_model, "--search-pruning", "--data", text, "--samples", 1, "--seq-len", 256,
        "--sparsity", 0.2, "-t", 1, "-o", tmp_path / "pruning.yaml", "--json",
    )  # fmt: skip
    assert found.code == 0, found.err
    report = json.loads(found.out)
    best = [item for item in report["candidates"] if item["best"]]
    assert [item["options"] for item in best] == [report["choice"]]
    assert best[0]["increase"] == min(item["increase"] for item in report["candidates"])
    assert all(item["sparsity"] >= 0.2 for item in report["candidates"])

    folder, artifact = tmp_path / "model", tmp_path / "model.agq.safetensors"
    config = ["--config", tmp_path / "pruning.yaml", "--method", "rtn"]
    assert call("quantize", demo_model, *config, "-o", folder).code == 0
    assert call("pack", folder, "-o", artifact).code == 0
    assert json.loads(call("info", artifact, "--json").out)["pruning"] == report["choice"]
    assert "token pruning" in call("info", folder).out

    given = ["--prune", "3-5:0.3", "--prune-positions", "paper"]
    assert call("quantize", demo_model, "--method", "rtn", *given, "-o", tmp_path / "given").code == 0
    wanted = {"layers": "3-5", "beta": 0.3, "positions": "paper", "scores": "fp"}
    assert json.loads(call("info", tmp_path / "given", "--json").out)["pruning"] == wanted
    refused = call("quantize", demo_model, "--method", "rtn", "--prune", "3-9:0.3", "-o", tmp_path / "refused")
    assert refused.code == 1 and "names layer 9" in refused.err and not (tmp_path / "refused").exists()

    prompt = text.read_text(encoding="utf-8")[:800]
    common = ["run", artifact, prompt, "-n", 4, "--json", "-t", 1]
    runs = [call(*common, *more) for more in ([], ["--no-prune"], ["--prune", "2:0.5", "--prune-positions", "paper"])]
    default, none, other = (json.loads(result.out.splitlines()[-1]) for result in runs)
    assert default["pruning"] == report["choice"] and default["prompt_survivors"] < default["prompt_tokens"]
    assert "pruning" not in none
    assert other["pruning"]["positions"] == "paper"
    assert other["prompt_survivors"] == math.ceil(other["prompt_tokens"] / 2)
    assert call(*common, "--prune", "2:0.5", "--no-prune").code
