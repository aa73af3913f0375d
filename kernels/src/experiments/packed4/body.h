/* body.h: the walk of the SIMD packed 4-bit multipliers over panels, blocks and tokens. Included by one file per
 * architecture after it has defined vi, N, UNITS, CHUNK, mul16, add16, shr16, pairs, codes4, widen, INLINE, vi_load,
 * vi_store, vi_zero.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#define VECTOR_BYTES ((int)sizeof(vi))
#define GROUP_BYTES (2 * N * VECTOR_BYTES) /* pairs of UNITS units of 8 columns */

/* Codes of one token's chunk, least taken off, one per 16 bits. */
static void expand(const int8_t *a, int stride, int columns, int least, uint16_t *out) {
  for (int k = 0; k < columns; k += 4, a += stride, out += 4)
    for (int j = 0; j < 4; j++) out[j] = (uint16_t)(a[j] - least);
}

INLINE void term(const vi *pair, vi a, vi *all, vi *high) {
  for (int i = 0; i < N; i++) {
    const vi r = mul16(pair[i], a);
    all[i] = add16(all[i], r);
    high[i] = add16(high[i], shr16(r));
  }
}

/* One chunk of columns times T tokens, whose codes stand CHUNK apart: pairs from `made` (laid out by `unpack`). */
INLINE void chunk_products(const int T, const uint8_t *made, int columns, const uint16_t *a,
                           int32_t (*products)[AGQ_PANEL]) {
  vi all[2][N], high[2][N];
  for (int t = 0; t < T; t++)
    for (int i = 0; i < N; i++) all[t][i] = high[t][i] = vi_zero();
  for (int k = 0; k < columns; k += 8 * UNITS, a += 8 * UNITS, made += GROUP_BYTES)
    for (int h = 0; h < 2; h++) {
      vi pair[N];
      for (int i = 0; i < N; i++) pair[i] = vi_load(made + (h * N + i) * VECTOR_BYTES);
      for (int t = 0; t < T; t++) term(pair, codes4(a + t * CHUNK + 4 * h), all[t], high[t]);
    }
  for (int t = 0; t < T; t++) widen(all[t], high[t], products[t]);
}

/* One token, straight from the weights; the sums of the weight codes on the way. */
INLINE void chunk_products_m1(const uint8_t *w, int columns, const uint16_t *a, int32_t *products, int32_t *weights) {
  vi all[N], high[N], wall[N], whigh[N];
  for (int i = 0; i < N; i++) all[i] = high[i] = wall[i] = whigh[i] = vi_zero();
  for (int k = 0; k < columns; k += 8 * UNITS, a += 8 * UNITS, w += 64 * UNITS) {
    vi lo[N], hi[N];
    pairs(w, lo, hi);
    term(lo, codes4(a), all, high);
    term(hi, codes4(a + 4), all, high);
    for (int i = 0; i < N; i++) {
      const vi sum = add16(lo[i], hi[i]); /* at most 30 in each byte */
      wall[i] = add16(wall[i], sum);
      whigh[i] = add16(whigh[i], shr16(sum));
    }
  }
  widen(all, high, products);
  widen(wall, whigh, weights);
}

/* The chunk's pairs to memory, and the sums of its weight codes. */
INLINE void unpack(const uint8_t *w, int columns, uint8_t *made, int32_t *weights) {
  vi all[N], high[N];
  for (int i = 0; i < N; i++) all[i] = high[i] = vi_zero();
  for (int k = 0; k < columns; k += 8 * UNITS, w += 64 * UNITS, made += GROUP_BYTES) {
    vi lo[N], hi[N];
    pairs(w, lo, hi);
    for (int i = 0; i < N; i++) {
      const vi sum = add16(lo[i], hi[i]);
      all[i] = add16(all[i], sum);
      high[i] = add16(high[i], shr16(sum));
      vi_store(made + i * VECTOR_BYTES, lo[i]);
      vi_store(made + (N + i) * VECTOR_BYTES, hi[i]);
    }
  }
  widen(all, high, weights);
}

/* Panels that share the expanded codes of a chunk. */
#define PANELS 8

INLINE void panel_chunk(const uint8_t *w, int columns, int width, const uint16_t *codes, int32_t (*products)[AGQ_PANEL],
                        int32_t *weights) {
  _Alignas(64) uint8_t made[CHUNK * AGQ_PANEL];
  if (width == 1) {
    chunk_products_m1(w, columns, codes, products[0], weights);
    return;
  }
  unpack(w, columns, made, weights);
  int i = 0;
  for (; i + 2 <= width; i += 2) chunk_products(2, made, columns, codes + (size_t)i * CHUNK, products + i);
  if (i < width) chunk_products(1, made, columns, codes + (size_t)i * CHUNK, products + i);
}

static void panels(const agq_tile *t, int first, int count) {
  const int width = t->width, stride = 4 * width;
  _Alignas(64) uint16_t codes[AGQ_MAX_MR * CHUNK];
  _Alignas(64) float f[PANELS][AGQ_MAX_MR][2][AGQ_PANEL];
  _Alignas(64) int32_t products[PANELS][AGQ_MAX_MR][AGQ_PANEL], weights[PANELS][AGQ_PANEL];
  int least[AGQ_MAX_MR];
  for (int p = 0; p < count; p++) memset(f[p], 0, (size_t)width * sizeof f[p][0]);
  for (int b = 0; b < t->blocks; b++) {
    const int8_t *a = t->a + (size_t)b * t->block * width;
    for (int i = 0; i < width; i++) least[i] = agq_packed4_least(a + 4 * i, stride, t->block);
    for (int p = 0; p < count; p++) {
      memset(products[p], 0, (size_t)width * sizeof products[p][0]);
      memset(weights[p], 0, sizeof weights[p]);
    }
    for (int c = 0; c < t->block; c += CHUNK) {
      const int columns = t->block - c < CHUNK ? t->block - c : CHUNK;
      for (int i = 0; i < width; i++)
        expand(a + (size_t)c * width + 4 * i, stride, columns, least[i], codes + (size_t)i * CHUNK);
      for (int p = 0; p < count; p++)
        panel_chunk(t->w + (size_t)(first + p) * t->w_stride + ((size_t)b * t->block + c) * 8, columns, width, codes,
                    products[p], weights[p]);
    }
    for (int p = 0; p < count; p++) {
      const agq_packed4_block k = agq_packed4_begin(t, first + p, b);
      for (int i = 0; i < width; i++)
        agq_packed4_finish(t, &k, i, t->sums[(size_t)b * width + i], least[i], products[p][i], weights[p], f[p][i]);
    }
  }
  for (int p = 0; p < count; p++)
    for (int i = 0; i < width; i++) agq_packed4_store(t, first + p, i, f[p][i]);
}

void agq_packed4_native(const agq_tile *t) {
  for (int p = 0; p < t->panels; p += PANELS) panels(t, p, t->panels - p < PANELS ? t->panels - p : PANELS);
}
