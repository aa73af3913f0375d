"""`agq eval-ppl` as a user starts it."""

import json

import pytest

KEYS = {
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
}


@pytest.fixture(scope="module")
def text(demo_text, tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text((demo_text / "heldout.txt").read_text(encoding="utf-8")[:3000], encoding="utf-8")
    return path


@pytest.mark.slow
def test_json(agq_cli, demo_artifact, text):
    result = agq_cli("eval-ppl", demo_artifact, "--data", text, "--seq-len", 256, "--json", check=True)
    lines = result.stdout.splitlines()
    record = json.loads(lines[-1])
    assert len(lines) == 1 and set(record) >= KEYS
    assert record["form"] == "packed" and record["scheme"] == "W4A8" and record["model"] == str(demo_artifact)
    assert record["windows"] == record["text_tokens"] // 256 and record["tokens"] == record["windows"] * 255
    again = json.loads(agq_cli("eval-ppl", demo_artifact, "--data", text, "--seq-len", 256, "--json", "-t", 1).stdout)
    assert again["ppl"] == record["ppl"]  # whatever the number of threads


@pytest.mark.slow
def test_table_and_streams(agq_cli, demo_artifact, text):
    result = agq_cli("eval-ppl", demo_artifact, "--data", text, "--seq-len", 256, check=True)
    for word in ("perplexity", "gptq", "one BOS (id 1)", "sha256", "packed file, W4A8", "256 tokens"):
        assert word in result.stdout
    assert result.stderr == ""
    short = agq_cli("eval-ppl", demo_artifact, "--data", text, "--max-windows", 1)
    # fewer than 1024 tokens of text: the default window cannot be filled
    assert short.returncode == 1 and "does not fill one window of 1024" in short.stderr
    assert "instead of 2048" in short.stderr and short.stdout == ""


@pytest.mark.slow
def test_gates(agq_cli, demo_quantized, demo_artifact, text):
    common = ["--data", text, "--seq-len", 256, "--max-windows", 1]
    missed = agq_cli("eval-ppl", demo_artifact, *common, "--max-ppl", 1.5, "--json")
    assert missed.returncode == 1 and "above the limit of 1.5" in missed.stderr
    assert json.loads(missed.stdout)["ppl"] > 1.5  # the number is there all the same
    assert agq_cli("eval-ppl", demo_artifact, *common, "--max-ppl", 1e6).returncode == 0
    result = agq_cli("eval-ppl", demo_artifact, *common, "--baseline", demo_quantized, "--max-ratio", 1.1)
    assert result.returncode == 0
    for word in ("ratio", "KL divergence", "same top token", "quantized, W4A8"):
        assert word in result.stdout
    missed = agq_cli("eval-ppl", demo_artifact, *common, "--baseline", demo_quantized, "--max-ratio", 0.5)
    assert missed.returncode == 1 and "above the limit of 0.5" in missed.stderr
    assert agq_cli("eval-ppl", demo_artifact, *common, "--max-ratio", 1).returncode == 2


def test_variables_set_options(agq_cli, demo_artifact, text):
    env = {"AGQ_PPL_METHOD": "llama.cpp", "AGQ_PPL_SEQ_LEN": "128", "AGQ_JSON": "1", "AGQ_MAX_WINDOWS": "1"}
    record = json.loads(agq_cli("eval-ppl", demo_artifact, "--data", text, env=env).stdout)
    assert (record["method"], record["seq_len"], record["windows"], record["tokens"]) == ("llama.cpp", 128, 1, 63)


@pytest.mark.parametrize(
    ("method", "word"), [("lm-eval", "per word"), ("strided", "stride 64"), ("llama.cpp", "in place of the first")]
)
def test_methods(agq_cli, demo_artifact, text, method, word):
    arguments = ["--stride", 64] if method == "strided" else []
    result = agq_cli(
        "eval-ppl", demo_artifact, "--data", text, "--seq-len", 256, "--method", method, *arguments, check=True
    )
    assert word in result.stdout and method in result.stdout


@pytest.mark.slow
def test_bad_texts(agq_cli, demo_artifact, tmp_path):
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "fine"}\nnot json\n')
    result = agq_cli("eval-ppl", demo_artifact, "--data", lines, "--seq-len", 16)
    assert result.returncode == 1 and "line 2: not JSON" in result.stderr
    result = agq_cli("eval-ppl", demo_artifact, "--data", "wikitext2")
    assert result.returncode == 1 and "cannot be loaded" in result.stderr and "--data FILE" in result.stderr
    result = agq_cli("eval-ppl", "nobody/nothing", "--data", lines)
    assert result.returncode == 1 and "hub model `nobody/nothing`" in result.stderr and "hint: " in result.stderr
