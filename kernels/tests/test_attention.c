/* Attention of tiles against double precision: every cache whose contents are known exactly, flat and very sharp
 * attention, ALiBi, soft caps, windows with keys at their places and not, several key ranges, in one piece and range by
 * range.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>

#include "ops/attention.h"
#include "test.h"

enum { KV_HEADS = 2, MOST_D = 256 };

/* One query over keys from..last at positions place[], scores within `cap` (0: none). Returns the largest error of the
 * outputs in units of `bound`. */
static double row_error(int d, int from, int last, const int32_t *place, const float *q, const float *keys,
                        const float *values, float scale, float slope, float cap, const float *out, float share) {
  static double p[2048];
  double max = -INFINITY, sum = 0, largest = 0, worst = 0, most_value = 0;
  for (int j = from; j <= last; j++) {
    double s = 0, size = 0;
    for (int c = 0; c < d; c++) {
      const double v = (double)q[c] * (double)keys[j * d + c];
      s += v, size += fabs(v);
      most_value = fmax(most_value, fabs((double)values[j * d + c]));
    }
    const double distance = (double)slope * (place[j] - place[last]);
    p[j] = s * (double)scale;
    if (cap > 0) p[j] = (double)cap * tanh(p[j] / (double)cap);
    p[j] += distance;
    largest = fmax(largest, size * (double)scale + fabs(distance));
    max = fmax(max, p[j]);
  }
  for (int j = from; j <= last; j++) sum += p[j] = exp(p[j] - max);
  /* A score is right to some units of the last place of its terms; so is, relatively, a probability. */
  const double relative = 2e-6 + 4e-7 * largest;
  for (int c = 0; c < d; c++) {
    double s = 0;
    for (int j = from; j <= last; j++) s += p[j] / sum * (double)values[j * d + c];
    worst = fmax(worst, fabs((double)out[c] - s) / (relative * most_value));
  }
  if (!isfinite(out[0])) worst = INFINITY;
  if (from) return share == 0 ? worst : INFINITY;
  return fmax(worst, fabs((double)share - p[0] / sum) / (relative * (p[0] / sum) + 1e-30));
}

/* Keys and values that the cache of 8 bits holds exactly: integers of which one is 127, times a power of two of each
 * row. */
static void fill_row(float *x, int d, int bits, float spread) {
  const float size = ldexpf(1, random_int(-2, 1));
  for (int c = 0; c < d; c++) x[c] = bits == 8 ? size * (float)random_int(-126, 126) : spread * random_float();
  if (bits == 8) x[random_int(0, d - 1)] = 127 * size;
}

