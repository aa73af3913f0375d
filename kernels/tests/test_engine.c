/* The engine against a double-precision reference, and what it promises about cuts, threads, slots and errors.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <time.h>

#include "engine_checks.h"

#define LLAMA \
  .norm = AGQ_NORM_RMS, .position = AGQ_POSITION_ROPE, .activation = AGQ_ACTIVATION_SILU_GATED, .final_norm = 1
#define OPT .norm = AGQ_NORM_LAYER, .position = AGQ_POSITION_LEARNED, .tied = 1, .bias = 1
#define BLOOM                                                                                                      \
  .norm = AGQ_NORM_LAYER, .position = AGQ_POSITION_ALIBI, .activation = AGQ_ACTIVATION_GELU_TANH, .embed_norm = 1, \
  .final_norm = 1, .tied = 1, .bias = 1
static const test_shape shapes[] = {
    {"llama, grouped queries", LLAMA, SIZES(64, 2, 6, 2, 32, 96, 51, 64), FLOAT},
    {"llama, tied, biases, head_dim 20, odd ffn", LLAMA, SIZES(48, 2, 3, 1, 20, 70, 33, 48), .tied = 1, .bias = 1,
     FLOAT},
    {"opt", OPT, SIZES(48, 2, 4, 4, 12, 80, 40, 48), .activation = AGQ_ACTIVATION_RELU, .final_norm = 1, FLOAT},
    {"opt, norms after, projections", OPT, SIZES(48, 3, 4, 4, 12, 80, 40, 32), .activation = AGQ_ACTIVATION_RELU,
     .norm_after = 1, FLOAT},
    {"opt, gelu", OPT, SIZES(48, 2, 2, 2, 24, 80, 40, 48), .activation = AGQ_ACTIVATION_GELU_ERF, .final_norm = 1,
     FLOAT},
    {"bloom, 5 heads", BLOOM, SIZES(80, 2, 5, 5, 16, 160, 37, 80), FLOAT},
    {"bloom, residual from norm", BLOOM, SIZES(80, 2, 5, 5, 16, 160, 37, 80), .residual_from_norm = 1, FLOAT},
    {"llama, W4A8, 8-bit head", LLAMA, SIZES(128, 2, 8, 2, 16, 192, 50, 128), .tied = 1, W4(8)},
    {"llama, W4A4", LLAMA, SIZES(128, 2, 4, 4, 32, 192, 50, 128), W4(4)},
    {"bloom, W8A8", BLOOM, SIZES(80, 2, 5, 5, 16, 160, 37, 80), W8A8},
    {"llama, hadamard, head of 40", LLAMA, SIZES(96, 2, 3, 1, 40, 80, 33, 96), .hadamard = 1, FLOAT},
    {"opt, norms after, hadamard", OPT, SIZES(48, 2, 4, 4, 12, 80, 40, 32), .activation = AGQ_ACTIVATION_RELU,
     .norm_after = 1, .hadamard = 1, FLOAT},
    {"bloom, residual from norm, hadamard", BLOOM, SIZES(80, 2, 5, 5, 16, 160, 37, 80), .residual_from_norm = 1,
     .hadamard = 1, FLOAT},
    {"llama, W4A4, hadamard, clip", LLAMA, SIZES(128, 2, 4, 4, 32, 192, 50, 128), .hadamard = 1, .clip = 0.9f, W4(4)},
    {"llama, 8-bit embedding, W4A8", LLAMA, SIZES(128, 2, 8, 2, 16, 192, 50, 128), .embed8 = 1, W4(8)},
    {"opt, projections, 8-bit embedding of 33", .norm = AGQ_NORM_LAYER, .position = AGQ_POSITION_LEARNED, .bias = 1,
     SIZES(48, 2, 4, 4, 12, 80, 40, 33), .activation = AGQ_ACTIVATION_RELU, .norm_after = 1, .embed8 = 1, FLOAT},
    {"llama, W4A4, hadamard, clip, 5 sink tokens", LLAMA, SIZES(128, 2, 4, 4, 32, 192, 50, 128), .hadamard = 1,
     .clip = 0.9f, .sinks = 5, W4(4)},
    {"opt, norms after, projections, W4A4, 1 sink token", OPT, SIZES(64, 3, 4, 4, 16, 96, 40, 32),
     .activation = AGQ_ACTIVATION_RELU, .norm_after = 1, .sinks = 1, W4(4)},
    {"bloom, residual from norm, W4A4, 64 sink tokens", BLOOM, SIZES(96, 2, 6, 6, 16, 160, 37, 96),
     .residual_from_norm = 1, .sinks = 64, W4(4)},
    {"llama, W4A8, zero points, biases", LLAMA, SIZES(128, 2, 8, 2, 16, 192, 50, 128), .bias = 1, .zeros = 1,
     .stored = AGQ_BF16, W4(8)},
    {"opt, W4A4, static, zero points", OPT, SIZES(64, 2, 4, 4, 16, 96, 40, 64), .activation = AGQ_ACTIVATION_RELU,
     .final_norm = 1, .zeros = 1, .fixed = 1, .stored = AGQ_F16, W4(4)},
    {"llama, integer attention", LLAMA, SIZES(64, 2, 6, 2, 32, 96, 51, 64), .log2 = 1, .stored = AGQ_F16, FLOAT},
    {"bloom, integer attention", BLOOM, SIZES(80, 2, 5, 5, 16, 160, 37, 80), .log2 = 1, FLOAT},
    {"opt, norms after, final norm", OPT, SIZES(48, 2, 4, 4, 12, 80, 40, 48), .activation = AGQ_ACTIVATION_RELU,
     .norm_after = 1, .final_norm = 1, FLOAT},
    {"opt, projections, bf16 positions", OPT, SIZES(48, 2, 4, 4, 12, 80, 40, 32), .activation = AGQ_ACTIVATION_RELU,
     .final_norm = 1, .stored = AGQ_BF16, FLOAT},
    {"llama, tied through a matrix, W4A8, 6-bit head", LLAMA, SIZES(96, 2, 6, 2, 16, 192, 50, 96), .tied = 1,
     .matrix = 1, .weights = AGQ_U4, .act_bits = 8, .head = AGQ_I6, .group = 32},
    {"llama, heads of 256, W4A8", LLAMA, SIZES(128, 1, 2, 1, 256, 192, 50, 128), .clip = 0.95f, W4(8)},
    {"opt, norms after, projections, input order", OPT, SIZES(48, 1, 4, 4, 12, 80, 40, 32),
     .activation = AGQ_ACTIVATION_RELU, .norm_after = 1, .order = 1, FLOAT},
    {"llama, W4A4, input order, hadamard, 5 sink tokens", LLAMA, SIZES(128, 1, 4, 4, 32, 192, 50, 128), .order = 1,
     .hadamard = 1, .sinks = 5, W4(4)},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Every part that a model has takes time, together no more than passes; a reset forgets it. */
