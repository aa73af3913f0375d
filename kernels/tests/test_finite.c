/* test_finite.c: what is not finite does not get lost: not among codes, in activation functions, in attention, nor on
 * its way through a whole engine to the logits.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>

#include "engine_checks.h"
#include "gemm/linear.h"
#include "gemm/quantize.h"
#include "ops/attention.h"
#include "ops/ops.h"

static char what[200];
enum { BAD = 4 };
static const float bad[BAD] = {NAN, -NAN, INFINITY, -INFINITY};

/* Dynamic quantizers: the scale of the group of a bad value is not finite, the others are. */
static void quantizers(void) {
  enum { K = 96 };
  float x[K], scales[3];
  int8_t codes[K];
  for (int mode = 0; mode < 3; mode++)
    for (int group = 0; group <= 32; group += 32)
      for (int scalar = 0; scalar < 2; scalar++)
        for (int at = 0; at < K; at++)
          for (int b = 0; b < BAD; b++) {
            for (int i = 0; i < K; i++) x[i] = random_float();
            x[at] = bad[b];
            (scalar ? agq_kernels_scalar : agq_kernels_native)
                .quantize_row(x, K, K, mode ? 4 : 8, group, mode < 2, 0.9f, codes, scales);
            int right = 1;
            for (int g = 0; g < (group ? 3 : 1); g++) right &= !isfinite(scales[g]) == (!group || at / 32 == g);
            snprintf(what, sizeof what, "quantize_row: mode %d, group %d, scalar %d, %g at %d", mode, group, scalar,
                     (double)bad[b], at);
            test_expect(right, what);
          }
  /* A range whose inverse would be infinite counts as none. */
  for (int mode = 0; mode < 3; mode++)
    for (int scalar = 0; scalar < 2; scalar++) {
      for (int i = 0; i < K; i++) x[i] = i % 2 ? 1e-41f * random_float() : 0;
      (scalar ? agq_kernels_scalar : agq_kernels_native)
          .quantize_row(x, K, K, mode ? 4 : 8, 0, mode < 2, 1, codes, scales);
      int right = scales[0] == 0;
      for (int i = 0; i < K; i++) right &= codes[i] == 0;
      test_expect(right, "quantize_row: subnormal values are zeros");
    }
  for (int at = 0; at < K; at++)
    for (int b = 0; b < BAD; b++) {
      for (int i = 0; i < K; i++) x[i] = random_float();
      test_expect(agq_finite_row(x, K), "finite_row: finite");
      x[at] = bad[b];
      test_expect(!agq_finite_row(x, K) && agq_finite_row(x, at), "finite_row: not finite");
      test_expect(!isfinite(agq_quantize_head(x, codes, K, 1)), "quantize_head");
    }
  for (int i = 0; i < K; i++) x[i] = 1e-41f;
  test_expect(agq_quantize_head(x, codes, K, 1) == 0 && codes[5] == 0, "quantize_head: subnormal values are zeros");
}

/* Functions of one value: NaN where it is. */
static void functions(void) {
  static const int kinds[] = {AGQ_ACTIVATION_RELU, AGQ_ACTIVATION_GELU_TANH, AGQ_ACTIVATION_GELU_ERF},
                   gates[] = {AGQ_ACTIVATION_SILU_GATED, AGQ_ACTIVATION_GELU_TANH_GATED, AGQ_ACTIVATION_GELU_ERF_GATED};
  enum { N = 21 };
  float x[N], gate[N], up[N];
  for (int kind = 0; kind < 3; kind++)
    for (int at = 0; at < N; at++) {
      for (int i = 0; i < N; i++) x[i] = random_float(), gate[i] = random_float(), up[i] = random_float();
      x[at] = NAN, gate[at] = NAN;
      agq_activate_row(kinds[kind], x, N);
      agq_gate_row(gates[kind], gate, up, gate, N);
      int right = 1;
      for (int i = 0; i < N; i++) right &= isnan(x[i]) == (i == at) && isnan(gate[i]) == (i == at);
      snprintf(what, sizeof what, "activation %d: NaN at %d", kind, at);
      test_expect(right, what);
      for (int i = 0; i < N; i++) x[i] = random_float();
      x[at] = NAN;
      agq_cap_row(x, 2, 5, N);
      test_expect(isnan(x[at]), "cap of NaN");
    }
}

