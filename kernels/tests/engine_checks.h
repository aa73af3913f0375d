/* engine_checks.h: what every engine promises: its logits are the reference's, and do not depend on cuts, threads and
 * slots.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_TEST_ENGINE_CHECKS_H
#define AGQ_TEST_ENGINE_CHECKS_H

#include "reference.h"

#define SIZES(hidden_, layers_, heads_, kv_heads_, head_dim_, ffn_, vocab_, embed_dim_)                             \
  .hidden = hidden_, .layers = layers_, .heads = heads_, .kv_heads = kv_heads_, .head_dim = head_dim_, .ffn = ffn_, \
  .vocab = vocab_, .embed_dim = embed_dim_
#define FLOAT .weights = AGQ_F32, .act_bits = 32, .head = AGQ_F32
#define W4(act) .weights = AGQ_U4, .act_bits = act, .head = AGQ_I8, .group = 32
#define W8A8 .weights = AGQ_I8, .act_bits = 8, .head = AGQ_I8

static inline agq_engine *engine(const test_model *t, int threads, int slots, int context, int batch, int kv_bits,
                                 int scalar) {
  const agq_options o = {threads, slots, context, batch, kv_bits, scalar};
  char error[256];
  agq_engine *e = agq_engine_create(&t->m, &o, error, sizeof error);
  if (!e) {
    fprintf(stderr, "%s: %s\n", t->s.name, error);
    exit(1);
  }
  for (int i = 0; i < slots; i++) set_ropes(t, e, i);
  return e;
}

/* Logits of n tokens appended to a slot in steps. */
static inline void append(agq_engine *e, int vocab, const int32_t *tokens, int n, int step, int slot, float *logits) {
  int32_t slots[MAX_POSITIONS];
  uint8_t want[MAX_POSITIONS];
  for (int i = 0; i < n; i++) slots[i] = slot, want[i] = 1;
  for (int i = 0; i < n; i += step) {
    const agq_batch b = {n - i < step ? n - i : step, tokens + i, slots, want};
    const int status = agq_engine_forward(e, &b, logits + (size_t)i * (size_t)vocab);
    if (!test_expect(status == AGQ_OK, "forward")) fprintf(stderr, "  %s\n", agq_engine_error(e));
  }
}

static inline void random_tokens(int32_t *tokens, int n, int vocab) {
  for (int i = 0; i < n; i++) tokens[i] = random_int(0, vocab - 1);
}

/* Relative error of the logits of n tokens, native and scalar: the larger one. */
static inline double reference_error(const test_model *t, const int32_t *tokens, int n, int kv_bits) {
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
static inline void against_reference(const test_model *t, int n) {
  enum { TRIES = 32, DIFFERENT = 6 };
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
static inline void add_to_checksum(const float *x, size_t n) {
  for (size_t i = 0; i < n; i++) {
    uint32_t u;
    memcpy(&u, &x[i], 4);
    checksum = (checksum ^ u) * 0x100000001b3u;
  }
}

/* The same bits for every cut of the input, batch size and number of threads; and after forgetting and appending again.
 */
static inline void invariance(const test_model *t, int n, int kv_bits) {
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
    /* Of a long input only the last tokens come one by one, from before the last key range (512 keys) on. */
    const int together = n > 512 && cuts[i][0] == 1 ? (n - 1) / 512 * 512 - 14 : 0;
    append(e, t->s.vocab, tokens, together, 64, 1, logits);
    append(e, t->s.vocab, tokens + together, n - together, cuts[i][0], 1,
           logits + (size_t)together * (size_t)t->s.vocab);
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
static inline void own_rope(const test_model *t, agq_engine *e, int slot, int number) {
  float inv_freq[128];
  const float *own[AGQ_ROPES] = {t->inv_freq, t->local_freq};
  const int turned = t->s.rotary_dim ? t->s.rotary_dim : t->s.head_dim;
  for (int r = 0; r < AGQ_ROPES; r++) {
    if (!own[r]) continue;
    for (int i = 0; i < turned / 2; i++) inv_freq[i] = own[r][i] / (float)(1 + number);
    test_expect(agq_engine_set_rope(e, slot, r, inv_freq, 1 + 0.1f * (float)number) == AGQ_OK, "set_rope of a slot");
  }
}

/* Several slots in one batch, each with its own history, give what each gives alone; wanted rows only, in order. */
static inline void slots(const test_model *t, int kv_bits) {
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
static inline void long_slots(const test_model *t) {
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

static inline void expect_refused(const agq_model *m, const agq_options *o, const char *part) {
  char error[256] = "";
  agq_engine *e = agq_engine_create(m, o, error, sizeof error);
  if (!test_expect(!e && strstr(error, part), "create refuses and names the part"))
    fprintf(stderr, "  expected '%s', got '%s'\n", part, error);
  agq_engine_destroy(e);
}

#endif
