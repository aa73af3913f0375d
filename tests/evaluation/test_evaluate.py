"""Real models: the reference and the engine against an independent computation with transformers, and what is
refused.
"""

import numpy as np
import pytest

import agq
from agq.errors import AgqError, UsageError
from agq.evaluation import evaluate, evaluate_perplexity
from agq.evaluation.engine_scorer import EngineScorer
from agq.evaluation.opening import open_scorer
from agq.evaluation.scorers import default_rows
from agq.text.windows import Documents, load_tokenizer


@pytest.fixture(scope="module")
def text(demo_text, tmp_path_factory):
    """1400 tokens or so: five windows of 256."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text((demo_text / "heldout.txt").read_text(encoding="utf-8")[:5500], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def direct(demo_model, text):
    """GPTQ's protocol written out with transformers: (perplexity, windows, tokens)."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(str(demo_model), dtype=torch.float32)
    ids = transformers.AutoTokenizer.from_pretrained(str(demo_model))(
        text.read_text(encoding="utf-8"), return_tensors="pt"
    ).input_ids
    count = ids.shape[1] // 256
    nlls = []
    with torch.no_grad():
        for index in range(count):
            window = ids[:, index * 256 : (index + 1) * 256]
            logits = model(window).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), window[:, 1:].reshape(-1))
            nlls.append(loss.double() * 256)
    return torch.exp(torch.stack(nlls).sum() / (count * 256)).item(), count, ids.shape[1]


def test_reference_equals_a_direct_computation(demo_model, text, direct):
    found = evaluate_perplexity(demo_model, text, seq_len=256)
    assert found.ppl == pytest.approx(direct[0], rel=1e-5)
    assert (found.result.windows, found.result.text_tokens, found.result.tokens) == (
        direct[1],
        direct[2],
        direct[1] * 255,
    )
    assert (found.form, found.scheme) == ("original", "BF16")
    record = found.to_dict()
    for name in (
        "ppl",
        "method",
        "form",
        "tokens",
        "windows",
        "seq_len",
        "add_bos",
        "data_sha256",
        "model_sha256",
        "scheme",
        "kernel",
    ):
        assert record[name] is not None
    assert record["add_bos"] is True and len(record["model_sha256"]) == 64 and len(record["data_sha256"]) == 64


def test_engine_equals_a_direct_computation(fp32_artifact, demo_model, text, direct):
    found = agq.evaluate_perplexity(fp32_artifact(demo_model), text, seq_len=256, threads=1)
    assert found.ppl == pytest.approx(direct[0], rel=1e-5)
    assert (found.form, found.scheme, found.threads) == ("packed", "F32", 1)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "seq_len"), [("llama.cpp", 256), ("strided", 256), ("lm-eval", 128)])
def test_engine_and_reference_agree_by_every_method(fp32_artifact, demo_model, text, method, seq_len):
    engine = evaluate_perplexity(fp32_artifact(demo_model), text, seq_len, method, max_windows=2)
    reference = evaluate_perplexity(demo_model, text, seq_len, method, max_windows=2)
    assert engine.ppl == pytest.approx(reference.ppl, rel=1e-5)
    assert engine.result.bos == reference.result.bos and engine.result.tokens == reference.result.tokens


@pytest.mark.slow
def test_packed_and_reference_agree_on_a_quantized_model(demo_quantized, demo_artifact, text):
    found = evaluate_perplexity(demo_artifact, text, 256, baseline=demo_quantized)
    assert found.form == "packed" and found.scheme == "W4A8" and found.baseline["form"] == "quantized"
    # Rounding of activations amplifies a last-bit difference to the size of the quantization noise itself (the
    # reference,
    # disturbed by 1e-6, is as far from itself: KL 0.003, 96 % same top token): so a statistical bound.
    distance = found.divergence
    assert abs(distance.ratio - 1) < 5 * distance.ratio_stderr < 0.03
    assert distance.kl < 0.01 and distance.same_top1 > 0.92
    assert "fake quantization" in found.baseline["kernel"]


def test_weights_only_differs(demo_quantized, text):
    with_inputs, weights = (
        evaluate_perplexity(demo_quantized, text, 256, max_windows=2, fake_quant=flag) for flag in (True, False)
    )
    assert with_inputs.ppl != weights.ppl
    assert with_inputs.to_dict()["activation_bits"] == 8 and weights.to_dict()["activation_bits"] is None


