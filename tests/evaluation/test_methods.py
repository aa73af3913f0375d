"""The four definitions of perplexity: windows and scored tokens, and numbers that can be computed by hand.

`by_position` gives the token that really comes next the probability 1 / (position in the window + 2): which positions
are scored shows in the product of small integers that the perplexity is a root of.
"""

import math

import numpy as np
import pytest

from agq.errors import AgqError, UsageError
from agq.evaluation.methods import (
    Window,
    detokenize,
    looks_like_wikitext,
    plan_documents,
    plan_tokens,
    wikitext_documents,
)
from agq.evaluation.perplexity import FunctionScorer, evaluate_plan, perplexity

VOCAB = 8


def by_position(tokens: np.ndarray) -> np.ndarray:
    """Each token's successor (token + 1) gets 1 / (position + 2), the others share the rest."""
    rows = []
    for position, token in enumerate(tokens):
        chance = 1 / (position + 2)
        row = np.full(VOCAB, (1 - chance) / (VOCAB - 1))
        row[(token + 1) % VOCAB] = chance
        rows.append(np.log(row))
    return np.array(rows)


def counting(n: int, start: int = 0) -> np.ndarray:
    return (np.arange(n) + start) % VOCAB


def root(product: float, count: int) -> float:
    return product ** (1 / count)


def test_gptq_by_hand():
    # 11 tokens, windows of 4: two whole windows, positions 0, 1, 2 of each scored: 2 x 3 x 4.
    result = perplexity(by_position, counting(11), "gptq", 4)
    assert result.ppl == pytest.approx(root(24, 3), rel=1e-6)
    assert (result.windows, result.tokens, result.text_tokens) == (2, 6, 11)
    nll = np.log([2, 3, 4, 2, 3, 4])
    assert result.ppl_stderr == pytest.approx(result.ppl * nll.std(ddof=1) / math.sqrt(6), rel=1e-6)
    assert not result.add_bos and result.bos == "no BOS"


def test_gptq_is_the_mean_of_the_window_means():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(VOCAB, VOCAB))
    tokens = rng.integers(0, VOCAB, 50)
    result = perplexity(lambda ids: table[ids], tokens, "gptq", 16)
    means = []
    for start in range(0, 48, 16):
        window = tokens[start : start + 16]
        logits = table[window[:-1]]
        means.append(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(15), window[1:]]))
    assert result.ppl == pytest.approx(math.exp(np.mean(means)), rel=1e-6)


def test_llama_cpp_by_hand():
    # Windows of 6: positions 3 and 4 score tokens 4 and 5: 5 x 6.
    result = perplexity(by_position, counting(13), "llama.cpp", 6)
    assert result.ppl == pytest.approx(root(30, 2), rel=1e-6)
    assert (result.windows, result.tokens) == (2, 4)
    plan = plan_tokens("llama.cpp", counting(512 * 3), 512)
    assert [len(window.targets) for window in plan.windows] == [255] * 3


def test_llama_cpp_replaces_the_first_token_by_bos():
    ids = np.array([7, 1, 2, 3, 4, 5, 6, 5, 4])
    plan = plan_tokens("llama.cpp", ids, 4, bos_id=7, replace_bos=True)
    assert [window.inputs.tolist() for window in plan.windows] == [[7, 1, 2, 3], [7, 5, 6, 5]]
    assert [window.targets.tolist() for window in plan.windows] == [[3], [5]]
    assert plan.add_bos and "in place of the first token" in plan.bos
    assert ids.tolist() == [7, 1, 2, 3, 4, 5, 6, 5, 4]  # not changed
    without = plan_tokens("llama.cpp", ids[1:], 4, bos_id=7, replace_bos=False)
    assert without.windows[1].inputs.tolist() == [5, 6, 5, 4] and not without.add_bos


def test_strided_by_hand():
    # 7 tokens, windows of 4, stride 2: positions 0 1 2, then 1 2 of the second window, 1 of the third: (2 3 4)(3 4)(3).
    result = perplexity(by_position, counting(7), "strided", 4, stride=2)
    assert result.ppl == pytest.approx(root(864, 6), rel=1e-6)
    assert (result.windows, result.tokens, result.stride) == (3, 6, 2)


@pytest.mark.parametrize(
    ("n", "seq_len", "stride"), [(7, 4, 2), (100, 16, 5), (64, 16, 16), (5, 16, 4), (33, 8, 8), (2, 2, 1)]
)
def test_strided_scores_every_token_once(n, seq_len, stride):
    ids = np.arange(n)
    plan = plan_tokens("strided", ids, seq_len, stride)
    scored = np.concatenate([window.targets for window in plan.windows])
    # With stride = seq_len no window sees what came before: the first token of each cannot be scored.
    expected = ids[1:] if stride < seq_len else np.array([i for i in ids[1:] if i % seq_len])
    assert np.array_equal(scored, expected)
    for window in plan.windows:
        assert len(window.inputs) <= seq_len
        assert np.array_equal(window.inputs[window.first : window.first + len(window.targets)] + 1, window.targets)