static void profile(const test_model *t) {
  agq_engine *e = engine(t, 2, 1, 64, 32, 8, 0);
  int32_t tokens[32];
  double seconds[AGQ_PROFILE_PARTS], again[AGQ_PROFILE_PARTS], sum = 0;
  float *logits = test_alloc(32 * (size_t)t->s.vocab * 4);
  random_tokens(tokens, 32, t->s.vocab);
  struct timespec begin, end;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  append(e, t->s.vocab, tokens, 32, 32, 0, logits);
  clock_gettime(CLOCK_MONOTONIC, &end);
  agq_engine_profile(e, seconds, 1);
  for (int i = 0; i < AGQ_PROFILE_PARTS; i++) {
    const int absent = i == AGQ_PROFILE_PROJECT && t->s.embed_dim == t->s.hidden && !t->s.matrix;
    sum += seconds[i];
    test_expect(absent ? seconds[i] == 0 : seconds[i] > 0, "a part of the profile");
    for (int j = 0; j < i; j++) test_expect(strcmp(agq_profile_name(i), agq_profile_name(j)), "names of parts differ");
  }
  test_expect(sum <= (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec),
              "parts of the whole");
  test_expect(!agq_profile_name(AGQ_PROFILE_PARTS) && !agq_profile_name(-1), "no further part");
  agq_engine_profile(e, again, 0);
  for (int i = 0; i < AGQ_PROFILE_PARTS; i++) test_expect(again[i] == 0, "the profile was reset");
  agq_engine_destroy(e);
  free(logits);
}

/* The hidden states are what the head makes the logits of, bit for bit: of the tokens that are asked for, over several
 * batches. */
