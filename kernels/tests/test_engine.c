/* The engine against a double-precision reference, and what it promises about cuts, threads, slots and errors.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <time.h>

#include "reference.h"

#define LLAMA \
  .norm = AGQ_NORM_RMS, .position = AGQ_POSITION_ROPE, .activation = AGQ_ACTIVATION_SILU_GATED, .final_norm = 1
#define OPT .norm = AGQ_NORM_LAYER, .position = AGQ_POSITION_LEARNED, .tied = 1, .bias = 1
#define BLOOM                                                                                                      \
  .norm = AGQ_NORM_LAYER, .position = AGQ_POSITION_ALIBI, .activation = AGQ_ACTIVATION_GELU_TANH, .embed_norm = 1, \
  .final_norm = 1, .tied = 1, .bias = 1
#define SIZES(hidden_, layers_, heads_, kv_heads_, head_dim_, ffn_, vocab_, embed_dim_)                             \
  .hidden = hidden_, .layers = layers_, .heads = heads_, .kv_heads = kv_heads_, .head_dim = head_dim_, .ffn = ffn_, \
  .vocab = vocab_, .embed_dim = embed_dim_
#define FLOAT .weights = AGQ_F32, .act_bits = 32, .head = AGQ_F32
#define W4(act) .weights = AGQ_U4, .act_bits = act, .head = AGQ_I8, .group = 32
#define W8A8 .weights = AGQ_I8, .act_bits = 8, .head = AGQ_I8

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
    {"llama, heads of 256, W4A8", LLAMA, SIZES(128, 1, 2, 1, 256, 192, 50, 128), .clip = 0.95f, W4(8)},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static agq_engine *engine(const test_model *t, int threads, int slots, int context, int batch, int kv_bits,
                          int scalar) {
  const agq_options o = {threads, slots, context, batch, kv_bits, scalar};
  char error[256];
  agq_engine *e = agq_engine_create(&t->m, &o, error, sizeof error);
  if (!e) {
    fprintf(stderr, "%s: %s\n", t->s.name, error);
    exit(1);
  }
  for (int i = 0; t->inv_freq && i < slots; i++)
    test_expect(agq_engine_set_rope(e, i, t->inv_freq, t->rope_scaling) == AGQ_OK, "set_rope");
  return e;
}

/* Logits of n tokens appended to a slot in steps. */
static void append(agq_engine *e, int vocab, const int32_t *tokens, int n, int step, int slot, float *logits) {
  int32_t slots[MAX_POSITIONS];
  uint8_t want[MAX_POSITIONS];
  for (int i = 0; i < n; i++) slots[i] = slot, want[i] = 1;
  for (int i = 0; i < n; i += step) {
    const agq_batch b = {n - i < step ? n - i : step, tokens + i, slots, want};
    const int status = agq_engine_forward(e, &b, logits + (size_t)i * (size_t)vocab);
    if (!test_expect(status == AGQ_OK, "forward")) fprintf(stderr, "  %s\n", agq_engine_error(e));
  }
}

static void random_tokens(int32_t *tokens, int n, int vocab) {
  for (int i = 0; i < n; i++) tokens[i] = random_int(0, vocab - 1);
}

/* Relative error of the logits of n tokens, native and scalar: the larger one. */
static double reference_error(const test_model *t, const int32_t *tokens, int n, int kv_bits) {
  const size_t count = (size_t)n * (size_t)t->s.vocab;
  double *expected = doubles(count), worst = 0;
  float *logits = test_alloc(count * 4);
  reference(t, tokens, n, kv_bits, NULL, expected);
  for (int scalar = 0; scalar < 2; scalar++) {
    agq_engine *e = engine(t, 1, 1, n, n, kv_bits, scalar);
    append(e, t->s.vocab, tokens, n, n, 0, logits);
    worst = fmax(worst, relative_error(logits, expected, count));
    agq_engine_destroy(e);
  }
  free(expected), free(logits);
  return worst;
}

/* Quantizers put a value near a tie on another code than the reference does, some in a million: then all that follows
 * differs. Where that happens other tokens, few of them different, are tried: a wrong engine is wrong for all. */
static void against_reference(const test_model *t, int n) {
  enum { TRIES = 8, DIFFERENT = 6 };
  int32_t *tokens = test_alloc((size_t)n * 4), some[DIFFERENT];
  for (int kv_bits = 4; kv_bits <= 32; kv_bits *= kv_bits == 4 ? 2 : 4) {
    if (t->s.log2 && kv_bits != 8) continue;
    const int exact = t->s.act_bits == 32 && kv_bits == 32;
    double error = 1;
    int tries = 0;
    random_tokens(tokens, n, t->s.vocab);
    do {
      error = reference_error(t, tokens, n, kv_bits);
      random_tokens(some, DIFFERENT, t->s.vocab);
      for (int i = 0; i < n; i++) tokens[i] = some[random_int(0, DIFFERENT - 1)];
    } while (++tries < (exact ? 1 : TRIES) && error >= 1e-5);
    if (!test_expect(error < 1e-5, "logits equal the reference's"))
      fprintf(stderr, "  %s, kv %d: relative error %g after %d tries\n", t->s.name, kv_bits, error, tries);
    printf("  %-50s kv%-2d relative error %.2g%s\n", t->s.name, kv_bits, error,
           tries > 1 ? " (not of the first tokens)" : "");
  }
  free(tokens);
}