/* A bad value in a key or a value: what attends to it is not finite. */
static void attention(int bits, int d, int group, int values) {
  enum { POSITIONS = 90 };
  const agq_kv_layout kv = agq_kv_layout_make(bits, d, POSITIONS);
  char *region = test_alloc(kv.region_bytes);
  float *key = test_alloc((size_t)d * 4), *value = test_alloc((size_t)d * 4), *q = test_alloc((size_t)group * d * 4),
        *out = test_alloc((size_t)group * d * 4), *scratch = test_alloc(agq_attention_scratch(&kv, group) * 4);
  const int32_t row = 0, position = POSITIONS - 1;
  for (int i = 0; i < group * d; i++) q[i] = random_float();
  for (int b = 0; b < BAD; b++) {
    const int at = random_int(0, POSITIONS - 1);
    memset(region, 0, kv.region_bytes);
    for (int j = 0; j < POSITIONS; j++) {
      for (int c = 0; c < d; c++) key[c] = random_float(), value[c] = random_float();
      if (j == at) (values ? value : key)[random_int(0, d - 1)] = bad[b];
      agq_kv_store(&kv, region, j, key, value);
    }
    const agq_attention a = {.kv = &kv,
                             .group = group,
                             .scale = 0.1f,
                             .q = q,
                             .ldq = (size_t)(group * d),
                             .token_row = &row,
                             .token_position = &position,
                             .out = out,
                             .ldo = (size_t)(group * d),
                             .heads = group};
    agq_attention_tile(&a, region, 0, 0, 0, group, scratch);
    int found = 1;
    for (int h = 0; h < group; h++) {
      int finite = 1;
      for (int c = 0; c < d; c++) finite &= isfinite(out[h * d + c]) != 0;
      found &= !finite;
    }
    snprintf(what, sizeof what, "attention: %d bits, head_dim %d, group %d, %s %g", bits, d, group,
             values ? "value" : "key", (double)bad[b]);
    test_expect(found, what);
  }
  free(region), free(key), free(value), free(q), free(out), free(scratch);
}

#define SMALL \
  .hidden = 64, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 16, .ffn = 96, .vocab = 50, .embed_dim = 64
#define LLAMA                                                                                                    \
  .norm = AGQ_NORM_RMS, .position = AGQ_POSITION_ROPE, .activation = AGQ_ACTIVATION_SILU_GATED, .final_norm = 1, \
  .bias = 1
#define OPT .norm = AGQ_NORM_LAYER, .position = AGQ_POSITION_LEARNED, .activation = AGQ_ACTIVATION_RELU, .bias = 1
#define BLOOM                                                                                                \
  .norm = AGQ_NORM_LAYER, .position = AGQ_POSITION_ALIBI, .activation = AGQ_ACTIVATION_GELU_TANH, .bias = 1, \
  .residual_from_norm = 1, .embed_norm = 1, .final_norm = 1
static const test_shape shapes[] = {
    {.name = "llama float", SMALL, LLAMA, FLOAT},
    {.name = "llama W8A8", SMALL, LLAMA, W8A8},
    {.name = "llama W4A8, Hadamard", SMALL, LLAMA, W4(8), .hadamard = 1},
    {.name = "llama W4A4, sinks", SMALL, LLAMA, W4(4), .zeros = 1, .sinks = 1},
    {.name = "llama static", SMALL, LLAMA, W4(4), .zeros = 1, .fixed = 1},
    {.name = "llama, a matrix before a 6-bit head",
     SMALL,
     LLAMA,
     .matrix = 1,
     .weights = AGQ_U4,
     .act_bits = 8,
     .head = AGQ_I6,
     .group = 32},
    {.name = "opt W8A8", SMALL, OPT, W8A8, .final_norm = 1},
    {.name = "opt, norms after", SMALL, OPT, W8A8, .norm_after = 1},
    {.name = "bloom W4A4", SMALL, BLOOM, W4(4)},
    {.name = "norms of both sides, caps",
     SMALL,
     LLAMA,
     W8A8,
     .post_norms = 1,
     .logit_softcap = 30,
     .attention_softcap = 20},
    {.name = "parallel, norms of q and k", SMALL, LLAMA, W8A8, .parallel = 1, .qk_norm = AGQ_QK_NORM_HEAD},
};

