/* i8mm.c: integer micro-kernels on SMMLA (Armv8.6, or 8.2 with the extension: Neoverse-V1, N2, Cortex-A510 and later).
 *
 * SMMLA multiplies 2 rows x 8 columns by 8 columns x 2 tokens: 32 products. The low nibbles of a vector are 4 rows x 4
 * columns, the high ones the same rows x the next 4: interleaving their 32-bit lanes gives 2 rows x 8 columns each.
 * Tokens likewise. One token has nothing to pair: SDOT.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "isa/features.h"

#if defined(AGQ_HAS_SMMLA)

#include "common.h"
#include "kernels.h"

AGQ_INLINE int8x16_t zip_low(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s32(vzip1q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)));
}
AGQ_INLINE int8x16_t zip_high(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s32(vzip2q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)));
}

/* 8 columns x 4*NV rows: lo[v] columns 0..3, hi[v] columns 4..7. c[t/2][2*v + h]: rows 2h, 2h+1 of vector v x 2
 * tokens. */
AGQ_INLINE void columns8(int32x4_t (*c)[4], const int8x16_t *lo, const int8x16_t *hi, const int8_t *a, size_t step,
                         const int NV, const int NT) {
  int8x16_t r[4];
  AGQ_UNROLL_FOR (int v = 0; v < NV; v++) {
    r[2 * v] = zip_low(lo[v], hi[v]);
    r[2 * v + 1] = zip_high(lo[v], hi[v]);
  }
  if (NT <= 2) {
    const int8x8_t x = NT == 1 ? vget_low_s8(agq_load_dup4(a)) : vld1_s8(a);
    const int8x8_t z = NT == 1 ? vget_low_s8(agq_load_dup4(a + step)) : vld1_s8(a + step);
    const int8x16_t xz = zip_low(vcombine_s8(x, x), vcombine_s8(z, z));
    AGQ_UNROLL_FOR (int i = 0; i < 2 * NV; i++) c[0][i] = vmmlaq_s32(c[0][i], r[i], xz);
  } else {
    AGQ_UNROLL_FOR (int n = 0; n < NT; n += 4) {
      const int8x16_t x = vld1q_s8(a + 4 * n), z = vld1q_s8(a + step + 4 * n);
      const int8x16_t t01 = zip_low(x, z), t23 = zip_high(x, z);
      AGQ_UNROLL_FOR (int i = 0; i < 2 * NV; i++) {
        c[n / 2][i] = vmmlaq_s32(c[n / 2][i], r[i], t01);
        c[n / 2 + 1][i] = vmmlaq_s32(c[n / 2 + 1][i], r[i], t23);
      }
    }
  }
}

/* [row 0: t, t+1; row 1: t, t+1] and rows 2, 3 -> one vector of 4 rows per token. */
AGQ_INLINE void finish(const agq_arm_block *k, int32x4_t (*c)[4], int v0, const int NV, int tok, const int NT,
                       const int u4, agq_arm_sums *sums) {
  int32x4_t acc[8][4];
  AGQ_UNROLL_FOR (int n = 0; n < NT; n++) {
    const int32_t s = k->sums[tok + n];
    AGQ_UNROLL_FOR (int v = 0; v < NV; v++) {
      const int32x4_t p = c[n / 2][2 * v], q = c[n / 2][2 * v + 1];
      acc[n][v] = n % 2 ? vuzp2q_s32(p, q) : vuzp1q_s32(p, q);
      if (k->t->zero) acc[n][v] = vmlaq_n_s32(acc[n][v], k->zc[v0 + v], s);
      else if (u4) acc[n][v] = vsubq_s32(acc[n][v], vdupq_n_s32(k->t->symmetric * s));
    }
  }
  agq_arm_epilogue(k, acc, v0, NV, tok, NT, sums);
}

/* 8 rows (vectors v0, v0+1) x NT tokens (1, 2, 4 or 8). */
AGQ_INLINE void u4_tile(const agq_arm_block *k, agq_arm_sums *sums, int v0, int tok, const int NT) {
  const uint8x16_t mask = vdupq_n_u8(15);
  const size_t step = 4 * (size_t)k->t->width;
  const int8_t *a = k->a + 4 * tok;
  const uint8_t *w = k->w + 16 * v0, *end = w + 8 * (size_t)k->t->block;
  int32x4_t c[4][4];
  AGQ_UNROLL_FOR (int i = 0; i < 16; i++) c[i / 4][i % 4] = vdupq_n_s32(0);
  AGQ_NO_UNROLL
  do {
    int8x16_t lo[2], hi[2];
    AGQ_UNROLL_FOR (int v = 0; v < 2; v++) {
      const uint8x16_t u = vld1q_u8(w + 16 * v);
      lo[v] = vreinterpretq_s8_u8(vandq_u8(u, mask));
      hi[v] = vreinterpretq_s8_u8(vshrq_n_u8(u, 4));
    }
    columns8(c, lo, hi, a, step, 2, NT);
    w += 64;
    a += 2 * step;
  } while (w != end);
  finish(k, c, v0, 2, tok, NT, 1, sums);
}

AGQ_INLINE void i8_tile(const agq_arm_block *k, agq_arm_sums *sums, int v0, int tok, const int NT) {
  const size_t step = 4 * (size_t)k->t->width;
  const int8_t *a = k->a + 4 * tok;
  const int8_t *w = (const int8_t *)k->w + 16 * v0, *end = w + 16 * (size_t)k->t->block;
  int32x4_t c[4][4];
  AGQ_UNROLL_FOR (int i = 0; i < 16; i++) c[i / 4][i % 4] = vdupq_n_s32(0);
  AGQ_NO_UNROLL
  do {
    const int8x16_t lo[2] = {vld1q_s8(w), vld1q_s8(w + 16)}, hi[2] = {vld1q_s8(w + 64), vld1q_s8(w + 80)};
    columns8(c, lo, hi, a, step, 2, NT);
    w += 128;
    a += 2 * step;
  } while (w != end);
  finish(k, c, v0, 2, tok, NT, 0, sums);
}

/* All tokens of a block: eights, fours, a pair, a single one. */
#define TOKENS(NAME, TILE)                                           \
  AGQ_INLINE void NAME(const agq_arm_block *k, agq_arm_sums *sums) { \
    for (int v0 = 0; v0 < 4; v0 += 2) {                              \
      int n = 0;                                                     \
      const int width = k->t->width;                                 \
      for (; n + 8 <= width; n += 8) TILE(k, sums, v0, n, 8);        \
      if (width & 4) TILE(k, sums, v0, n, 4), n += 4;                \
      if (width & 2) TILE(k, sums, v0, n, 2), n += 2;                \
      if (width & 1) TILE(k, sums, v0, n, 1);                        \
    }                                                                \
  }
TOKENS(u4_tokens, u4_tile)
TOKENS(i8_tokens, i8_tile)
/* `finish` takes the zero point off, hence nothing to correct in the epilogue. */
AGQ_ARM_KERNEL(mmla_u4, u4_tokens, 8, 0, 0)
AGQ_ARM_KERNEL(mmla_i8, i8_tokens, 16, 0, 0)
void agq_i8mm_u4(const agq_tile *t) { (t->width == 1 ? agq_dot_u4_m1 : mmla_u4)(t); }
void agq_i8mm_i8(const agq_tile *t) { (t->width == 1 ? agq_dot_i8_m1 : mmla_i8)(t); }

#endif