/* FNV-1a over all logits of the test: levels with a fused multiply-add print the same value, and so do all without. */
static uint64_t checksum = 0xcbf29ce484222325u;
static void add_to_checksum(const float *x, size_t n) {
  for (size_t i = 0; i < n; i++) {
    uint32_t u;
    memcpy(&u, &x[i], 4);
    checksum = (checksum ^ u) * 0x100000001b3u;
  }
}

/* The same bits for every cut of the input, batch size and number of threads; and after forgetting and appending again.
 */
static void invariance(const test_model *t, int n, int kv_bits) {
  const size_t count = (size_t)n * (size_t)t->s.vocab;
  int32_t *tokens = test_alloc((size_t)n * 4);
  random_tokens(tokens, n, t->s.vocab);
  float *first = test_alloc(count * 4), *logits = test_alloc(count * 4);
  agq_engine *e = engine(t, 1, 1, n, 64, kv_bits, 0);
  append(e, t->s.vocab, tokens, n, n, 0, first);
  add_to_checksum(first, count);
  agq_engine_destroy(e);
  const int cuts[][3] = {{1, 1, 1}, {1, 3, 2}, {7, 16, 3}, {n, n, 2}, {64, 5, 4}}; /* step, batch, threads */
  for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
    e = engine(t, cuts[i][2], 2, n + 9, cuts[i][1], kv_bits, 0);
    append(e, t->s.vocab, tokens, n, cuts[i][0], 1, logits);
    if (!test_expect(!memcmp(first, logits, count * 4), "the same bits for any cut and any number of threads"))
      fprintf(stderr, "  %s: step %d, batch %d, %d threads, kv %d\n", t->s.name, cuts[i][0], cuts[i][1], cuts[i][2],
              kv_bits);
    if (i < 2) {
      agq_engine_destroy(e);
      continue;
    }
    const int keep = n / 3;
    test_expect(agq_engine_slot_length(e, 1) == n && agq_engine_slot_length(e, 0) == 0, "slot lengths");
    test_expect(agq_engine_slot_truncate(e, 1, keep) == AGQ_OK && agq_engine_slot_length(e, 1) == keep, "truncate");
    append(e, t->s.vocab, tokens + keep, n - keep, n, 1, logits + (size_t)keep * (size_t)t->s.vocab);
    test_expect(!memcmp(first, logits, count * 4), "the same bits after truncation");
    agq_engine_destroy(e);
  }
  free(tokens), free(first), free(logits);
}

/* RoPE of its own for the `number`-th sequence: other frequencies, another factor. */
static void own_rope(const test_model *t, agq_engine *e, int slot, int number) {
  float inv_freq[128];
  for (int i = 0; t->inv_freq && i < t->s.head_dim / 2; i++) inv_freq[i] = t->inv_freq[i] / (float)(1 + number);
  if (t->inv_freq)
    test_expect(agq_engine_set_rope(e, slot, inv_freq, 1 + 0.1f * (float)number) == AGQ_OK, "set_rope of a slot");
}

