/* Integer attention: exact integers behind every output, whatever the tile, and refusals.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>

#include "ops/attention_log2.h"
#include "test.h"

enum { HEADS = 6, KV_HEADS = 2, GROUP = 3, POSITIONS = 150 };

static int nearest(double x, int lo, int hi) {
  const int r = (int)rint(x);
  return r < lo ? lo : r > hi ? hi : r;
}

static long rows_compared, rows_at_ties;

/* Beyond the plain case: scores within `cap` (0: none); a window of keys (0: none); keys at places[], as after pruning,
 * where there are gaps. */
typedef struct {
  float cap;
  int window, gaps;
  int32_t places[192];
} special;

/* One row by the definition: integers, a double softmax. 0: an exponent is too near a tie to be sure of. */
static int row(const agq_log2_scales *s, const special *z, int d, int head, int last, const int (*k)[128],
               const int (*v)[128], const int *q, float scale, float slope, float *out, double *share) {
  const int kv = head / GROUP;
  double x[POSITIONS], top = -INFINITY, sum = 0;
  int32_t acc[128] = {0}, total = 0;
  int from = 0;
  while (z->window && z->places[from] <= z->places[last] - z->window) from++;
  for (int j = from; j <= last; j++) {
    int dot = 0;
    for (int c = 0; c < d; c++) dot += q[c] * k[j][c];
    x[j] = (double)dot * s->q_scale[head] * s->k_scale[kv] * scale;
    if (z->cap > 0) x[j] = (double)z->cap * tanh(x[j] / (double)z->cap);
    x[j] += slope * (z->places[j] - z->places[last]);
    if (x[j] > top) top = x[j];
  }
  for (int j = from; j <= last; j++) sum += exp(x[j] - top);
  *share = from ? 0 : exp(x[0] - top) / sum;
  for (int j = from; j <= last; j++) {
    const double bits = -(x[j] - top) / log(2) + log2(sum);
    if (fabs(bits - floor(bits) - 0.5) < 1e-4 && bits < 17) return 0;
    if (rint(bits) > 15) continue;
    const int shift = 15 - (int)rint(bits);
    for (int c = 0; c < d; c++) acc[c] += (int32_t)((uint32_t)v[j][c] << shift);
    total += 1 << shift;
  }
  for (int c = 0; c < d; c++) {
    test_expect(abs(acc[c]) <= 5931642, "|accumulator| <= 128 * 2^15 * sqrt 2");
    out[c] = (float)(acc[c] + (128 - s->v_zero) * total) * ldexpf(s->v_scale, s->v_exponent[kv * d + c] - 15);
  }
  return 1;
}