static void states(const test_model *t) {
  enum { N = 21, BATCH = 8 };
  const size_t v = (size_t)t->s.vocab, dim = (size_t)t->s.embed_dim;
  int32_t tokens[N];
  uint8_t want[N];
  float *logits = test_alloc(N * v * 4), *hidden = test_alloc(N * dim * 4), *again = test_alloc(N * v * 4);
  int wanted = 0;
  for (int i = 0; i < N; i++) {
    tokens[i] = (5 * i + 3) % t->s.vocab;
    want[i] = i % 3 != 1;
    wanted += want[i];
  }
  const agq_batch b = {N, tokens, NULL, want};
  for (int scalar = 0; scalar < 2; scalar++) {
    agq_engine *e = engine(t, 2, 1, N, BATCH, 8, scalar);
    test_expect(agq_engine_forward(e, &b, logits) == AGQ_OK, "forward");
    agq_engine_slot_truncate(e, 0, 0);
    test_expect(agq_engine_states(e, &b, hidden) == AGQ_OK, "states");
    test_expect(agq_engine_slot_length(e, 0) == N, "states are appended like logits");
    test_expect(agq_linear_forward(&t->m.head, hidden, wanted, again, 1, scalar) == AGQ_OK, "head");
    if (!test_expect(!memcmp(logits, again, (size_t)wanted * v * 4), "the head makes the logits of the states"))
      fprintf(stderr, "  %s, scalar %d\n", t->s.name, scalar);
    agq_engine_destroy(e);
  }
  free(logits), free(hidden), free(again);
}

static void all_logits(const agq_model *m, const test_model *t, const int32_t *tokens, int n, int scalar,
                       float *logits) {
  test_model used = *t;
  used.m = *m;
  agq_engine *e = engine(&used, 2, 1, n, n, 8, scalar);
  append(e, t->s.vocab, tokens, n, n, 0, logits);
  agq_engine_destroy(e);
}

/* Tokens before `sinks` are those of the same weights with 8-bit activations, bit for bit; tokens from it on are not,
 * and what they see of the sink tokens makes them differ from a model without. With the packed multiplier too. */
static void sink_tokens(const test_shape *shape) {
  enum { N = 40 };
  test_model *t = model_create(shape);
  const size_t v = (size_t)t->s.vocab;
  const int sinks[] = {0, 1, 7, 33, AGQ_MAX_SINK_TOKENS};
  int32_t tokens[N];
  random_tokens(tokens, N, t->s.vocab);
  float *plain = test_alloc(N * v * 4), *eight = test_alloc(N * v * 4), *found = test_alloc(N * v * 4);
  agq_block blocks[MAX_LAYERS];
  memcpy(blocks, t->blocks, sizeof blocks);
  agq_model m = t->m;
  m.blocks = blocks;
  for (int scalar = 0; scalar < 2; scalar++) {
    m.sink_tokens = 0;
    for (int i = 0; i < m.layers; i++) {
      agq_linear *linears[] = {&blocks[i].qkv, &blocks[i].out, &blocks[i].up, &blocks[i].down};
      for (int j = 0; j < 4; j++)
        linears[j]->act_bits = 8, linears[j]->act_symmetric = 1, linears[j]->act_group = 0, linears[j]->act_clip = 0;
    }
    all_logits(&m, t, tokens, N, scalar, eight);
    memcpy(blocks, t->blocks, sizeof blocks);
    all_logits(&m, t, tokens, N, scalar, plain);
    for (size_t k = 0; k < sizeof sinks / sizeof *sinks; k++)
      for (int packed = 0; packed < 2; packed++) {
        const int here = sinks[k] < N ? sinks[k] : N;
        m.sink_tokens = sinks[k];
        for (int i = 0; i < m.layers; i++)
          blocks[i].qkv.multiplier = blocks[i].out.multiplier = blocks[i].up.multiplier = blocks[i].down.multiplier =
              packed;
        all_logits(&m, t, tokens, N, scalar, found);
        test_expect(!memcmp(found, eight, (size_t)here * v * 4), "sink tokens are computed with 8 bits");
        if (here == 0) test_expect(!memcmp(found, plain, N * v * 4), "without sink tokens nothing changes");
        for (int i = here; i < N && here; i++)
          test_expect(memcmp(found + (size_t)i * v, eight + (size_t)i * v, v * 4) &&
                          memcmp(found + (size_t)i * v, plain + (size_t)i * v, v * 4),
                      "other tokens have 4 bits, and see the sink tokens");
      }
    memcpy(blocks, t->blocks, sizeof blocks);
  }
  free(plain), free(eight), free(found);
  model_free(t);
}

