/* Token pruning: what does not depend on cuts, threads and wanted tokens; caches of different length; refusals.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "reference.h"

#define SIZES .hidden = 48, .layers = 4, .heads = 4, .head_dim = 12, .ffn = 80, .vocab = 40
static const test_shape shapes[] = {
    {"llama, grouped queries, W4A8", SIZES, .kv_heads = 2, .embed_dim = 48, .norm = AGQ_NORM_RMS,
     .position = AGQ_POSITION_ROPE, .activation = AGQ_ACTIVATION_SILU_GATED, .final_norm = 1, .tied = 1,
     .weights = AGQ_I8, .act_bits = 8, .head = AGQ_I8},
    {"opt, norms after, projections", SIZES, .kv_heads = 4, .embed_dim = 32, .norm = AGQ_NORM_LAYER,
     .position = AGQ_POSITION_LEARNED, .activation = AGQ_ACTIVATION_RELU, .norm_after = 1, .bias = 1,
     .weights = AGQ_F32, .act_bits = 32, .head = AGQ_F32},
    {"bloom, residual from norm", SIZES, .kv_heads = 4, .embed_dim = 48, .norm = AGQ_NORM_LAYER,
     .position = AGQ_POSITION_ALIBI, .activation = AGQ_ACTIVATION_GELU_TANH, .residual_from_norm = 1, .embed_norm = 1,
     .final_norm = 1, .bias = 1, .weights = AGQ_F32, .act_bits = 32, .head = AGQ_F32},
    {"windows, two RoPEs, head norms", SIZES, .kv_heads = 2, .embed_dim = 48, .norm = AGQ_NORM_RMS,
     .position = AGQ_POSITION_ROPE, .activation = AGQ_ACTIVATION_GELU_TANH_GATED, .final_norm = 1, .post_norms = 1,
     .qk_norm = AGQ_QK_NORM_HEAD, .window = 30, .windowed = 7, .local = 6, .unrotated = 8, .residual_factor = 0.7f,
     .attention_softcap = 2, .weights = AGQ_F32, .act_bits = 32, .head = AGQ_F32},
    {"parallel, factors, windows", SIZES, .kv_heads = 4, .embed_dim = 48, .norm = AGQ_NORM_LAYER,
     .position = AGQ_POSITION_ROPE, .activation = AGQ_ACTIVATION_GELU_ERF, .final_norm = 1, .parallel = 1,
     .rotary_dim = 6, .residual_factor = 0.5f, .window = 41, .windowed = 12, .bias = 1, .weights = AGQ_F32,
     .act_bits = 32, .head = AGQ_F32},
    {"norms after only", SIZES, .kv_heads = 4, .embed_dim = 48, .norm = AGQ_NORM_RMS, .position = AGQ_POSITION_ROPE,
     .activation = AGQ_ACTIVATION_SILU_GATED, .final_norm = 1, .no_pre_norms = 1, .post_norms = 1,
     .qk_norm = AGQ_QK_NORM_WHOLE, .weights = AGQ_F32, .act_bits = 32, .head = AGQ_F32},
};
enum { N = 90, MORE = 6 };

static agq_engine *engine(const test_model *t, int threads, int kv_bits, const agq_pruning *p) {
  const agq_options o = {threads, 2, N + MORE, N, kv_bits, 0};
  char error[256];
  agq_engine *e = agq_engine_create(&t->m, &o, error, sizeof error);
  if (!e) {
    fprintf(stderr, "%s: %s\n", t->s.name, error);
    exit(1);
  }
  for (int i = 0; i < 2; i++) set_ropes(t, e, i);
  if (p) test_expect(agq_engine_set_pruning(e, p) == AGQ_OK, "set_pruning");
  return e;
}

static void forward(agq_engine *e, const int32_t *tokens, int n, const uint8_t *want, float *logits) {
  const agq_batch b = {n, tokens, NULL, want};
  if (!test_expect(agq_engine_forward(e, &b, logits) == AGQ_OK, "forward"))
    fprintf(stderr, "  %s\n", agq_engine_error(e));
}

static void check(const test_model *t) {
  const size_t v = (size_t)t->s.vocab;
  int32_t tokens[N + MORE], layers[] = {1, 3};
  uint8_t all[N + MORE], some[N], kept[N + MORE], again[N + MORE];
  for (int i = 0; i < N + MORE; i++) tokens[i] = random_int(0, t->s.vocab - 1), all[i] = 1;
  for (int i = 0; i < N; i++) some[i] = i % 7 == 2;
  float *plain = test_alloc((N + MORE) * v * 4), *first = test_alloc((N + MORE) * v * 4),
        *logits = test_alloc((N + MORE) * v * 4);
  agq_engine *e = engine(t, 1, 8, NULL);
  forward(e, tokens, N, all, plain);
  agq_engine_destroy(e);
  for (int mode = 0; mode < 8; mode++) {
    agq_pruning p = {2, layers, 0, mode & 1, mode >> 1 & 1, mode >> 2};
    e = engine(t, 2, 8, &p);
    forward(e, tokens, N, all, logits);
    test_expect(!memcmp(plain, logits, N * v * 4), "a ratio of 0 changes no bit");
    agq_engine_destroy(e);

    p.ratio = 0.3; /* 90 - 27 - 18 */
    for (int threads = 1; threads <= 3; threads += 2) {
      e = engine(t, threads, 8, &p);
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
        test_expect(!memcmp(first, logits, (rows + MORE) * v * 4) && !memcmp(kept, again, N),
                    "the same bits for any number of threads");
      test_expect(agq_engine_slot_truncate(e, 0, N - 1) == AGQ_ERR_ARGUMENT && agq_engine_slot_length(e, 0) == N + MORE,
                  "a pruned prompt cannot be shortened");
      test_expect(agq_engine_slot_truncate(e, 0, N + 2) == AGQ_OK, "what follows it can");
      forward(e, tokens + N + 2, MORE - 2, all, logits);
      test_expect(!memcmp(first + (rows + 2) * v, logits, (MORE - 2) * v * 4),
                  "the same bits after truncation, at once");
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

/* Prompts of two slots in one batch, then a token of each, give what each slot gives alone. */
static void two_slots(const test_model *t) {
  enum { FIRST = 50, SECOND = 31 };
  const size_t v = (size_t)t->s.vocab;
  int32_t tokens[2][FIRST + 1], layers[] = {0, 2}, batch[FIRST + SECOND], slots[FIRST + SECOND], later[] = {1, 0};
  uint8_t all[FIRST + SECOND], kept[FIRST + 1], alone_kept[2][FIRST + 1];
  const int lengths[] = {FIRST, SECOND};
  float *alone[2], *logits = test_alloc((FIRST + SECOND) * v * 4);
  memset(all, 1, sizeof all);
  for (int mode = 0; mode < 4; mode++) {
    const agq_pruning p = {2, layers, 0.3, mode & 1, mode >> 1, 0};
    int n = 0;
    for (int s = 0; s < 2; s++) {
      for (int i = 0; i <= lengths[s]; i++) tokens[s][i] = random_int(0, t->s.vocab - 1);
      for (int i = 0; i < lengths[s]; i++, n++) batch[n] = tokens[s][i], slots[n] = s;
      alone[s] = test_alloc((size_t)(lengths[s] + 1) * v * 4);
      agq_engine *e = engine(t, 1, 8, &p);
      forward(e, tokens[s], lengths[s], all, alone[s]);
      forward(e, tokens[s] + lengths[s], 1, NULL, alone[s] + (size_t)lengths[s] * v);
      test_expect(agq_engine_survivors(e, 0, alone_kept[s]) == AGQ_OK, "survivors");
      agq_engine_destroy(e);
    }
    agq_engine *e = engine(t, 2, 8, &p);
    const agq_batch prompts = {n, batch, slots, all};
    test_expect(agq_engine_forward(e, &prompts, logits) == AGQ_OK, "two prompts");
    test_expect(!memcmp(logits, alone[0], FIRST * v * 4) && !memcmp(logits + FIRST * v, alone[1], SECOND * v * 4),
                "pruned prompts are independent");
    const int32_t next[] = {tokens[1][SECOND], tokens[0][FIRST]};
    const agq_batch decode = {2, next, later, all};
    test_expect(agq_engine_forward(e, &decode, logits) == AGQ_OK, "decoding two slots");
    test_expect(!memcmp(logits, alone[1] + SECOND * v, v * 4) && !memcmp(logits + v, alone[0] + FIRST * v, v * 4),
                "what follows pruned prompts is independent");
    for (int s = 0; s < 2; s++) {
      test_expect(agq_engine_survivors(e, s, kept) == AGQ_OK && !memcmp(kept, alone_kept[s], (size_t)lengths[s] + 1),
                  "survivors of a slot");
      free(alone[s]);
    }
    agq_engine_destroy(e);
  }
  free(logits);
}

static double log2_share(double p) {
  const double k = rint(-log2(p));
  return k < 16 ? exp2(-k) : 0;
}

/* Attention to the first token over all heads, in each row of shares[n][heads], times `factor`. */
static double importance(const double *shares, int heads, int log2_scores, double factor) {
  double sum = 0;
  for (int h = 0; h < heads; h++) sum += log2_scores ? log2_share(shares[h] * factor) : shares[h] * factor;
  return sum;
}

/* One layer prunes: those that attend least to the first token are gone, as many as there should be, and all logits, of
 * the prompt and of what follows, are those of a reference that removes the same tokens. */
static void against_reference(const test_model *t, int layer, int renumber, int log2_scores, int sinks) {
  const size_t v = (size_t)t->s.vocab;
  int32_t tokens[N + MORE], layers[1] = {layer};
  uint8_t all[N + MORE], kept[N + MORE];
  const agq_pruning p = {1,
                         layers,
                         0.4,
                         renumber ? AGQ_PRUNE_RENUMBER : AGQ_PRUNE_KEEP_POSITIONS,
                         log2_scores ? AGQ_PRUNE_LOG2 : AGQ_PRUNE_FLOAT,
                         0};
  for (int i = 0; i < N + MORE; i++) tokens[i] = random_int(0, t->s.vocab - 1), all[i] = 1;
  test_model used = *t;
  used.m.sink_tokens = sinks; /* stay, though float activations have no other format for them */
  float *logits = test_alloc((N + MORE) * v * 4);
  double *expected = doubles((N + MORE) * v), *shares = doubles((size_t)(N + MORE) * (size_t)t->s.heads);
  agq_engine *e = engine(&used, 2, 32, &p);
  forward(e, tokens, N, all, logits);
  for (int i = 0; i < MORE; i++) forward(e, tokens + N + i, 1, NULL, logits + (size_t)(N + i) * v);
  test_expect(agq_engine_survivors(e, 0, kept) == AGQ_OK, "survivors");
  const ref_pruning r = {layer, renumber, kept, shares};
  reference(&used, tokens, N + MORE, 32, &r, expected);
  const double error = relative_error(logits, expected, (N + MORE) * v);
  if (!test_expect(error < 1e-5, "logits with pruning equal the reference's"))
    fprintf(stderr, "  %s, layer %d, renumber %d, log2 %d: error %g\n", t->s.name, layer, renumber, log2_scores, error);
  int count = 0, least = 1;
  double most_removed = 0, least_kept = INFINITY;
  for (int i = 0; i < N + MORE; i++) {
    const double *share = shares + (size_t)i * (size_t)t->s.heads;
    count += !kept[i];
    if (!kept[i]) most_removed = fmax(most_removed, importance(share, t->s.heads, log2_scores, 1 - 1e-4));
    else if (i >= (sinks > 1 ? sinks : 1) && i < N - 1)
      least_kept = fmin(least_kept, importance(share, t->s.heads, log2_scores, 1 + 1e-4));
    if (!kept[i]) least &= i >= sinks && i > 0 && i < N - 1;
  }
  test_expect(least, "first and last, sink tokens and what follows the prompt stay");
  const int candidates = sinks ? N - sinks - 1 : N - 2, asked = (int)(0.4 * N);
  test_expect(count == (asked < candidates ? asked : candidates), "a part of the prompt is removed");
  test_expect(most_removed <= least_kept, "removed are those that attend least to the first token");
  agq_engine_destroy(e);
  free(logits), free(expected), free(shares);
}

static void refusals(const test_model *t) {
  int32_t layers[] = {0, 4}, tokens[N + 1] = {0};
  agq_pruning p = {2, layers, 0.5, 0, 0, 1};
  agq_engine *e = engine(t, 1, 8, NULL);
  test_expect(agq_engine_set_pruning(e, &p) == AGQ_ERR_ARGUMENT && strstr(agq_engine_error(e), "layer 4"),
              "layer out of range");
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
    test_expect(agq_engine_forward(e, &few, logits) == AGQ_OK && agq_engine_slot_truncate(e, 0, 0) == AGQ_OK,
                "short prompts");
  }
  agq_engine_destroy(e);
  free(logits);
}

int main(void) {
  if (!test_begin()) return 0;
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    if (!test_takes((unsigned)i)) continue;
    test_model *t = model_create(&shapes[i]);
    check(t);
    two_slots(t);
    if (i == 0) refusals(t);
    model_free(t);
    test_shape plain = shapes[i];
    plain.weights = AGQ_F32, plain.act_bits = 32, plain.head = AGQ_F32;
    t = model_create(&plain);
    for (int mode = 0; mode < 4; mode++)
      for (int layer = 0; layer < 4; layer += 1 + (mode & 1))
        against_reference(t, layer, mode & 1, mode >> 1, mode == 2 ? 60 : 0);
    model_free(t);
  }
  return test_end("prune");
}
