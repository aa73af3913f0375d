"""What is refused before any work, and what a run is said to need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agq.checkpoint import open_checkpoint
from agq.errors import AgqError
from agq.formats import FITTED, PER_ROW, Granularity, PerGroup
from agq.quantization.checks import check_memory, check_schemes, estimate
from agq.quantization.plan import plan
from agq.quantization.state import WorkFolder
from agq.quantization.writer import module_schemes
from agq.recipe import Override, Recipe, Scheme
from agq.recipe.changes import RecipeChanges
from tests.transforms.transform_support import random_model


def recipe(scheme: str = "W4A8", *overrides: str, group: Granularity = FITTED) -> Recipe:
    chosen = Scheme.parse(scheme).fit(group) if group != FITTED else Scheme.parse(scheme)
    return Recipe(scheme=chosen, overrides=tuple(Override.parse(text) for text in overrides))


def test_layers_whose_groups_do_not_divide_are_folded_into_one_line(tmp_path: Path) -> None:
    parts = open_checkpoint(random_model(tmp_path / "m", "llama-gqa")).parts  # inputs of 48 and 96
    with pytest.raises(AgqError) as caught:
        check_schemes(parts, recipe("W4A4", group=PerGroup(128)))
    layers = "q, k, v, o, gate, up of 2 blocks: 48; down of 2 blocks: 96"
    assert caught.value.message == (
        f"group size 128 does not divide the inputs of {layers}; "
        f"activation group size 128 does not divide the inputs of {layers}"
    )
    assert caught.value.hint == "use -1 for one scale for the whole row, or name none to have one fitted"
    with pytest.raises(AgqError) as caught:
        check_schemes(parts, recipe("W4A8", group=PerGroup(32)))  # 96 is a multiple of 32
    assert caught.value.message.endswith("the inputs of q, k, v, o, gate, up of 2 blocks: 48")
    assert check_schemes(parts, recipe("W4A8", group=PER_ROW)) is None


def test_linears_that_share_an_input_have_one_scheme(short_model: Path) -> None:
    parts = open_checkpoint(short_model).parts
    with pytest.raises(AgqError, match="same input") as caught:
        check_schemes(parts, recipe("W4A8", "re:.*up_proj=W8A8", group=PerGroup(128)))
    found = caught.value.message.partition("schemes: ")[2]
    assert re.fullmatch(r"gate of \d+ blocks: W4 g128, A8 per token; up of \d+ blocks: W8 per row, A8 per token", found)
    assert check_schemes(parts, recipe("W4A4", "re:.*down_proj=W4A8")) is None


def test_memory_estimates_follow_method_and_calibration(short_model: Path) -> None:
    checkpoint = open_checkpoint(short_model)
    parts = checkpoint.parts
    schemes = module_schemes(parts, recipe())

    def needs(method: str, windows: tuple[int, int] | None, transformed: bool = False):
        return estimate(parts, schemes, method, windows, checkpoint.weight_bytes(), transformed)

    rtn, gptq, gptaq = needs("rtn", None), needs("gptq", (128, 1024)), needs("gptaq", (128, 1024))
    assert rtn.hidden == 0 and rtn.working < gptq.working < gptaq.working
    assert gptq.hidden == 4 * 128 * 1024 * (256 + 256) and gptaq.hidden == 2 * gptq.hidden
    assert needs("gptq", (64, 1024)).hidden == gptq.hidden // 2
    assert needs("gptq", (128, 1024), True).output >= gptq.output + 2 * 8192 * 256  # an untied head in bf16
    assert check_memory(gptq, gptq.working + gptq.hidden) is True
    assert check_memory(gptq, gptq.working) is False  # hidden states go to a file
    with pytest.raises(AgqError, match="not enough memory") as caught:
        check_memory(gptq, gptq.working - 1)
    assert "rtn" in caught.value.hint


@pytest.mark.slow
def test_output_estimate_is_near_what_is_written(short_model: Path, tmp_path: Path) -> None:
    """Work folder and output together."""
    from tests.quantization.quantization_support import quantized

    made = plan(str(short_model), tmp_path / "out", RecipeChanges(scheme="W4A8", method="rtn"))
    written = quantized(short_model, tmp_path / "out", scheme="W4A8", method="rtn").total_bytes
    assert written < made.needs.output < 1.5 * written


@pytest.mark.slow
def test_hidden_states_go_to_files_where_memory_is_short(short_model: Path, tmp_path: Path, monkeypatch) -> None:
    """The same bytes either way, and no file is left."""
    from agq.quantization import compute
    from tests.quantization.quantization_support import differences, quantized

    options = {"scheme": "W4A8", "method": "gptaq"}
    quantized(short_model, tmp_path / "memory", **options)
    monkeypatch.setattr(compute, "check_memory", lambda needs, free: False)
    quantized(short_model, tmp_path / "files", **options)
    assert not differences(tmp_path / "files", tmp_path / "memory")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files", "memory"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "W4A8", "act_bits": 4}, "already says the bits"),
        ({"method": "rtn", "samples": 4}, "reads no calibration text"),
        ({"overrides": ["re:.*no_such=W8A8"]}, "matches no linear"),
        ({"ignore": ["re:.*"]}, "every linear"),
        ({"hadamard": 512}, "Hadamard block of 512"),
        ({"kv_bits": 5}, "KV cache of 5 bits"),
        ({"act_clip": "most"}, "neither a number nor `search`"),
        ({"act_clip": 0.2}, "act_clip is 0.2"),
        ({"rot_seeds": 0}, "seeds is 0"),
        ({"preset": "best"}, "unknown preset"),
        ({"alpha": 2.0}, "alpha is 2.0"),
        ({"seq_len": 4096}, "longer than the model's context"),
        ({"ct_format": "zip"}, "unknown compressed-tensors format"),
    ],
)
def test_contradictions_are_found_before_any_work(
    short_model: Path, tmp_path: Path, options: dict, message: str
) -> None:
    from tests.quantization.quantization_support import planned

    with pytest.raises(AgqError, match=message):
        planned(short_model, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_output_that_must_not_be_replaced(short_model: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(AgqError):
        plan(str(short_model), tmp_path / "full")
    with pytest.raises(AgqError, match="not a model folder"):
        plan(str(short_model), tmp_path / "full", force=True)
    with pytest.raises(AgqError, match="same folder"):
        plan(str(short_model), short_model, force=True)
    with pytest.raises(AgqError, match="not a folder"):
        plan(str(short_model), tmp_path / "none" / "out")


def test_no_place_for_the_work_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AgqError, match="cannot make the work folder") as refused:
        WorkFolder.open(tmp_path / "file" / ".out.agq-work", {})
    assert "choose another output path" in str(refused.value.hint)