/* An embedding of 8-bit rows: sizes and scales are looked at before anything is read by them. */
static void embedding_errors(void) {
  const test_shape shape = {"8-bit embedding", LLAMA, SIZES(64, 1, 2, 1, 32, 64, 21, 64), .embed8 = 1, FLOAT};
  test_model *t = model_create(&shape);
  const agq_options o = {1, 1, 32, 8, 8, 0};
  agq_model m = t->m;
  m.embed_bytes--;
  expect_refused(&m, &o, "embed: has 1343 bytes");
  m = t->m, m.embed = NULL;
  expect_refused(&m, &o, "embed: missing");
  m = t->m, m.embed_dtype = AGQ_U4;
  expect_refused(&m, &o, "embed: elements");
  m = t->m, m.embed_dtype = AGQ_BF16; /* twice the bytes that there are */
  expect_refused(&m, &o, "embed: has 1344 bytes");
  m = t->m, m.embed_scale = NULL;
  expect_refused(&m, &o, "embed scales: missing");
  m = t->m, m.embed_scale_bytes--;
  expect_refused(&m, &o, "embed scales: has 83 bytes");
  const float bad[] = {NAN, INFINITY, -1.0f};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    float scale[21];
    memcpy(scale, t->m.embed_scale, sizeof scale);
    scale[20] = bad[i];
    m = t->m, m.embed_scale = scale;
    expect_refused(&m, &o, "embed scales: that of row 20");
  }
  model_free(t);
}

static void errors(void) {
  test_model *t = model_create(&shapes[7]);
  agq_block blocks[MAX_LAYERS];
  agq_model m = t->m;
  const agq_options good = {1, 2, 32, 8, 8, 0};
  agq_options o = good;
  o.threads = 0;
  expect_refused(&m, &o, "threads");
  o = good, o.kv_bits = 5;
  expect_refused(&m, &o, "kv_bits");
  o = good, o.context = 0;
  expect_refused(&m, &o, "context");
  m.kv_heads = 3;
  expect_refused(&m, &good, "kv_heads");
  m = t->m, m.hidden = 120;
  expect_refused(&m, &good, "hidden");
  m = t->m, m.sink_tokens = AGQ_MAX_SINK_TOKENS + 1;
  expect_refused(&m, &good, "sink_tokens is 65, not in 0..64");
  m.sink_tokens = -1;
  expect_refused(&m, &good, "sink_tokens is -1");
  m = t->m, m.vocab++;
  expect_refused(&m, &good, "head: shape");
  memcpy(blocks, t->blocks, sizeof blocks);
  m = t->m, m.blocks = blocks;
  blocks[1].down.weight_bytes--;
  expect_refused(&m, &good, "block 1 down: weights have");
  blocks[1].down = t->blocks[1].down, blocks[0].qkv.group_size = 48;
  expect_refused(&m, &good, "block 0 qkv");
  blocks[0].qkv = t->blocks[0].qkv, blocks[0].out.scale = NULL;
  expect_refused(&m, &good, "block 0 out: scales missing");
  uint32_t order[192];
  random_order(order, 192);
  blocks[0].out = t->blocks[0].out, blocks[1].down.input_order = order;
  blocks[1].down.input_order_bytes = sizeof order - 1;
  expect_refused(&m, &good, "block 1 down: input columns have 767 bytes");
  blocks[1].down.input_order_bytes = sizeof order, order[191] = 192;
  expect_refused(&m, &good, "block 1 down: input columns are no permutation of 192");
  m = t->m, random_order(order, 128); /* the head of this model is the embedding, too */
  m.head.input_order = order, m.head.input_order_bytes = sizeof order;
  expect_refused(&m, &good, "head: embedding rows cannot be read from columns in another order");
  test_model *opt = model_create(&shapes[2]);
  o = good, o.context = MAX_POSITIONS - POSITION_OFFSET + 1;
  expect_refused(&opt->m, &o, "position: a context of");
  o = good, o.context = 1 << 28, o.slots = 1 << 20; /* more than any memory */
  expect_refused(&t->m, &o, "memory");
  model_free(opt);

  agq_engine *e = agq_engine_create(&t->m, &good, NULL, 0);
  float *logits = test_alloc((size_t)64 * (size_t)t->s.vocab * 4);
  int32_t tokens[64] = {1, 2, 3}, slot[64] = {0};
  agq_batch b = {3, tokens, NULL, NULL};
  test_expect(agq_engine_forward(e, &b, logits) == AGQ_ERR_ARGUMENT && strstr(agq_engine_error(e), "RoPE"),
              "RoPE must be set");
  agq_engine_set_rope(e, 0, AGQ_ROPE_GLOBAL, t->inv_freq, 1);
  agq_engine_set_rope(e, 1, AGQ_ROPE_GLOBAL, t->inv_freq, 1);
  test_expect(agq_engine_forward(e, &b, logits) == AGQ_OK && agq_engine_slot_length(e, 0) == 3, "forward");
  tokens[2] = t->s.vocab;
  test_expect(agq_engine_forward(e, &b, logits) == AGQ_ERR_ARGUMENT && agq_engine_slot_length(e, 0) == 3,
              "token out of range");
  tokens[2] = -1;
  test_expect(agq_engine_forward(e, &b, logits) == AGQ_ERR_ARGUMENT, "negative token");
  tokens[2] = 3;
  b.n = 30;
  test_expect(agq_engine_forward(e, &b, logits) == AGQ_ERR_CONTEXT && agq_engine_slot_length(e, 0) == 3,
              "context overflow");
  b.n = 29;
  test_expect(agq_engine_forward(e, &b, logits) == AGQ_OK && agq_engine_slot_length(e, 0) == 32,
              "the context can be filled");
  b.n = 0;
  test_expect(agq_engine_forward(e, &b, logits) == AGQ_ERR_ARGUMENT, "empty batch");
  b = (agq_batch){3, tokens, slot, NULL};
  slot[1] = 1;
  agq_engine_slot_truncate(e, 0, 0);
  test_expect(agq_engine_forward(e, &b, logits) == AGQ_ERR_ARGUMENT && strstr(agq_engine_error(e), "contiguous"),
              "tokens of a slot are contiguous");
  slot[1] = 2;
  test_expect(agq_engine_forward(e, &b, logits) == AGQ_ERR_ARGUMENT && agq_engine_slot_length(e, 0) == 0,
              "slot out of range");
  test_expect(agq_engine_slot_truncate(e, 2, 0) == AGQ_ERR_ARGUMENT &&
                  agq_engine_slot_length(e, -1) == AGQ_ERR_ARGUMENT,
              "bad slots");
  test_expect(agq_engine_slot_truncate(e, 0, -1) == AGQ_ERR_ARGUMENT, "negative length");
  test_expect(agq_engine_kv_bytes(e) > 0 && agq_engine_workspace_bytes(e) > 0, "sizes");
  agq_engine_destroy(e);
  agq_engine_destroy(NULL);
  free(logits);
  model_free(t);
}

