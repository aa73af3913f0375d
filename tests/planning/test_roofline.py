"""Forecasts against sums worked out by hand. The model: qkv 128 x 64, out 64 x 64, up 192 x 64, down 64 x 96 in each of
two layers, the head 100 x 64."""

from __future__ import annotations

import pytest

from agq.planning.kernel_table import Attention, Curve, Point, format_name
from agq.planning.roofline import decode_seconds, forecast, prefill_seconds, seen
from agq.planning.sizes import packed
from agq.planning.use_cases import UseCase
from tests.planning.tables import flat, spec, table

MODEL = packed(spec(), None)
QKV, LAYER, HEAD = 128 * 64, 128 * 64 + 64 * 64 + 192 * 64 + 64 * 96, 100 * 64
(ROW,) = {format_name(info) for info in MODEL.linears.values()}


def test_between_points_and_beyond() -> None:
    curve = Curve((Point(1, 1.0, 10.0), Point(5, 3.0, 20.0)))
    assert curve.at(1) == Point(1, 1.0, 10.0)
    assert curve.at(2) == Point(2, 1.5, 12.5)
    assert curve.at(5) == Point(5, 3.0, 20.0)
    assert curve.at(10) == Point(10, 6.0, 40.0)
    assert curve.seconds(2, units=4, calls=3) == 3 * 1.5 + 4 * 12.5


@pytest.mark.parametrize(
    ("depth", "tokens", "window", "keys"),
    [(0, 3, 0, 1 + 2 + 3), (10, 2, 0, 11 + 12), (0, 4, 2, 1 + 2 + 2 + 2), (5, 2, 3, 3 + 3), (1, 3, 3, 2 + 3 + 3)],
)
def test_keys_that_are_seen(depth: int, tokens: int, window: int, keys: int) -> None:
    assert seen(depth, tokens, window) == keys


def test_decode_reads_every_weight_once_a_step() -> None:
    rates = table(MODEL, linears={ROW: flat(unit=1.0)})
    assert decode_seconds(MODEL, rates, 3, 0, 1, 32) == 3 * (2 * LAYER + HEAD)


def test_rates_count_products() -> None:
    curve = Curve((Point(1, 5.0, 0.5), Point(4, 5.0, 1.0)))
    assert table(MODEL, linears={ROW: curve}).rates() == [
        {"format": ROW, "tokens": 1, "products_per_s": 2.0},
        {"format": ROW, "tokens": 4, "products_per_s": 4.0},
    ]


def test_each_linear_is_a_call() -> None:
    rates = table(MODEL, linears={ROW: flat(call=1.0)}, inputs={ROW: flat(call=10.0)}, kv_store={32: flat(call=100.0)})
    assert decode_seconds(MODEL, rates, 1, 0, 1, 32) == 9 * 1 + 9 * 10 + 2 * 100


def test_units_of_inputs_cache_and_layers() -> None:
    inputs = {ROW: flat(unit=1.0)}
    assert decode_seconds(MODEL, table(MODEL, inputs=inputs), 1, 0, 1, 32) == 2 * (64 + 64 + 64 + 96) + 64
    store = table(MODEL, kv_store={32: flat(unit=1.0)})
    assert decode_seconds(MODEL, store, 1, 0, 1, 32) == 2 * (64 + 2 * 32)
    assert decode_seconds(MODEL, table(MODEL, forward=flat(5.0, 1.0)), 1, 0, 1, 32) == 5 + 2


def test_attention_of_an_answer_grows_with_what_stands_before() -> None:
    rates = table(MODEL, attention={32: Attention(call=1000.0, one=1.0, token=5.0, pair=7.0)})
    # Two steps behind 10 tokens see 11 and 12 keys, in each of 2 layers, in 64 channels.
    assert decode_seconds(MODEL, rates, 2, 10, 1, 32) == 2 * 2 * 1000 + 2 * 64 * (11 + 12)
    assert decode_seconds(MODEL, rates, 2, 10, 3, 32) == 2 * 2 * 1000 + 3 * 2 * 64 * (11 + 12)


def test_attention_of_a_prompt() -> None:
    rates = table(MODEL, attention={32: Attention(call=1000.0, one=1.0, token=5.0, pair=7.0)})
    # 6 tokens in passes of 4 and 2: all in the first layer, the last token alone in the last one.
    assert prefill_seconds(MODEL, rates, 6, 1, 32) == 64 * (6 * 5 + 7 * (21 + 6))


def test_prompt_in_pieces_and_the_last_layer() -> None:
    """Curves that count tokens: 4 and 2 at once. In the last layer only the last token goes past q, k, v."""
    each = Curve((Point(1, 0.0, 1.0), Point(4, 0.0, 4.0)))
    rates = table(MODEL, linears={ROW: each})
    assert prefill_seconds(MODEL, rates, 6, 1, 32) == 6 * (LAYER + QKV) + (LAYER - QKV) + HEAD
    assert prefill_seconds(MODEL, rates, 6, 5, 32) == 5 * (6 * (LAYER + QKV) + (LAYER - QKV) + HEAD)


def test_users_share_the_weights() -> None:
    rates = table(MODEL, linears={ROW: flat(unit=1.0)})
    assert decode_seconds(MODEL, rates, 1, 0, 4, 32) == 2 * LAYER + HEAD
    assert decode_seconds(MODEL, rates, 1, 0, 6, 32) == 2 * (2 * LAYER + HEAD)


def test_forecast_of_users() -> None:
    rates = table(MODEL, linears={ROW: flat(unit=1.0)})
    weights = 2 * LAYER + HEAD
    found = forecast(MODEL, rates, UseCase("", 4, 11), users=2)
    assert (found.prefill_s, found.first_token_s) == (weights, 2 * weights)
    # The first token comes from the prompt: ten steps for eleven tokens.
    assert found.step_s == weights
    assert found.answer_s == 12 * weights
    assert found.throughput == 2 * 11 / (12 * weights)
    assert forecast(MODEL, rates, UseCase("", 4, 1)).step_s == 0


def test_norms_beside_the_inputs() -> None:
    gemma = packed(
        spec(model_type="gemma3_text", head_dim=16, hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=16,
             sliding_window=8, layer_types=["sliding_attention", "full_attention"]), None
    )  # fmt: skip
    rates = table(gemma, inputs={format_name(info): flat(unit=1.0) for info in gemma.linears.values()})
    inputs = 2 * (64 + 64 + 64 + 96) + 64
    assert decode_seconds(gemma, rates, 1, 0, 1, 32) == inputs + 2 * ((64 + 32) + 2 * 64)
    keys = table(gemma, attention={32: Attention(0.0, 1.0, 0.0, 0.0)})
    assert decode_seconds(gemma, keys, 1, 99, 1, 32) == 64 * (8 + 100)
