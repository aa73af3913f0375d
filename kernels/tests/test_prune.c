/* Token pruning: what does not depend on cuts, threads and wanted tokens; caches of different length; refusals.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "model.h"

#define SIZES .hidden = 48, .layers = 4, .heads = 4, .head_dim = 12, .ffn = 80, .vocab = 40
static const test_shape shapes[] = {
    {"llama, grouped queries, W4A8", SIZES, .kv_heads = 2, .embed_dim = 48, .norm = AGQ_NORM_RMS, .position = AGQ_POSITION_ROPE,
     .activation = AGQ_ACTIVATION_SILU_GATED, .final_norm = 1, .tied = 1, .weights = AGQ_I8, .act_bits = 8, .head = AGQ_I8},
    {"opt, norms after, projections", SIZES, .kv_heads = 4, .embed_dim = 32, .norm = AGQ_NORM_LAYER,
     .position = AGQ_POSITION_LEARNED, .activation = AGQ_ACTIVATION_RELU, .norm_after = 1, .bias = 1, .weights = AGQ_F32,
     .act_bits = 32, .head = AGQ_F32},
    {"bloom, residual from norm", SIZES, .kv_heads = 4, .embed_dim = 48, .norm = AGQ_NORM_LAYER, .position = AGQ_POSITION_ALIBI,
     .activation = AGQ_ACTIVATION_GELU_TANH, .residual_from_norm = 1, .embed_norm = 1, .final_norm = 1, .bias = 1,
     .weights = AGQ_F32, .act_bits = 32, .head = AGQ_F32},
};
enum { N = 90, MORE = 6 };

static agq_engine *engine(const test_model *t, int threads, const agq_pruning *p) {
  const agq_options o = {threads, 2, N + MORE, N, 8, 0};
  char error[256];
  agq_engine *e = agq_engine_create(&t->m, &o, error, sizeof error);
  if (!e) {
    fprintf(stderr, "%s: %s\n", t->s.name, error);
    exit(1);
  }
  for (int i = 0; t->inv_freq && i < 2; i++) agq_engine_set_rope(e, i, t->inv_freq, 1.0f);
  if (p) test_expect(agq_engine_set_pruning(e, p) == AGQ_OK, "set_pruning");
  return e;
}

static void forward(agq_engine *e, const int32_t *tokens, int n, const uint8_t *want, float *logits) {
  const agq_batch b = {n, tokens, NULL, want};
  if (!test_expect(agq_engine_forward(e, &b, logits) == AGQ_OK, "forward")) fprintf(stderr, "  %s\n", agq_engine_error(e));
}

static void check(const test_model *t) {
  const size_t v = (size_t)t->s.vocab;
  int32_t tokens[N + MORE], layers[] = {1, 3};
  uint8_t all[N + MORE], some[N], kept[N + MORE], again[N + MORE];
  for (int i = 0; i < N + MORE; i++) tokens[i] = random_int(0, t->s.vocab - 1), all[i] = 1;
  for (int i = 0; i < N; i++) some[i] = i % 7 == 2;
  float *plain = test_alloc((N + MORE) * v * 4), *first = test_alloc((N + MORE) * v * 4), *logits = test_alloc((N + MORE) * v * 4);
  for (int mode = 0; mode < 8; mode++) {
    agq_pruning p = {2, layers, 0, mode & 1, mode >> 1 & 1, mode >> 2};
    agq_engine *e = engine(t, 1, NULL);
    forward(e, tokens, N, all, plain);
    agq_engine_destroy(e);
    e = engine(t, 2, &p);
    forward(e, tokens, N, all, logits);
    test_expect(!memcmp(plain, logits, N * v * 4), "a ratio of 0 changes no bit");
    agq_engine_destroy(e);

    p.ratio = 0.3; /* 90 - 27 - 18 */
    for (int threads = 1; threads <= 3; threads++) {
      e = engine(t, threads, &p);
      float *to = threads == 1 ? first : logits;
      forward(e, tokens, N, p.protect_wanted ? some : all, to);
      const size_t rows = p.protect_wanted ? 13 : N;
      agq_engine_survivors(e, 0, threads == 1 ? kept : again);
      int count = 0;
      for (int i = 0; i < N; i++) count += kept[i];
      test_expect(kept[0] && kept[N - 1] && count == (p.protect_wanted ? 63 : 45), "survivors");
      for (int i = 0; p.protect_wanted && i < N; i++) test_expect(kept[i] || !some[i], "wanted tokens are protected");
      for (int i = 0; i < MORE; i++) forward(e, tokens + N + i, 1, NULL, to + (rows + (size_t)i) * v);
      if (threads > 1)
        test_expect(!memcmp(first, logits, (rows + MORE) * v * 4) && !memcmp(kept, again, N), "the same bits for any number of threads");
      test_expect(agq_engine_slot_truncate(e, 0, N - 1) == AGQ_ERR_ARGUMENT && agq_engine_slot_length(e, 0) == N + MORE,
                  "a pruned prompt cannot be shortened");
      test_expect(agq_engine_slot_truncate(e, 0, N + 2) == AGQ_OK, "what follows it can");
      forward(e, tokens + N + 2, MORE - 2, all, logits);
      test_expect(!memcmp(first + (rows + 2) * v, logits, (MORE - 2) * v * 4), "the same bits after truncation, at once");
      test_expect(agq_engine_set_pruning(e, NULL) == AGQ_ERR_ARGUMENT, "pruning stays while a slot holds tokens");
      agq_engine_slot_truncate(e, 0, 0);
      if (!p.protect_wanted) {
        forward(e, tokens, N, some, logits);
        int equal = 1, row = 0;
        for (int i = 0; i < N; i++)
          if (some[i]) equal &= !memcmp(logits + (size_t)row++ * v, first + (size_t)i * v, v * 4);
        test_expect(equal, "the same logits whichever are asked for");
        agq_engine_slot_truncate(e, 0, 0);
      }
      test_expect(agq_engine_set_pruning(e, NULL) == AGQ_OK, "pruning ends");
      forward(e, tokens, N, all, logits);
      test_expect(!memcmp(plain, logits, N * v * 4), "without pruning as before");
      agq_engine_destroy(e);
    }
  }
  free(plain), free(first), free(logits);
}