def test_rows_at_once_change_nothing(demo_artifact, text):
    values = [evaluate_perplexity(demo_artifact, text, 256, max_windows=1, batch=rows).ppl for rows in (7, 100, None)]
    assert values[0] == pytest.approx(values[1], rel=1e-6) and values[1] == pytest.approx(values[2], rel=1e-6)


def test_bos_with_and_without(demo_artifact, text):
    own = evaluate_perplexity(demo_artifact, text, 256, max_windows=1)
    with_bos = evaluate_perplexity(demo_artifact, text, 256, max_windows=1, add_bos=True)
    without = evaluate_perplexity(demo_artifact, text, 256, max_windows=1, add_bos=False)
    assert own.ppl == with_bos.ppl != without.ppl
    assert not without.result.add_bos and without.result.bos == "no BOS"


def test_default_window_is_at_most_the_context(demo_model, demo_text):
    notes = []
    with pytest.raises(AgqError, match="no such text"):
        evaluate_perplexity(demo_model, "no-such-file.txt", note=notes.append)
    assert "1024 tokens, the model's context, instead of 2048" in notes[0]


def test_longer_windows_than_the_context_are_said(fp32_artifact, demo_model, demo_text):
    found = evaluate_perplexity(fp32_artifact(demo_model), demo_text / "heldout.txt", seq_len=1100, max_windows=1)
    assert "longer than the model's context" in found.notes[0]


def test_longer_windows_than_learned_positions_are_refused(shared_model, demo_text):
    with pytest.raises(AgqError, match="2000 tokens are longer than the 1024 positions"):
        evaluate_perplexity(shared_model("opt-demo"), demo_text / "heldout.txt", seq_len=2000)


@pytest.mark.parametrize("name", ["opt-demo", "bloom-demo"])
def test_other_families(shared_model, fp32_artifact, text, name):
    folder = shared_model(name)
    reference = evaluate_perplexity(folder, text, 256, max_windows=2)
    engine = evaluate_perplexity(fp32_artifact(folder), text, 256, max_windows=2)
    assert engine.ppl == pytest.approx(reference.ppl, rel=1e-5)
    assert reference.result.add_bos == (name == "opt-demo")


def test_json_lines_are_documents_for_lm_eval(demo_artifact, tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text('{"text": "The first document."}\n{"text": "And a second one, a little longer."}\n')
    found = evaluate_perplexity(demo_artifact, path, 64, "lm-eval")
    assert found.result.windows == 2 and found.result.words == 10 and "2 documents" in found.data


def test_c4_protocols(demo_model, monkeypatch):
    documents = Documents([f"word {i} " * 60 for i in range(40)], "ab" * 32, "c4 (shard)")
    monkeypatch.setattr(evaluate, "load_documents", lambda *_: documents)
    tokenizer = load_tokenizer(demo_model)
    plan, text = evaluate.make_plan("c4", tokenizer, "gptq", 32)
    assert len(plan.windows) == 256 and text.sha256 == "ab" * 32
    plan, text = evaluate.make_plan("c4-new", tokenizer, "gptq", 32, max_windows=3)
    ids = tokenizer.encode(" ".join(documents.documents))
    assert len(plan.windows) == 3 and np.array_equal(plan.windows[2].inputs, ids[64:96])
    with pytest.raises(UsageError, match="not defined for method lm-eval"):
        evaluate.make_plan("c4", tokenizer, "lm-eval", 32)


def test_what_is_refused(demo_artifact, demo_model, shared_model, text, tmp_path):
    for arguments in ({"method": "x"}, {"max_windows": 0}, {"stride": 4}, {"seq_len": 1}):
        with pytest.raises(UsageError):
            evaluate_perplexity(demo_artifact, text, **arguments)
    with pytest.raises(AgqError, match="no such file or folder"):
        evaluate_perplexity(tmp_path / "none", text)
    with pytest.raises(AgqError, match="different tokenizers"):
        evaluate_perplexity(demo_artifact, text, 64, baseline=shared_model("opt-demo"))


def test_engine_grows_with_its_windows(demo_artifact):
    scorer = EngineScorer(demo_artifact, seq_len=16, threads=1)
    tokens = np.arange(100, 140)
    long = np.concatenate(list(scorer.logits(tokens, 0, 40, 16)))
    short = np.concatenate(list(open_scorer(demo_artifact, 64, 1).logits(tokens, 30, 10, 4)))
    assert np.array_equal(long[30:], short)
    scorer.close()
    assert default_rows(32) == 512 and default_rows(128256) == 65 and default_rows(10**7) == 16