/* window 0: none. gaps: keys are not at their places, as after pruning. */
static void check(int bits, int d, int group, int positions, int alibi, float spread, int window, int gaps, float cap) {
  const agq_kv_layout kv = agq_kv_layout_make(bits, d, positions);
  const int heads = KV_HEADS * group, ldq = heads * d + 3, ldo = heads * d + 5;
  float slopes[KV_HEADS * 8];
  for (int h = 0; h < heads; h++) slopes[h] = 0.01f * (float)(h + 1);
  char *regions[KV_HEADS];
  float *keys[KV_HEADS], *values[KV_HEADS];
  for (int h = 0; h < KV_HEADS; h++) {
    regions[h] = test_alloc(kv.region_bytes);
    memset(regions[h], 0, kv.region_bytes);
    keys[h] = test_alloc((size_t)positions * (size_t)d * 4), values[h] = test_alloc((size_t)positions * (size_t)d * 4);
    for (int j = 0; j < positions; j++) {
      fill_row(keys[h] + j * d, d, bits, 1), fill_row(values[h] + j * d, d, bits, 3);
      agq_kv_store(&kv, regions[h], j, keys[h] + j * d, values[h] + j * d);
    }
  }
  /* The last queries of the sequence, and some before: one tile spans keys of which only a part is seen. */
  enum { TOKENS = 7 };
  int32_t row[TOKENS], position[TOKENS];
  for (int i = 0; i < TOKENS; i++) row[i] = TOKENS - 1 - i, position[i] = positions - TOKENS * 7 + 7 * i;
  position[TOKENS - 1] = positions - 1;
  int32_t *place = test_alloc((size_t)kv.positions * 4), query_place[TOKENS];
  for (int j = 0, at = 0; j < kv.positions; j++, at += 1 + (gaps ? random_int(0, 5) / 3 : 0)) place[j] = at;
  for (int i = 0; i < TOKENS; i++) query_place[row[i]] = place[position[i]];
  /* Keys and values that no query sees: scores that would hide all others, and values of which the least share would
   * show. */
  for (int j = 0; bits == 32 && window && place[j] <= place[position[0]] - window; j++)
    for (int h = 0; h < KV_HEADS; h++) {
      for (int c = 0; c < d; c++) keys[h][j * d + c] *= 200, values[h][j * d + c] = 1e38f;
      agq_kv_store(&kv, regions[h], j, keys[h] + j * d, values[h] + j * d);
    }
  float *q = test_alloc((size_t)TOKENS * (size_t)ldq * 4), *out = test_alloc((size_t)TOKENS * (size_t)ldo * 4);
  float *again = test_alloc((size_t)TOKENS * (size_t)ldo * 4), *share = test_alloc((size_t)TOKENS * (size_t)heads * 4);
  for (int i = 0; i < TOKENS * ldq; i++) q[i] = spread * random_float();
  for (int i = 0; i < TOKENS * ldo; i++) out[i] = again[i] = 99;
  const float scale = bits == 8 ? 1 / 64.0f : 1;
  agq_attention a = {.kv = &kv,
                     .group = group,
                     .scale = scale,
                     .slopes = alibi ? slopes : NULL,
                     .softcap = cap,
                     .window = window,
                     .key_position = gaps ? place : NULL,
                     .query_position = query_place,
                     .q = q,
                     .ldq = (size_t)ldq,
                     .token_row = row,
                     .token_position = position,
                     .out = out,
                     .ldo = (size_t)ldo,
                     .first_share = share,
                     .heads = heads};
  const int rows = TOKENS * group, ranges = (positions - 1) / AGQ_KEY_RANGE + 1;
  const size_t state = agq_attention_state(&kv);
  float *scratch = test_alloc(agq_attention_scratch(&kv, rows) * 4), *states = test_alloc((size_t)ranges * state * 4);
  for (int h = 0; h < KV_HEADS; h++) agq_attention_tile(&a, regions[h], h, 0, 0, rows, scratch);
  a.out = again, a.first_share = NULL;
  for (int h = 0; h < KV_HEADS; h++)
    for (int r = 0; r < rows; r++) {
      const int own = position[r / group] / AGQ_KEY_RANGE + 1,
                from = agq_attention_first_key(&a, r / group) / AGQ_KEY_RANGE;
      for (int i = from; i < own; i++)
        agq_attention_range(&a, regions[h], h, 0, r, r + 1, i, states + (size_t)i * state, scratch);
      agq_attention_merge(&a, h, 0, r, own - from, states + (size_t)from * state, state);
    }
  test_expect(!memcmp(out, again, (size_t)TOKENS * (size_t)ldo * 4), "the same bits row by row and range by range");
  double worst = 0;
  int untouched = 1;
  for (int i = 0; i < TOKENS; i++) {
    int from = 0;
    while (window && place[from] <= place[position[i]] - window) from++;
    for (int h = 0; h < heads; h++)
      worst = fmax(worst,
                   row_error(d, from, position[i], place, q + row[i] * ldq + h * d, keys[h / group], values[h / group],
                             scale, alibi ? slopes[h] : 0, cap, out + i * ldo + h * d, share[i * heads + h]));
    for (int c = heads * d; c < ldo; c++) untouched &= out[i * ldo + c] == 99;
  }
  test_expect(untouched, "attention writes nothing else");
  if (!test_expect(worst <= 1, "attention of a tile"))
    fprintf(
        stderr,
        "  %d bits, head_dim %d, group %d, %d positions, alibi %d, spread %g, window %d, gaps %d, cap %g: %g times the "
        "bound\n",
        bits, d, group, positions, alibi, (double)spread, window, gaps, (double)cap, worst);
  for (int h = 0; h < KV_HEADS; h++) free(regions[h]), free(keys[h]), free(values[h]);
  free(q), free(out), free(again), free(share), free(scratch), free(states), free(place);
}