/* Several slots in one batch, each with its own history, give what each gives alone; wanted rows only, in order. */
static void slots(const test_model *t, int kv_bits) {
  enum { SLOTS = 3, N = 40 };
  const int lengths[SLOTS] = {N, 13, 1}, v = t->s.vocab;
  int32_t tokens[SLOTS][N];
  float *alone[SLOTS], *logits = test_alloc((size_t)SLOTS * N * (size_t)v * 4);
  for (int s = 0; s < SLOTS; s++) {
    random_tokens(tokens[s], N, v);
    alone[s] = test_alloc((size_t)(N + 1) * (size_t)v * 4);
    agq_engine *e = engine(t, 1, 1, 64, 16, kv_bits, 0);
    own_rope(t, e, 0, s);
    append(e, v, tokens[s], lengths[s], N, 0, alone[s]);
    append(e, v, tokens[s], 1, 1, 0, alone[s] + (size_t)lengths[s] * (size_t)v); /* one more */
    agq_engine_destroy(e);
  }
  for (int threads = 1; threads <= 3; threads += 2) {
    agq_engine *e = engine(t, threads, SLOTS, 64, 24, kv_bits, 0);
    for (int s = 0; s < SLOTS; s++) own_rope(t, e, s, s);
    int32_t all[SLOTS * N], slot[SLOTS * N];
    uint8_t want[SLOTS * N];
    int n = 0, wanted = 0, wanted_slot[SLOTS * N], wanted_at[SLOTS * N];
    for (int s = SLOTS - 1; s >= 0; s--)
      for (int i = 0; i < lengths[s]; i++, n++) {
        all[n] = tokens[s][i], slot[n] = s, want[n] = i % 3 == 0;
        if (want[n]) wanted_slot[wanted] = s, wanted_at[wanted++] = i;
      }
    const agq_batch b = {n, all, slot, want};
    test_expect(agq_engine_forward(e, &b, logits) == AGQ_OK, "forward of several slots");
    int equal = 1;
    for (int i = 0; i < wanted; i++)
      equal &= !memcmp(logits + (size_t)i * (size_t)v, alone[wanted_slot[i]] + (size_t)wanted_at[i] * (size_t)v,
                       (size_t)v * 4);
    test_expect(equal, "slots are independent");
    const int32_t next[SLOTS] = {tokens[1][0], tokens[0][0], tokens[2][0]}, order[SLOTS] = {1, 0, 2};
    const uint8_t everyone[SLOTS] = {1, 1, 1};
    const agq_batch decode = {SLOTS, next, order, everyone};
    test_expect(agq_engine_forward(e, &decode, logits) == AGQ_OK, "decoding several slots");
    for (int i = 0; i < SLOTS; i++)
      test_expect(!memcmp(logits + (size_t)i * (size_t)v, alone[order[i]] + (size_t)lengths[order[i]] * (size_t)v,
                          (size_t)v * 4),
                  "decoded slots are independent");
    /* Nothing wanted: no logits, but the tokens count. */
    test_expect(agq_engine_slot_truncate(e, 0, 0) == AGQ_OK, "truncate");
    const uint8_t nobody[N] = {0};
    const agq_batch silent = {N - 1, tokens[0], NULL, nobody}, next_one = {1, tokens[0] + N - 1, NULL, NULL};
    test_expect(agq_engine_forward(e, &silent, NULL) == AGQ_OK && agq_engine_slot_length(e, 0) == N - 1,
                "nothing wanted");
    test_expect(agq_engine_forward(e, &next_one, logits) == AGQ_OK &&
                    !memcmp(logits, alone[0] + (size_t)(N - 1) * (size_t)v, (size_t)v * 4),
                "logits after tokens that were not wanted");
    /* no `want`: the last token only */
    test_expect(agq_engine_slot_truncate(e, 0, 0) == AGQ_OK, "truncate");
    const agq_batch last = {N, tokens[0], NULL, NULL};
    test_expect(agq_engine_forward(e, &last, logits) == AGQ_OK &&
                    !memcmp(logits, alone[0] + (size_t)(N - 1) * (size_t)v, (size_t)v * 4),
                "logits of the last token by default");
    agq_engine_destroy(e);
  }
  for (int s = 0; s < SLOTS; s++) free(alone[s]);
  free(logits);
}

/* Several long slots that decode at once, their attention cut into key ranges, give what they give with one thread. */
static void long_slots(const test_model *t) {
  enum { SLOTS = 4, N = 530 };
  const size_t v = (size_t)t->s.vocab;
  const int32_t order[SLOTS] = {2, 0, 3, 1};
  const uint8_t everyone[SLOTS] = {1, 1, 1, 1};
  int32_t tokens[SLOTS][N + 1], next[SLOTS];
  float *logits[2] = {test_alloc(SLOTS * v * 4), test_alloc(SLOTS * v * 4)};
  for (int s = 0; s < SLOTS; s++) random_tokens(tokens[s], N + 1, t->s.vocab);
  for (int i = 0; i < SLOTS; i++) next[i] = tokens[order[i]][N];
  for (int threads = 1; threads <= 2; threads++) {
    agq_engine *e = engine(t, threads, SLOTS, N + 1, 64, 8, 0);
    for (int s = 0; s < SLOTS; s++) {
      int32_t slots_[N];
      for (int i = 0; i < N; i++) slots_[i] = s;
      const agq_batch b = {N, tokens[s], slots_, NULL};
      test_expect(agq_engine_forward(e, &b, logits[threads - 1]) == AGQ_OK, "a long slot");
    }
    const agq_batch b = {SLOTS, next, order, everyone};
    test_expect(agq_engine_forward(e, &b, logits[threads - 1]) == AGQ_OK, "decoding long slots");
    agq_engine_destroy(e);
  }
  test_expect(!memcmp(logits[0], logits[1], SLOTS * v * 4), "long slots: the same bits for any number of threads");
  free(logits[0]), free(logits[1]);
}

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
    const int absent = i == AGQ_PROFILE_PROJECT && t->s.embed_dim == t->s.hidden;
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

static void expect_refused(const agq_model *m, const agq_options *o, const char *part) {
  char error[256] = "";
  agq_engine *e = agq_engine_create(m, o, error, sizeof error);
  if (!test_expect(!e && strstr(error, part), "create refuses and names the part"))
    fprintf(stderr, "  expected '%s', got '%s'\n", part, error);
  agq_engine_destroy(e);
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
  agq_engine_set_rope(e, 0, t->inv_freq, 1);
  agq_engine_set_rope(e, 1, t->inv_freq, 1);
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
