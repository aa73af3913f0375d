"""`agq sweep`: definition, resuming, results; on the demo model with few tokens."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from agq.errors import AgqError
from agq.sweep.definition import load_sweep, parse_sweep, select

SMALL = """
models:
  - {name: demo, path: MODEL, seq_len: 256}
texts:
  - {name: held-out, data: TEXT, windows: 3}
calibration: {data: CALIBRATION, samples: 4, seed: 0}
divergence_windows: 1
reference_windows: 1
prefill: 32
decode: 4
rows:
  - {name: RTN W8A8, options: {method: rtn, scheme: W8A8, preset: rtn}}
  - {name: RTN W4A4, options: {method: rtn, scheme: W4A4, preset: rtn}, ablation: true}
  - {name: pruned, prune: "3-5:0.3"}
  - {name: impossible, options: {method: rtn, scheme: W4A8, group_size: 96, preset: rtn}}
"""


@pytest.fixture
def definition(tmp_path: Path, demo_model: Path, demo_text: Path) -> Path:
    path = tmp_path / "small.yaml"
    words = {"MODEL": demo_model, "TEXT": demo_text / "heldout.txt", "CALIBRATION": demo_text / "calibration.txt"}
    text = SMALL
    for word, value in words.items():
        text = text.replace(word, str(value))
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def call_sweep(capsys: pytest.CaptureFixture[str]):
    """A dry run in this process: .code .err"""
    from agq.cli import main

    def run(path: Path) -> SimpleNamespace:
        code = main(["sweep", str(path), "--dry-run"])
        return SimpleNamespace(code=code, err=capsys.readouterr().err)

    return run


@pytest.mark.slow
@pytest.mark.traced
def test_a_sweep_measures_compares_and_resumes(definition: Path, agq_cli, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = agq_cli("sweep", definition, "-o", output, check=True)
    record = {item["row"]: item for item in json.loads((output / "results.json").read_text())["records"]}
    assert list(record) == ["bf16", "RTN W8A8", "RTN W4A4", "pruned", "impossible"]
    base = record["bf16"]["texts"]["held-out"]["ppl"]
    eight, four = (record[name]["texts"]["held-out"]["ppl"] / base for name in ("RTN W8A8", "RTN W4A4"))
    assert 0.98 < eight < 1.01 and 1.03 < four < 2
    assert record["RTN W8A8"]["kl"] < record["RTN W4A4"]["kl"]
    assert record["RTN W8A8"]["same_top1"] > record["RTN W4A4"]["same_top1"]
    assert record["RTN W4A4"]["bits_per_weight"] == pytest.approx(4.125)
    assert record["bf16"]["bits_per_weight"] == 16
    # Two forms of one model on 255 tokens: codes that flip in one of them leave half a percent (0.2 % on a whole text).
    assert record["RTN W8A8"]["reference_ratio"] == pytest.approx(1, abs=0.02)
    for name in ("RTN W8A8", "RTN W4A4"):
        assert record[name]["prefill"] > 0 and record[name]["decode"] > 0
    pruned = record["pruned"]["texts"]["held-out"]
    assert pruned["ppl_all"] > base > 0 and pruned["ppl_survivors"] > pruned["ppl_unpruned_same_positions"]
    assert 0 < pruned["sparsity"] < 0.3 and "survivors only" in result.stdout
    assert "96" in record["impossible"]["error"] and "1 entries" in result.stderr
    assert result.stdout == (output / "results.md").read_text(encoding="utf-8")
    assert "| RTN W8A8 |" in result.stdout and "Ablation:" in result.stdout and "## Not made" in result.stdout
    assert (output / "results.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")

    made = {path: path.stat().st_mtime_ns for path in (output / "cells").iterdir()}
    (output / "cells" / "demo--RTN-W4A4.json").unlink()
    again = agq_cli("sweep", definition, "-o", output, "--no-plot", check=True)
    changed = [path.name for path, when in made.items() if path.stat().st_mtime_ns != when]
    assert changed == ["demo--RTN-W4A4.json"]
    assert again.stdout.count("| RTN W4A4 |") == 1


@pytest.mark.slow
def test_entries_made_at_the_same_time_are_the_same(definition: Path, agq_cli, tmp_path: Path) -> None:
    rows = [option for name in ("RTN W8A8", "impossible") for option in ("--row", name)]
    records = []
    for jobs in (1, 2):
        output = tmp_path / str(jobs)
        agq_cli("sweep", definition, "-o", output, "--no-plot", "--jobs", jobs, *rows, check=True)
        records.append(json.loads((output / "results.json").read_text())["records"])
        assert not list((output / "work" / "demo").glob("*W8A8*"))
    # Nothing is made again, though the artifact of the unquantized model is gone.
    (output / "work" / "demo" / "unquantized.agq.safetensors").unlink()
    assert (
        agq_cli("sweep", definition, "-o", output, "--no-plot", *rows, check=True).stdout
        == (output / "results.md").read_text()
    )
    assert not (output / "work" / "demo" / "unquantized.agq.safetensors").exists()
    one, two = records
    assert [record["row"] for record in one] == ["bf16", "RTN W8A8", "impossible"]
    for first, second in zip(one, two, strict=True):
        assert first.get("error") == second.get("error")
        assert first.get("texts") == second.get("texts") and first.get("kl") == second.get("kl")
        assert "error" in second or (second["prefill"] > 0 and second["decode"] > 0)


def test_a_model_with_nothing_to_draw_has_an_empty_panel(definition: Path, tmp_path: Path) -> None:
    from agq.sweep.plot import write_plot

    sweep = load_sweep(definition)
    record = {"model": "demo", "row": "bf16", "options": {}, "prune": None, "texts": {"held-out": {"ppl": 20.0}}}
    write_plot(tmp_path / "plot.svg", sweep, [record])
    assert "demo" in (tmp_path / "plot.svg").read_text(encoding="utf-8")


def test_the_picture_of_sizes_has_both_kinds_of_formats(tmp_path: Path) -> None:
    """A row with a target is a point beside the line of the others; a row that failed is neither."""
    from agq.sweep.plot import chosen_formats, write_sizes

    rows = [{"name": "bf16"}, {"name": "four"}, {"name": "five"}, {"name": "broken"}]
    rows[1]["options"] = rows[3]["options"] = {"scheme": "W4A8"}
    rows[2]["options"] = {"scheme": "W4A8", "target_bits": 5}
    sweep = parse_sweep(
        {"models": [{"name": "m", "path": "."}], "texts": [{"name": "t", "data": "t.txt"}], "rows": rows}, tmp_path
    )
    assert [chosen_formats(row) for row in sweep.rows] == [False, False, True, False]
    records = [
        {"model": "m", "row": name, "options": {"scheme": "W4A8"}, "prune": None, "bytes": 10**6, **more}
        for name, more in (("four", {"kl": 0.1}), ("five", {"kl": 0.05}), ("broken", {"error": "no"}))
    ]
    write_sizes(tmp_path / "sizes.svg", sweep, records)
    drawn = (tmp_path / "sizes.svg").read_text(encoding="utf-8")
    assert "<!-- four -->" in drawn and "<!-- five -->" in drawn and "<!-- broken -->" not in drawn


def test_dry_run_lists_the_entries(definition: Path, agq_cli) -> None:
    result = agq_cli("sweep", definition, "--dry-run", "--row", "RTN W8A8", check=True)
    assert result.stdout.splitlines() == ["demo\tbf16", "demo\tRTN W8A8"]


def test_unknown_names_are_refused(definition: Path) -> None:
    with pytest.raises(AgqError, match="no row `nonsense`") as caught:
        select(load_sweep(definition), None, ["nonsense"])
    assert "RTN W8A8" in caught.value.hint


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "no `models`"),
        (
            {
                "models": [{"name": "a"}],
                "texts": [{"name": "t", "data": "x"}],
                "rows": [{"name": "r", "options": {"scheme": "W4A8"}}],
            },
            "`path`",
        ),
        (
            {
                "models": [{"name": "a", "path": "b"}],
                "texts": [{"name": "t", "data": "x"}],
                "rows": [{"name": "r"}, {"name": "r"}],
            },
            "same name",
        ),
        ({"model": []}, "unknown key"),
        ({"models": [{"name": "a", "path": "b"}], "texts": [{"name": "t"}], "rows": [{"name": "r"}]}, "`data`"),
        (
            {
                "models": [{"name": "a", "path": "b"}],
                "texts": [{"name": "t", "data": "x"}],
                "rows": [{"name": "r"}],
                "prefill": -1,
            },
            "prefill",
        ),
    ],
    ids=["empty", "no path", "same name", "unknown key", "no data", "negative"],
)
def test_wrong_definitions(data: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(AgqError, match=message):
        parse_sweep(data, tmp_path)


MODEL = {"name": "a", "path": "b"}
TEXT = {"name": "t", "data": "x"}


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("models", [MODEL | {"speed": "no"}], "model `a` of the sweep, `speed`: 'no' is not true or false"),
        ("models", [MODEL | {"seq_len": 64.0}], "`seq_len`: 64.0 is not a whole number"),
        ("models", [MODEL | {"seq_len": "64"}], "`seq_len`: '64' is not a whole number"),
        ("models", [MODEL | {"seq_len": 1}], "seq_len is 1, not 2 or more"),
        ("models", [MODEL | {"rows": "r"}], "`rows` is not a list"),
        ("models", [MODEL | {"rows": ["q"]}], "no row `q`"),
        ("models", [MODEL | {"twin": {"seed": "1"}}], "`twin.seed`: '1' is not a whole number"),
        ("models", [MODEL | {"twin": {"strengths": "8"}}], "`twin.strengths` is not a list"),
        ("models", [MODEL | {"twin": {"strengths": [8, "x"]}}], "`twin.strengths[1]`: 'x' is not a number"),
        ("models", [MODEL | {"twin": {"strength": [8]}}], "`twin.strength`: unknown key"),
        ("models", [MODEL | {"name": ""}], "the name is empty"),
        ("texts", [TEXT | {"windows": 2.5}], "text `t` of the sweep, `windows`: 2.5 is not a whole number"),
        ("texts", [TEXT | {"windows": 0}], "windows is 0, not a positive number"),
        ("rows", [{"name": "r", "ablation": "off"}], "row `r` of the sweep, `ablation`: 'off' is not true or false"),
        ("rows", [{"name": "r", "prune": 3}], "`prune`: 3 is not a text"),
        ("rows", [{"name": "r", "options": ["mse"]}], "row `r` of the sweep, `options`: expected a table"),
        ("rows", [{"name": "r", "options": {"rot_step": 1}}], "row `r` of the sweep, `options.rot_step`: unknown key"),
        ("rows", [{"name": "r", "options": {"mse": "no"}}], "`options.mse`: 'no' is not true or false"),
        ("rows", [{"name": "r", "options": {"mse": 1}}], "`options.mse`: 1 is not true or false"),
        ("rows", [{"name": "r", "options": {"samples": "8"}}], "`options.samples`: '8' is not a whole number"),
        ("rows", [{"name": "r", "options": {"tune": [1]}}], "`options.tune`: [1] is not a whole number or a text"),
        ("rows", [{"name": "r", "options": {"overrides": "a=W4A8"}}], "`options.overrides` is not a list"),
        ("rows", [{"name": "r", "options": {"force": True}}], "`options.force`: unknown key"),
        ("calibration", {"sample": 3}, "the sweep, `calibration.sample`: unknown key"),
        ("calibration", {"seq_len": 3}, "`calibration.seq_len`: unknown key"),
        ("calibration", {"samples": "3"}, "the sweep, `calibration.samples`: '3' is not a whole number"),
        ("calibration", {"samples": 0}, "samples is 0, not a positive number"),
        ("threads", "2", "the sweep, `threads`: '2' is not a whole number"),
        ("threads", True, "`threads`: True is not a whole number"),
        ("threads", 0, "threads is 0, not a positive number"),
        ("decode", 2.0, "`decode`: 2.0 is not a whole number"),
    ],
)
def test_values_of_a_wrong_type_are_named(part: str, value: object, message: str, tmp_path: Path) -> None:
    data = {"models": [MODEL], "texts": [TEXT], "rows": [{"name": "r", "options": {"scheme": "W4A8"}}], part: value}
    with pytest.raises(AgqError) as caught:
        parse_sweep(data, tmp_path)
    assert message in caught.value.message


def test_a_row_cannot_be_pushed(tmp_path: Path) -> None:
    data = {"models": [MODEL], "texts": [TEXT], "rows": [{"name": "r", "options": {"push": "owner/name"}}]}
    with pytest.raises(AgqError, match="a sweep keeps no folder that could be pushed"):
        parse_sweep(data, tmp_path)


def test_an_unknown_option_of_a_row_names_the_nearest(tmp_path: Path) -> None:
    data = {"models": [MODEL], "texts": [TEXT], "rows": [{"name": "r", "options": {"rot_step": 1}}]}
    with pytest.raises(AgqError) as caught:
        parse_sweep(data, tmp_path)
    assert "did you mean `rot_steps`?" in caught.value.hint


def test_options_of_rows_keep_their_values(tmp_path: Path) -> None:
    """What the key of a finished entry is made from: as it stands in the file."""
    options = {"scheme": "W4A4", "tune": "0", "act_clip": 1.0, "overrides": ["re:.*=W4A8"], "ct_format": "int"}
    given = {"models": [MODEL], "texts": [TEXT], "rows": [{"name": "r", "options": options}, {"name": "base"}]}
    sweep = parse_sweep(given | {"calibration": {"samples": 3, "data": "./x.txt"}}, tmp_path)
    assert json.loads(json.dumps(sweep.rows[0].options.to_dict())) == options
    assert sweep.rows[1].baseline and not sweep.rows[1].options
    assert sweep.calibration.given() == {"samples": 3, "data": str(tmp_path / "x.txt")}


@pytest.mark.parametrize("name", ["demo", "models"])
def test_sweeps_of_the_repository_are_read(repository: Path, name: str) -> None:
    assert len(load_sweep(repository / "configs" / "sweeps" / f"{name}.yaml").rows) >= 5


def test_relative_paths_are_those_of_the_file(repository: Path) -> None:
    sweep = load_sweep(repository / "configs" / "sweeps" / "demo.yaml")
    assert Path(sweep.models[0].path) == repository / "demo" / "llama-demo"
    assert Path(sweep.texts[0].data).is_file()
    assert sweep.rows_of(sweep.models[0])[0].baseline


def test_key_changes_with_what_the_numbers_depend_on(definition: Path) -> None:
    sweep = load_sweep(definition)
    model, row = sweep.models[0], sweep.rows[1]
    key = sweep.key(model, row, "model", {"held-out": "text"}, "1")
    assert key == sweep.key(model, row, "model", {"held-out": "text"}, "1")
    assert (
        len(
            {
                key,
                sweep.key(model, row, "other", {"held-out": "text"}, "1"),
                sweep.key(model, row, "model", {"held-out": "new"}, "1"),
                sweep.key(model, sweep.rows[2], "model", {"held-out": "text"}, "1"),
            }
        )
        == 4
    )


def test_a_part_keeps_what_was_finished(definition: Path, tmp_path: Path) -> None:
    """Records of rows that were not asked for stay, unless what they depend on has changed."""
    from agq.sweep import runner

    whole, output = load_sweep(definition), tmp_path / "out"
    (output / "cells").mkdir(parents=True)
    for place in runner._places(whole, output, None):
        place.write({"model": place.model.name, "row": place.row.name, "key": place.key, "of": "before"})
    part = [{"model": "demo", "row": "RTN W8A8", "of": "now"}]
    found = runner.with_kept(whole, part, output)
    assert [item["row"] for item in found] == [row.name for row in whole.rows]
    assert {item["row"] for item in found if item["of"] == "now"} == {"RTN W8A8"}
    from dataclasses import replace

    assert runner.with_kept(replace(whole, prefill=64), part, output) == part


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 5000, "nested too deeply"),
        (b"models: 2001-99-99\n", "not valid YAML: month must be"),
        (b"models: \0\n", "not valid YAML: unacceptable character"),
        (b"models: \xff\n", "not valid YAML"),
    ],
)
def test_files_that_are_no_yaml(call_sweep, tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "sweep.yaml").write_bytes(data)
    result = call_sweep(tmp_path / "sweep.yaml")
    assert result.code == 1 and message in result.err and result.err.count("\n") <= 2, result.err


def test_a_recipe_is_named_for_what_it_is(repository: Path) -> None:
    with pytest.raises(AgqError, match="a recipe of one model, not a sweep"):
        load_sweep(repository / "configs" / "demo.yaml")


def test_entries_are_expected_to_cost_what_they_do(repository: Path) -> None:
    """Tuned ones many times what rounded ones cost; the unquantized model the least."""
    from agq.checkpoint import open_checkpoint
    from agq.sweep.cost import expected_seconds

    sweep = load_sweep(repository / "configs" / "sweeps" / "demo.yaml")
    model = sweep.models[0]
    checkpoint = open_checkpoint(model.path)
    cost = {row.name: sum(expected_seconds(sweep, model, row, checkpoint).values()) for row in sweep.rows_of(model)}
    assert list(cost) == sorted(cost, key=cost.__getitem__)
    assert cost["W4A8"] > 3 * cost["GPTQ W4A8"]


def test_a_dry_run_needs_models_and_texts(call_sweep, definition: Path, demo_model: Path, tmp_path: Path) -> None:
    assert call_sweep(definition).code == 0
    whole = definition.read_text()
    definition.write_text(whole.replace("heldout.txt", "nothing.txt"))
    assert "no such text file" in call_sweep(definition).err
    definition.write_text(whole.replace(str(demo_model), str(tmp_path / "none")))
    assert "no such file or folder" in call_sweep(definition).err


def test_packages_are_missed_at_once(call_sweep, definition: Path, demo_text: Path, monkeypatch) -> None:
    """Also by a dry run; PyTorch before what only draws, so that one hint leads to a run."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "the plot needs matplotlib" in call_sweep(definition).err
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "this needs PyTorch" in call_sweep(definition).err
    monkeypatch.delitem(sys.modules, "torch")
    definition.write_text(definition.read_text().replace(str(demo_text / "heldout.txt"), "wikitext2"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "this needs the `datasets` package" in call_sweep(definition).err