static void check(int d, int alibi, float spread, int window, int gaps, float cap) {
  special z = {cap, window, gaps, {0}};
  for (int j = 1; j < 192; j++) z.places[j] = z.places[j - 1] + 1 + (gaps ? random_int(0, 5) / 3 : 0);
  float q_scale[HEADS], k_scale[KV_HEADS], slopes[HEADS];
  uint8_t exponent[KV_HEADS * 128];
  for (int h = 0; h < HEADS; h++) q_scale[h] = 0.02f + 0.01f * random_float(), slopes[h] = 0.05f * (float)(h + 1);
  for (int h = 0; h < KV_HEADS; h++) k_scale[h] = 0.02f + 0.01f * random_float();
  for (int c = 0; c < KV_HEADS * d; c++) exponent[c] = (uint8_t)random_int(0, 3);
  const agq_log2_scales s = {q_scale, k_scale, 0.011f, 131, exponent};
  const agq_kv_layout kv = agq_kv_layout_log2(d, POSITIONS);
  char *regions[KV_HEADS];
  static int k[KV_HEADS][POSITIONS][128], v[KV_HEADS][POSITIONS][128];
  float key[128], value[128];
  for (int h = 0; h < KV_HEADS; h++) {
    regions[h] = test_alloc(kv.region_bytes);
    memset(regions[h], 0x55, kv.region_bytes);
    for (int c = 0; c < POSITIONS; c++)
      memset((char *)regions[h] + kv.value_offset + (size_t)c * (size_t)kv.width, 0, (size_t)kv.width);
    for (int j = 0; j < POSITIONS; j++) {
      for (int c = 0; c < d; c++) {
        /* products with the reciprocal, as the kernels */
        key[c] = spread * random_float(), value[c] = 4 * random_float();
        k[h][j][c] = nearest(key[c] * (1.0f / k_scale[h]), -127, 127);
        v[h][j][c] = nearest(rintf(value[c] * ldexpf(1.0f / s.v_scale, -exponent[h * d + c])) + 131, 0, 255) - 128;
      }
      agq_kv_store_log2(&kv, &s, regions[h], h, j, key, value);
    }
  }
  float *q = test_alloc((size_t)POSITIONS * HEADS * (size_t)d * 4),
        *out = test_alloc((size_t)POSITIONS * HEADS * (size_t)d * 4);
  float *again = test_alloc((size_t)POSITIONS * HEADS * (size_t)d * 4), *share = test_alloc(POSITIONS * HEADS * 4);
  float *scratch = test_alloc(agq_attention_log2_scratch(&kv) * 4);
  for (int i = 0; i < POSITIONS * HEADS * d; i++) q[i] = spread * random_float();
  int32_t at[POSITIONS];
  for (int i = 0; i < POSITIONS; i++) at[i] = i;
  agq_attention a = {.kv = &kv,
                     .group = GROUP,
                     .scale = 0.3f,
                     .slopes = alibi ? slopes : NULL,
                     .q = q,
                     .ldq = (size_t)(HEADS * d),
                     .token_row = at,
                     .token_position = at,
                     .softcap = cap,
                     .window = window,
                     .key_position = gaps ? z.places : NULL,
                     .query_position = z.places,
                     .out = out,
                     .ldo = (size_t)(HEADS * d),
                     .first_share = share,
                     .heads = HEADS,
                     .log2 = &s};
  for (int h = 0; h < KV_HEADS; h++)
    for (int r = 0; r < POSITIONS * GROUP; r += AGQ_LOG2_ROWS)
      agq_attention_log2_tile(&a, regions[h], h, 0, r, r + AGQ_LOG2_ROWS, scratch);
  a.out = again;
  for (int h = 0; h < KV_HEADS; h++)
    for (int r = 0; r < POSITIONS * GROUP; r++) agq_attention_log2_tile(&a, regions[h], h, 0, r, r + 1, scratch);
  test_expect(!memcmp(out, again, (size_t)POSITIONS * HEADS * (size_t)d * 4), "the same bits for any tile");
  for (int i = 0; i < POSITIONS; i++)
    for (int h = 0; h < HEADS; h++) {
      int codes[128];
      float expected[128];
      double first;
      const float *x = q + ((size_t)i * HEADS + (size_t)h) * (size_t)d;
      for (int c = 0; c < d; c++) codes[c] = nearest(x[c] * (1.0f / q_scale[h]), -127, 127);
      if (!row(&s, &z, d, h, i, k[h / GROUP], v[h / GROUP], codes, a.scale, alibi ? slopes[h] : 0, expected, &first)) {
        rows_at_ties++;
        continue;
      }
      rows_compared++;
      test_expect(!memcmp(expected, out + ((size_t)i * HEADS + (size_t)h) * (size_t)d, (size_t)d * 4),
                  "exactly the integers");
      test_expect(first > 0 ? fabs(share[i * HEADS + h] - first) <= 1e-5 * first + 1e-30 : share[i * HEADS + h] == 0,
                  "share of the first key");
    }
  for (int h = 0; h < KV_HEADS; h++) free(regions[h]);
  free(q), free(out), free(again), free(share), free(scratch);
}

int main(void) {
  if (!test_begin()) return 0;
  const int dims[] = {16, 20, 64, 80, 128};
  for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
    for (int alibi = 0; alibi < 2 && test_takes((unsigned)i); alibi++) {
      check(dims[i], alibi, 0.4f, 0, 0, 0);
      check(dims[i], alibi, 3.0f, 0, 0, 0); /* sharp attention */
    }
  const int windows[] = {1, 2, 15, 16, 17, 63, 64, 65, 140};
  for (size_t i = 0; i < sizeof windows / sizeof *windows; i++)
    for (int k = 0; k < 4 && test_takes((unsigned)i); k++)
      check(dims[(i + (size_t)k) % 2], k & 1, 1.0f, windows[i], k >> 1, k % 3 ? 1.5f : 0);
  test_expect(rows_compared > 9 * rows_at_ties, "few rows stand at ties");
  test_expect(agq_kv_layout_log2(AGQ_LOG2_HEAD_DIM + 1, 64).region_bytes == 0, "heads whose scores are not exact");
  printf("%ld rows compared, %ld more stand at ties\n", rows_compared, rows_at_ties);
  return test_end("log2");
}
