/* scalar.c: the portable packed 4-bit multiplier, and what its SIMD versions share; see packed4.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "packed4.h"

agq_packed4_block agq_packed4_begin(const agq_tile *t, int panel, int block) {
  const int at = block / t->group_blocks * AGQ_PANEL;
  const char *scale = (const char *)t->scale + (size_t)panel * t->scale_stride;
  const int8_t *zero = t->zero ? t->zero + (size_t)panel * t->zero_stride + at : 0;
  const int outer = agq_outer_blocks(t);
  agq_packed4_block k = {.a_scale = t->act_blocks ? t->a_scale + block / t->act_blocks : 0,
                         .tokens_first = agq_tokens_first(t),
                         .closes = outer && (block + 1) % outer == 0};
  for (int r = 0; r < AGQ_PANEL; r++) {
    k.scale[r] = agq_scale_at(scale, (size_t)(at + r), t->scale_type);
    k.zero[r] = zero ? zero[r] : t->symmetric;
  }
  return k;
}

void agq_packed4_store(const agq_tile *t, int panel, int token, float (*f)[AGQ_PANEL]) {
  const int first = panel * AGQ_PANEL, rows = t->rows - first < AGQ_PANEL ? t->rows - first : AGQ_PANEL;
  float *y = t->y + (size_t)token * t->ldy + first;
  for (int r = 0; r < rows; r++) {
    const float v = t->act_blocks ? f[0][r] : f[1][r] * t->a_scale[(size_t)token * t->a_scale_stride];
    y[r] = t->bias ? v + t->bias[first + r] : v;
  }
}

int agq_packed4_least(const int8_t *a, int stride, int columns) {
  int least = 127;
  for (int k = 0; k < columns; k += 4, a += stride)
    for (int j = 0; j < 4; j++) least = a[j] < least ? a[j] : least;
  return least;
}

void agq_packed4_scalar(const agq_tile *t) {
  const size_t block_bytes = (size_t)t->block * AGQ_PANEL / 2;
  const int stride = 4 * t->width;
  for (int p = 0; p < t->panels; p++)
    for (int i = 0; i < t->width; i++) {
      float f[2][AGQ_PANEL] = {{0}};
      for (int b = 0; b < t->blocks; b++) {
        const uint8_t *w = t->w + (size_t)p * t->w_stride + b * block_bytes;
        const int8_t *a = t->a + (size_t)b * t->block * t->width + 4 * i;
        const int least = agq_packed4_least(a, stride, t->block);
        int32_t products[AGQ_PANEL] = {0}, weights[AGQ_PANEL] = {0};
        for (int r = 0; r < AGQ_PANEL / 2; r++) {
          uint32_t sums = 0;
          for (int k = 0, terms = 0; k < t->block; k++) {
            const uint8_t *unit = w + (size_t)(k / 8) * 64 + k % 4;
            const int shift = k & 4, low = unit[4 * r] >> shift & 15, high = unit[4 * (r + 8)] >> shift & 15;
            sums = agq_packed4_add(sums, agq_packed4_pair(high, low), a[(size_t)(k / 4) * stride + k % 4] - least);
            weights[r] += low;
            weights[r + 8] += high;
            if (++terms == AGQ_PACKED4_TERMS || k + 1 == t->block) {
              products[r] += (int32_t)(sums & 0xffff);
              products[r + 8] += (int32_t)(sums >> 16);
              sums = 0, terms = 0;
            }
          }
        }
        const agq_packed4_block k = agq_packed4_begin(t, p, b);
        agq_packed4_finish(t, &k, i, t->sums[(size_t)b * t->width + i], least, products, weights, f);
      }
      agq_packed4_store(t, p, i, f);
    }
}