static void refusals(const test_model *t) {
  int32_t layers[] = {0, 4}, tokens[N + 1] = {0};
  agq_pruning p = {2, layers, 0.5, 0, 0, 1};
  agq_engine *e = engine(t, 1, NULL);
  test_expect(agq_engine_set_pruning(e, &p) == AGQ_ERR_ARGUMENT && strstr(agq_engine_error(e), "layer 4"), "layer out of range");
  layers[1] = 3, p.ratio = 1;
  test_expect(agq_engine_set_pruning(e, &p) == AGQ_ERR_ARGUMENT, "ratio out of range");
  p.ratio = 0.5, p.scores = 2;
  test_expect(agq_engine_set_pruning(e, &p) == AGQ_ERR_ARGUMENT, "unknown scores");
  p.scores = 0;
  test_expect(agq_engine_set_pruning(e, &p) == AGQ_OK, "set_pruning");
  float *logits = test_alloc((size_t)t->s.vocab * 4);
  const agq_batch b = {N + 1, tokens, NULL, NULL};
  test_expect(agq_engine_forward(e, &b, logits) == AGQ_ERR_ARGUMENT && strstr(agq_engine_error(e), "one piece") &&
                  agq_engine_slot_length(e, 0) == 0,
              "a prompt longer than the batch");
  for (int n = 1; n <= 3; n++) { /* nothing but protected tokens, or one that is not */
    const agq_batch few = {n, tokens, NULL, NULL};
    test_expect(agq_engine_forward(e, &few, logits) == AGQ_OK && agq_engine_slot_truncate(e, 0, 0) == AGQ_OK, "short prompts");
  }
  agq_engine_destroy(e);
  free(logits);
}

int main(void) {
  if (!test_begin()) return 0;
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    test_model *t = model_create(&shapes[i]);
    check(t);
    if (i == 0) refusals(t);
    model_free(t);
  }
  return test_end("prune");
}