def test_lm_eval_by_hand():
    # A document of 6 tokens, windows of 4, prefix 7: (2 3 4 5), then two tokens after all the context that fits: (4 5).
    plan = plan_documents(["three small words"], [counting(6)], 4, prefix=7, add_bos=False)
    assert [window.inputs.tolist() for window in plan.windows] == [[7, 0, 1, 2], [1, 2, 3, 4]]
    result = evaluate_plan(FunctionScorer(by_position), plan, "lm-eval")
    assert result.ppl == pytest.approx(root(2 * 3 * 4 * 5 * 4 * 5, 3), rel=1e-6)
    assert result.token_ppl == pytest.approx(root(2400, 6), rel=1e-6)
    assert result.words == 3 and result.bytes == 17
    assert result.byte_ppl == pytest.approx(2400 ** (1 / 17), rel=1e-6)
    assert result.bits_per_byte == pytest.approx(math.log2(2400) / 17, rel=1e-6)
    accents = plan_documents(["größer 大"], [counting(6)], 4, prefix=7, add_bos=False)
    assert accents.bytes == 12 and accents.words == 2  # ö and ß have two bytes, 大 has three


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 9, 23])
def test_lm_eval_scores_every_token_once_with_as_much_context_as_fits(n):
    ids = np.arange(n)
    plan = plan_documents(["x"], [ids], 4, prefix=99, add_bos=False)
    assert np.array_equal(np.concatenate([window.targets for window in plan.windows]), ids)
    for window in plan.windows:
        assert len(window.inputs) <= 4 and window.first + len(window.targets) == len(window.inputs)
    if n >= 5:
        assert len(plan.windows[-1].inputs) == 4


def test_lm_eval_documents_are_whole():
    documents, tokens = ["a b", "c", "d e f"], [counting(9), counting(3), counting(5)]
    plan = plan_documents(documents, tokens, 4, prefix=7, add_bos=False, max_windows=2)
    assert len(plan.windows) == 3 and plan.words == 2 and plan.total == 6
    assert plan_documents(documents, tokens, 4, 7, False).words == 6
    with pytest.raises(AgqError, match="no tokens"):
        plan_documents([""], [counting(0)], 4, 7, False)


def test_methods_differ_on_purpose():
    tokens = counting(40)
    pairs = (("gptq", None), ("llama.cpp", None), ("strided", 4))
    values = {perplexity(by_position, tokens, method, 8, stride).ppl for method, stride in pairs}
    assert len(values) == 3


def test_max_windows_and_bos_are_recorded():
    ids = counting(40, start=3)
    plan = plan_tokens("gptq", ids, 8, bos_id=3, max_windows=2)
    assert len(plan.windows) == 2 and plan.total == 5 and plan.tokens == 40
    assert plan.add_bos and plan.bos == "one BOS (id 3) at the start of the text"


def test_errors():
    with pytest.raises(AgqError, match="has 7 tokens, which does not fill one window of 8") as caught:
        plan_tokens("gptq", counting(7), 8)
    assert "`seq_len: 7`" in caught.value.hint
    with pytest.raises(AgqError, match="at least 2"):
        plan_tokens("strided", counting(1), 8)
    for method, seq_len, stride in (
        ("ppl", 8, None),
        ("gptq", 1, None),
        ("llama.cpp", 3, None),
        ("gptq", 8, 4),
        ("strided", 8, 9),
        ("strided", 8, 0),
    ):
        with pytest.raises(UsageError):
            plan_tokens(method, counting(40), seq_len, stride)


def test_windows_hold_what_is_scored():
    window = plan_tokens("gptq", counting(8), 4).windows[1]
    assert isinstance(window, Window) and window.first == 0
    assert window.inputs.tolist() == [4, 5, 6, 7] and window.targets.tolist() == [5, 6, 7]


def test_wikitext_articles():
    text = " \n = Title = \n \n Text . \n = = Section = = \n More . \n = Other = \n Words . \n"
    documents = wikitext_documents(text)
    assert len(documents) == 2
    assert documents[0].startswith(" = Title = ") and " = = Section = = " in documents[0]
    assert documents[1] == " = Other = \n Words . \n"
    assert wikitext_documents("plain\ntext") == ["plain\ntext"]
    assert looks_like_wikitext(text) and not looks_like_wikitext("a = b\n = = x = = \n")


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("a @-@ b , 1 @,@ 000 @.@ 5 .", "a-b, 1,000.5 ."),
        ('he said " yes " ( or " no " ) \n next', 'he said "yes" (or "no")\nnext'),
        (" = = Early life = = \n", " == Early life ==\n"),
        ("the dog 's tail ; it : here ! now ? \n", "the dog's tail; it: here! now?\n"),
    ],
)
def test_detokenize(raw, plain):
    assert detokenize(raw) == plain