int main(void) {
  if (!test_begin()) return 0;
  for (int i = 0; i < SHAPES; i++) {
    if (!test_takes((unsigned)i)) continue;
    test_model *t = model_create(&shapes[i]);
    against_reference(t, 67);
    invariance(t, 67, i % 2 || t->s.log2 ? 8 : 32);
    if (!t->s.log2) invariance(t, 67, 4);
    if (i == 0 || i == 5 || i == 7 || t->s.sinks || t->s.log2)
      for (int kv_bits = 4; kv_bits <= 32; kv_bits *= kv_bits == 4 ? 2 : 4)
        if (kv_bits == 8 || (i < 6 && !t->s.log2)) slots(t, kv_bits);
    if (i < 4) profile(t);
    states(t);
    if (t->s.sinks) sink_tokens(&shapes[i]);
    model_free(t);
  }
  /* Over several key ranges (512 keys each), with few heads: attention is cut among threads. */
  const test_shape ranges[] = {{"long, RoPE", LLAMA, SIZES(32, 1, 2, 1, 16, 32, 19, 32), .tied = 1, FLOAT},
                               {"long, ALiBi", BLOOM, SIZES(32, 1, 2, 2, 16, 32, 19, 32), FLOAT}};
  for (int i = 0; i < 2; i++) {
    if (!test_takes((unsigned)i)) continue;
    test_model *t = model_create(&ranges[i]);
    for (int h = 0; h < 2; h++) t->slopes[h] *= 0.01f; /* far keys count */
    against_reference(t, 520);
    invariance(t, 550, i ? 32 : 8);
    long_slots(t);
    invariance(t, 550, 4);
    model_free(t);
  }
  errors();
  embedding_errors();
  printf("checksum of all logits: %016llx\n", (unsigned long long)checksum);
  return test_end("engine");
}