static int finite_logits(const test_model *t, const int32_t *tokens, int n, int kv_bits, int batch, int scalar) {
  float logits[50];
  agq_engine *e = engine(t, 1, 1, n, batch, kv_bits, scalar);
  const agq_batch b = {n, tokens, NULL, NULL}; /* logits of the last only */
  test_expect(agq_engine_forward(e, &b, logits) == AGQ_OK, "forward");
  agq_engine_destroy(e);
  int finite = 1;
  for (int i = 0; i < 50; i++) finite &= isfinite(logits[i]) != 0;
  return finite;
}

/* One value of the model is bad: an embedding of a token in the middle of the prompt, a gain, a bias of a layer. */
static void engines(void) {
  enum { N = 9, PLACES = 8 };
  static const char *names[PLACES] = {"embedding", "gain", "q", "k", "v", "out", "up", "down"};
  const int32_t tokens[N] = {3, 5, 7, 11, 13, 17, 19, 23, 29};
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
    test_model *t = model_create(&shapes[s]);
    agq_block *block = &t->blocks[random_int(0, 1)];
    float *places[PLACES] = {(float *)t->m.embed + 13 * 64 + 5,  (float *)block->attn_norm.weight + 40,
                             (float *)block->qkv.bias + 50,      (float *)block->qkv.bias + 64 + 20,
                             (float *)block->qkv.bias + 96 + 20, (float *)block->out.bias + 6,
                             (float *)block->up.bias + 70,       (float *)block->down.bias + 33};
    for (int kv = 4; kv <= 32; kv = kv == 4 ? 8 : 32 + (kv == 32))
      for (int p = 0; p < PLACES; p++)
        for (int scalar = 0; scalar < 2; scalar++) {
          const float before = *places[p];
          if (p == 0) test_expect(finite_logits(t, tokens, N, kv, N, scalar), "logits of a whole model");
          *places[p] = bad[random_int(0, p == 6 ? 1 : BAD - 1)]; /* ReLU of -infinity is 0 */
          snprintf(what, sizeof what, "%s, %d-bit cache, scalar %d: %s %g", t->s.name, kv, scalar, names[p],
                   (double)*places[p]);
          test_expect(!finite_logits(t, tokens, N, kv, p & 1 ? N : 4, scalar), what);
          *places[p] = before;
        }
    model_free(t);
  }
}

/* Integer attention: a bad value of the token itself. */
static void log2_attention(void) {
  static const test_shape shape = {
      .name = "llama, integer attention", SMALL, LLAMA, W4(4), .zeros = 1, .fixed = 1, .log2 = 1};
  const int32_t tokens[3] = {3, 5, 7};
  test_model *t = model_create(&shape);
  test_expect(finite_logits(t, tokens, 3, 8, 3, 0), "integer attention of a whole model");
  ((float *)t->m.embed)[7 * 64 + 5] = NAN;
  test_expect(!finite_logits(t, tokens, 3, 8, 3, 0), "integer attention: an embedding of the token");
  ((float *)t->m.embed)[7 * 64 + 5] = 0;
  ((float *)t->blocks[1].qkv.bias)[50] = NAN;
  test_expect(!finite_logits(t, tokens, 3, 8, 3, 0), "integer attention: a query");
  model_free(t);
}

int main(void) {
  if (!test_begin()) return 0;
  quantizers();
  functions();
  static const int dims[] = {12, 16, 64, 128, 256};
  for (int bits = 4; bits <= 32; bits = bits == 4 ? 8 : 32 + (bits == 32))
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
      for (int values = 0; values < 2; values++)
        for (int group = 1; group <= 4; group *= 4) attention(bits, dims[i], group, values);
  engines();
  log2_attention();
  return test_end("finite");
}