/* Two keys with scores 0 and s, whose values are unit vectors: the ratio of the outputs is e^s. Sharper than `check`,
 * which must allow for long sums: it bounds the exponential itself. */
static void exponential(void) {
  enum { D = 16 };
  const agq_kv_layout kv = agq_kv_layout_make(32, D, 64);
  char *region = test_alloc(kv.region_bytes);
  memset(region, 0, kv.region_bytes);
  const float keys[2][D] = {{0}, {1}}, values[2][D] = {{1}, {0, 1}};
  for (int j = 0; j < 2; j++) agq_kv_store(&kv, region, j, keys[j], values[j]);
  float q[D] = {0}, out[D], *scratch = test_alloc(agq_attention_scratch(&kv, 1) * 4);
  const int32_t row = 0, position = 1;
  const agq_attention a = {.kv = &kv,
                           .group = 1,
                           .scale = 1,
                           .q = q,
                           .ldq = D,
                           .token_row = &row,
                           .token_position = &position,
                           .out = out,
                           .ldo = D,
                           .heads = 1};
  double worst = 0;
  for (int i = -400; i <= 400; i++) {
    q[0] = (float)i / 400;
    agq_attention_tile(&a, region, 0, 0, 0, 1, scratch);
    worst = fmax(worst, fabs((double)out[1] / (double)out[0] / exp((double)q[0]) - 1));
  }
  printf("  e^s of two keys, -1..1: error %.2g\n", worst);
  test_expect(worst <= 5e-7, "the exponential of attention");
  free(region), free(scratch);
}

int main(void) {
  if (!test_begin()) return 0;
  exponential();
  static const int dims[] = {12, 20, 64, 80, 128, 256}, groups[] = {1, 2, 3, 8}, lengths[] = {64, 100, 130, 600, 1100};
  unsigned problem = 0;
  for (int bits = 8; bits <= 32; bits += 24)
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
      for (size_t i = 0; i < sizeof dims / sizeof *dims; i++, problem++)
        /* the reference of long sequences is slow: small heads only */
        for (int sharp = 0; sharp < 2 && test_takes(problem) && (lengths[l] < 200 || dims[i] <= 64); sharp++)
          check(bits, dims[i], groups[(i + l) % 4], lengths[l], (int)(i + l + (size_t)sharp) & 1, sharp ? 40 : 0.3f, 0,
                0, 0);
  static const int windows[] = {1, 2, 15, 16, 17, 63, 64, 65, 100, 511, 512, 513, 2000};
  for (size_t w = 0; w < sizeof windows / sizeof *windows; w++, problem++)
    for (int k = 0; k < 8 && test_takes(problem); k++)
      check(k & 1 ? 8 : 32, dims[(w + (size_t)k) % 3], groups[(w + (size_t)k / 2) % 4],
            lengths[(w * 3 + (size_t)k) % 5], k >> 1 & 1, 2, windows[w], k >> 2, k % 3 ? 0 : 1.5f);
  for (int k = 0; k < 6; k++) check(k & 1 ? 8 : 32, dims[k], 3, 200, 0, 3, 0, 0, 0.5f + (float)k);
  return test_end("attention");
}
