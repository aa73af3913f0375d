"""The benchmarks that load a GGUF file into llama.cpp, with a library in its place: the same calls and structs, logits
that are known."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

import agq
from tests import families
from tests.benchmarks.test_benchmarks import module, run
from tests.gguf.gguf_files import gguf, types_of, write

pytest.importorskip("torch")
pytestmark = pytest.mark.slow

VOCAB = 301
# Parameters as large as llama.cpp's, with numbers where it has them; logits: token t is followed by t + 1,
# with 5, or 6 where the cache is float32.
LIBRARY = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef struct { int32_t words[20]; } model_params;
typedef struct { int32_t words[34]; } context_params;
typedef struct { const char *name; const float *data; size_t size; } importance;
typedef struct { int32_t words[6]; const importance *matrix; void *more[4]; } quantize_params;
typedef struct { int32_t n; int32_t *token; float *embd; int32_t *pos, *n_seq; int32_t **seq; int8_t *logits; } batch;
static int32_t vocab = VOCAB, used, given[4];
static float *found;
void llama_log_set(void *f, void *d) { (void)f; (void)d; }
void llama_backend_init(void) {}
model_params llama_model_default_params(void) {
  model_params p;
  memset(&p, 0, sizeof p);
  p.words[18] = 65536;
  return p;
}
context_params llama_context_default_params(void) {
  context_params p = {{512, 2048, 512, 1, 0, 0, 1, 4, 4, 0, -1}};
  p.words[26] = p.words[27] = 1;
  return p;
}
void *llama_model_load_from_file(const char *path, model_params p) {
  return strstr(path, ".gguf") && p.words[18] == 65536 ? &vocab : 0;
}
void *llama_init_from_model(void *m, context_params p) {
  given[0] = p.words[0], given[1] = p.words[1], given[2] = p.words[7];
  given[3] = p.words[26];
  return p.words[7] == p.words[8] && p.words[26] == p.words[27] ? m : 0;
}
void *llama_model_get_vocab(void *m) { return m; }
int32_t llama_vocab_n_tokens(void *v) { return *(int32_t *)v; }
void *llama_get_memory(void *c) { return c; }
void llama_memory_clear(void *m, _Bool data) { (void)m; (void)data; used = 0; }
int32_t llama_decode(void *c, batch b) {
  (void)c;
  if (used + b.n > given[0] || b.n > given[1] || b.pos || b.embd) return 1;
  used += b.n;
  int rows = 0;
  found = realloc(found, sizeof(float) * (size_t)b.n * VOCAB);
  memset(found, 0, sizeof(float) * (size_t)b.n * VOCAB);
  for (int i = 0; i < b.n; i++)
    if (b.logits[i]) found[rows++ * VOCAB + (b.token[i] + 1) % VOCAB] = given[3] ? 5 : 6;
  return 0;
}
float *llama_get_logits(void *c) { (void)c; return found; }
quantize_params llama_model_quantize_default_params(void) {
  quantize_params p = {{0, 7, 43, 43, 256, 0}, 0, {0, 0, 0, 0}};
  return p;
}
// What it was asked for, behind the file itself.
uint32_t llama_model_quantize(const char *source, const char *target, const quantize_params *p) {
  FILE *in = fopen(source, "rb"), *out = fopen(target, "wb");
  if (!in || !out) return 1;
  for (int c = getc(in); c != EOF; c = getc(in)) putc(c, out);
  fprintf(out, "\\nASKED %d %d", p->words[0], p->words[1]);
  for (const importance *m = p->matrix; m && m->name; m++)
    fprintf(out, " %s:%zu:%g", m->name, m->size, m->data[m->size - 1]);
  return fclose(in) || fclose(out);
}
void llama_free(void *c) { (void)c; }
void llama_model_free(void *m) { (void)m; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    (folder / "llama.c").write_text(LIBRARY)
    output = folder / "libllama.so"
    command = ["gcc", "-shared", "-fPIC", f"-DVOCAB={VOCAB}", "-o", str(output), str(folder / "llama.c")]
    subprocess.run(command, check=True)
    return output


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.gguf"
    return write(path, families.make(families.Case("llama", {"vocab_size": VOCAB})), "llama", types_of("Q8_0"))


def test_calls(library: Path, file: Path) -> None:
    peers = module("llama_library")
    model = peers.LlamaCpp(library, file, context=40, batch=8)
    assert model.vocab == VOCAB
    ids = np.arange(20)
    assert np.array_equal(model.forward(ids, "all").argmax(axis=1), ids + 1)
    assert model.forward(ids[:9]).shape == (1, VOCAB) and model.forward(ids[5:6]).argmax() == 6
    with pytest.raises(RuntimeError):
        model.forward(ids)  # more than the context
    model.clear()
    assert len(model.forward(ids, "all")) == 20
    assert model.forward(ids[:1]).max() == 5
    model.clear()
    assert peers.LlamaCpp(library, file, context=40, float_cache=True).forward(ids).max() == 6
    with pytest.raises(RuntimeError, match="cannot open"):
        peers.LlamaCpp(library, file.parent / "none", context=40)
    with pytest.raises(FileNotFoundError):
        peers.find_library(str(file.parent / "none"))


def test_speed(library: Path, file: Path) -> None:
    options = ("--library", library, "-p", 16, "-n", 3, "-r", 2)
    rows = run("gguf_speed", file, *options)["rows"]
    assert [row["test"] for row in rows] == ["prefill 16", "decode 3"]
    for row in rows:
        ours, theirs = row["samples"]["agq"], row["samples"]["llama.cpp"]
        assert row["ratio"] == pytest.approx(sum(a / b for a, b in zip(ours, theirs, strict=True)) / 2)


def test_perplexity(library: Path, file: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("zx" * 200)  # no token is followed by the next one
    options = ("--library", library, "--data", text, "--seq-len", 32, "--windows", 2, "--texts", 2, "--tokens", 4)
    rows = run("gguf_perplexity", file, *options)["rows"]
    assert [row["inputs"] for row in rows] == [8, 16]
    assert all(row["llama.cpp"] == pytest.approx(VOCAB - 1 + np.exp(5), rel=1e-5) for row in rows)
    assert all(row["same greedy tokens"] == "0 0" for row in rows)


def test_perplexity_in_floats(library: Path, file: Path, tmp_path: Path) -> None:
    """Both with a float cache, llama.cpp on the twin; where texts part, both tokens are told with their logits."""
    text = tmp_path / "text.txt"
    text.write_text("zx" * 200)
    options = ("--library", library, "--data", text, "--seq-len", 32, "--windows", 1, "--texts", 1, "--tokens", 4)
    found = run("gguf_perplexity", file, *options, "--floats")
    assert [(row["weights"], row["inputs"]) for row in found["rows"]] == [("the file", 16), ("its twin", 16)]
    assert all(row["llama.cpp"] == pytest.approx(VOCAB - 1 + np.exp(6), rel=1e-5) for row in found["rows"])
    ours, twin = (row["agq"] for row in found["rows"])
    assert ours == pytest.approx(twin, rel=1e-5)
    first = found["differences"][0]
    assert first.startswith("the file: text 1, token 1: ") and first.endswith("0.0000 and 6.0000 in llama.cpp")


def test_the_twin_in_floats(file: Path, tmp_path: Path) -> None:
    """The same metadata and tensors, each as the numbers that its codes mean."""
    twin = gguf.GGUFReader(module("gguf_floats").write_floats(file, tmp_path / "twin.gguf"))
    source = gguf.GGUFReader(file)
    assert {item.tensor_type.name for item in source.tensors} == {"Q8_0", "F32"}
    for ours, theirs in zip(twin.tensors, source.tensors, strict=True):
        assert (ours.name, ours.tensor_type.name) == (theirs.name, "F32")
        assert np.array_equal(ours.data, gguf.quants.dequantize(theirs.data, theirs.tensor_type))
    fields = {key: field.contents() for key, field in twin.fields.items() if not key.startswith("GGUF.")}
    assert fields.pop("general.file_type") == gguf.LlamaFileType.ALL_F32
    assert fields == {key: source.fields[key].contents() for key in source.fields if not key.startswith("GGUF.")}


def test_quantizing(library: Path, file: Path, tmp_path: Path) -> None:
    """Threads, type and importance matrix arrive; a library without quantization, and one that fails, are told."""
    peers, types = module("llama_library"), module("llama_types")
    matrix = {"blk.0.attn_q.weight": np.array([1, 2.5], np.float32), "blk.1.ffn_up.weight": np.full(3, 7.0)}
    peers.quantize(library, file, tmp_path / "made.gguf", types.file_type("Q4_K_M"), matrix, threads=3)
    asked = (tmp_path / "made.gguf").read_bytes().rpartition(b"\nASKED ")[2].decode()
    assert asked == "3 15 blk.0.attn_q.weight:2:2.5 blk.1.ffn_up.weight:3:7"
    peers.quantize(library, file, tmp_path / "made.gguf", types.file_type("F32"))
    assert (tmp_path / "made.gguf").read_bytes().endswith(b"\nASKED 1 0")
    with pytest.raises(RuntimeError, match="cannot quantize"):
        peers.quantize(library, tmp_path / "none.gguf", tmp_path / "made.gguf", 7)
    with pytest.raises(ValueError, match="Q9_9"):
        types.file_type("Q9_9")
    (tmp_path / "empty.c").write_text("int nothing;")
    subprocess.run(["gcc", "-shared", "-o", str(tmp_path / "empty.so"), str(tmp_path / "empty.c")], check=True)
    with pytest.raises(RuntimeError, match="llama-cpp-python"):
        peers.quantize(tmp_path / "empty.so", file, tmp_path / "made.gguf", 7)


def test_real_models(library: Path, tmp_path: Path) -> None:
    """Both models, with and without importance matrix, beside a packed file; a second call measures nothing again."""
    model = families.make(families.Case("llama", {"vocab_size": VOCAB, "max_position_embeddings": 512}))
    source = write(tmp_path / "small.gguf", model, "llama", types_of("Q4_1"))
    text = tmp_path / "text.txt"
    text.write_text("zx" * 3000)
    work = tmp_path / "work"
    options = [source, "--work", work, "--text", f"zx={text}", "--windows", 2, "--seq-len", 32, "--library", library]
    options += ["--types", "Q8_0,Q4_K_M", "--calibration", text]
    found = run("real_models", *options)
    packed = tmp_path / "small.agq.safetensors"
    agq.pack(work / "twin", packed, weights="int8")
    found = run("real_models", *options, "--twin-agq", f"W8A8={packed}")
    assert found["windows"] == "first 2 of 32 tokens, no BOS" and list(found["source"]) == ["small.gguf"]
    rows = {row["type"]: row for row in found["rows"]}
    assert sorted(rows) == ["F32", "Q4_K_M", "Q4_K_M +i", "Q8_0", "W8A8"]
    floats = f"{VOCAB - 1 + np.exp(5):.3f}"
    assert rows["F32"]["zx, as it is"] == rows["F32"]["zx, twin"] == floats
    assert rows["Q4_K_M +i"]["zx, twin"] == "1.0000" and rows["W8A8"]["zx, as it is"] == "-"
    stored = json.loads((work / "rows.json").read_text())
    ours = next(row for row in stored["rows"] if row["name"] == "W8A8")
    expected = agq.evaluate_perplexity(packed, text, 32, add_bos=False, max_windows=2, threads=1)
    assert ours["ppl"]["zx"] == expected.ppl and ours["bytes"] == packed.stat().st_size
    better = {key.split(" than ")[1].split(" (")[0]: value for key, value in found.items() if " than " in key}
    assert set(better) == {"Q8_0", "Q4_K_M", "Q4_K_M +i"} and better["Q8_0"].startswith(("W8A8 (", "none"))
    stored["rows"][0]["ppl"]["zx"] = 1.0
    (work / "rows.json").write_text(json.dumps(stored))
    again = run("real_models", *options)
    assert {row["type"] for row in again["rows"]} == set(rows) and again["rows"] != found["rows"]
