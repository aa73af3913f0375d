/* packed4_body.h: the walk of the SIMD packed 4-bit multipliers over panels, blocks and tokens. Included by one file per
 * architecture after it has defined vi, N, UNITS, CHUNK, mul16, add16, shr16, pairs, codes4, widen, INLINE and vi_load, vi_store, vi_zero.
 *
 * SPDX-License-Identifier: Apache-2.0 */
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

/* One chunk of columns: pairs from `made` (laid out by `unpack`), or straight from the weights. */
INLINE void chunk_products(const uint8_t *w, const uint8_t *made, int columns, const uint16_t *a, int32_t *products) {
  vi all[N], high[N];
  for (int i = 0; i < N; i++) all[i] = high[i] = vi_zero();
  for (int k = 0; k < columns; k += 8 * UNITS, a += 8 * UNITS) {
    vi lo[N], hi[N];
    if (made) {
      for (int i = 0; i < N; i++) {
        lo[i] = vi_load(made + i * VECTOR_BYTES);
        hi[i] = vi_load(made + (N + i) * VECTOR_BYTES);
      }
      made += GROUP_BYTES;
    } else {
      pairs(w, lo, hi);
      w += 64 * UNITS;
    }
    term(lo, codes4(a), all, high);
    term(hi, codes4(a + 4), all, high);
  }
  widen(all, high, products);
}

/* The chunk's pairs to memory (`made` NULL: nowhere), and the sums of its weight codes. */
INLINE void unpack(const uint8_t *w, int columns, uint8_t *made, int32_t *weights) {
  vi all[N], high[N];
  for (int i = 0; i < N; i++) all[i] = high[i] = vi_zero();
  for (int k = 0; k < columns; k += 8 * UNITS, w += 64 * UNITS) {
    vi lo[N], hi[N];
    pairs(w, lo, hi);
    for (int i = 0; i < N; i++) {
      const vi sum = add16(lo[i], hi[i]); /* at most 30 in each byte */
      all[i] = add16(all[i], sum);
      high[i] = add16(high[i], shr16(sum));
      if (made) {
        vi_store(made + i * VECTOR_BYTES, lo[i]);
        vi_store(made + (N + i) * VECTOR_BYTES, hi[i]);
      }
    }
    if (made) made += GROUP_BYTES;
  }
  widen(all, high, weights);
}

void agq_packed4_native(const agq_tile *t) {
  const int width = t->width, stride = 4 * width;
  _Alignas(64) uint8_t made[CHUNK * AGQ_PANEL];
  _Alignas(64) uint16_t codes[CHUNK];
  for (int p = 0; p < t->panels; p++) {
    float f[AGQ_MAX_MR][AGQ_PANEL] = {{0}};
    for (int b = 0; b < t->blocks; b++) {
      const uint8_t *w = t->w + (size_t)p * t->w_stride + (size_t)b * t->block * 8;
      const int8_t *a = t->a + (size_t)b * t->block * width;
      int32_t products[AGQ_MAX_MR][AGQ_PANEL] = {{0}}, weights[AGQ_PANEL] = {0};
      int least[AGQ_MAX_MR];
      for (int i = 0; i < width; i++) least[i] = agq_packed4_least(a + 4 * i, stride, t->block);
      for (int c = 0; c < t->block; c += CHUNK) {
        const int columns = t->block - c < CHUNK ? t->block - c : CHUNK;
        const uint8_t *from = w + (size_t)c * 8;
        unpack(from, columns, width > 1 ? made : 0, weights);
        for (int i = 0; i < width; i++) {
          expand(a + (size_t)c * width + 4 * i, stride, columns, least[i], codes);
          if (width > 1) chunk_products(from, made, columns, codes, products[i]);
          else chunk_products(from, 0, columns, codes, products[i]);
        }
      }
      for (int i = 0; i < width; i++) agq_packed4_finish(t, p, b, i, least[i], products[i], weights, f[i]);
    }
    for (int i = 0; i < width; i++) agq_packed4_store(t, p, i, f[i]);
  }
}
