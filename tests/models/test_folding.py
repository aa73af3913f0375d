"""Lists in few words."""

from __future__ import annotations

from agq.models import parts, spec_from_config
from agq.models.folding import fold_linears, fold_names, folded, spans
from tests.checkpoint.folders import config


def test_linears_of_all_blocks() -> None:
    names = parts(spec_from_config(config("llama", num_hidden_layers=30)))
    narrow = [linear for linear in names.block_linears() if linear.role != "down"]
    assert fold_linears(narrow) == "q, k, v, o, gate, up of 30 blocks"
    assert fold_linears(names.all_linears()) == "q, k, v, o, gate, up, down of 30 blocks; `lm_head`"


def test_linears_of_some_blocks() -> None:
    names = parts(spec_from_config(config("llama", num_hidden_layers=12)))
    some = [names.block(index).linears["q"] for index in (3, 4, 5, 9)]
    assert fold_linears([*some, names.block(0).linears["down"]]) == "q of blocks 3-5, 9; down of block 0"
    assert fold_linears([]) == ""


def test_names() -> None:
    gone = [f"model.layers.{index}.mlp.{leaf}.weight" for index in range(12) for leaf in ("up_proj", "down_proj")]
    assert fold_names(["model.norm.weight", *gone]) == (
        "`model.norm.weight`, `model.layers.0-11.mlp.up_proj.weight`, `model.layers.0-11.mlp.down_proj.weight`"
    )
    assert folded(gone) == [(f"model.layers.0-11.mlp.{leaf}.weight", 12) for leaf in ("up_proj", "down_proj")]


def test_many_names_end_with_their_number() -> None:
    strangers = [f"name{letter}.weight" for letter in "abcdefg"]
    assert fold_names(strangers, most=2) == "`namea.weight`, `nameb.weight` and 5 more"
    assert fold_names(["x.0.y", "x.1.y", "a", "b.3.c", "b.4.c"], most=1) == "`x.0-1.y` and 3 more"


def test_spans() -> None:
    assert spans([5, 3, 4, 9, 3]) == "3-5, 9" and spans([]) == "" and spans([7]) == "7"
