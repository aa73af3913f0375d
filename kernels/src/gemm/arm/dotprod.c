/* dotprod.c: integer micro-kernels on SDOT (Armv8.2 dotprod: Cortex-A76, Neoverse-N1), also the one-token kernels of
 * i8mm.
 *
 * A unit of layout rl16 is what SDOT wants: a 32-bit lane holds four columns of one row, so accumulators are rows and
 * there is nothing to add across lanes. Two pipes start an SDOT each per cycle: 32 products. Unpacking four bits takes
 * the same pipes, so from some tokens on dotprod_wide.c does it apart.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "isa/features.h"

#if defined(AGQ_HAS_SDOT)

#include "common.h"
#include "kernels.h"
#include "m1.h"

/* Four columns of 4*NV rows for NT tokens (1, or a multiple of 4). */
AGQ_INLINE void columns4(int32x4_t (*c)[4], const int8x16_t *w, const int8_t *a, const int NV, const int NT) {
  if (NT < 4) {
    AGQ_UNROLL_FOR (int n = 0; n < NT; n++) {
      const int8x16_t x = agq_load_dup4(a + 4 * n);
      AGQ_UNROLL_FOR (int v = 0; v < NV; v++) c[n][v] = vdotq_s32(c[n][v], w[v], x);
    }
  } else {
    AGQ_UNROLL_FOR (int n = 0; n < NT; n += 4) {
      const int8x16_t x = vld1q_s8(a + 4 * n);
      AGQ_UNROLL_FOR (int v = 0; v < NV; v++) agq_dot4(&c[n][v], 4, w[v], x);
    }
  }
}

/* Where accumulators start: the symmetric zero point's share, and the magic bits. Made once per block, used by all row
 * tiles. */
AGQ_INLINE void starts(const agq_arm_block *k, int32x4_t *s, int magic) {
  const int32_t base = magic ? AGQ_MAGIC_BITS : 0, factor = k->t->zero ? 0 : k->t->symmetric;
  for (int n = 0; n < k->t->width; n++) s[n] = vdupq_n_s32(base - factor * k->sums[n]);
}

AGQ_INLINE void load_starts(const agq_arm_block *k, int32x4_t (*c)[4], const int32x4_t *s, int v0, const int NV,
                            int tok, const int NT) {
  /* Load them here: kept in registers over the row tiles, they would crowd the loop. */
  __asm__ volatile("" : "+r"(s) : : "memory");
  AGQ_UNROLL_FOR (int n = 0; n < NT; n++)
    AGQ_UNROLL_FOR (int v = 0; v < NV; v++) c[n][v] = s[tok + n];
  if (k->t->zero)
    AGQ_UNROLL_FOR (int n = 0; n < NT; n++)
      AGQ_UNROLL_FOR (int v = 0; v < NV; v++) c[n][v] = vmlaq_n_s32(c[n][v], k->zc[v0 + v], k->sums[tok + n]);
}

/* Takes c into the sums. */
AGQ_INLINE void finish(const agq_arm_block *k, int32x4_t (*c)[4], int v0, const int NV, int tok, const int NT,
                       int magic, agq_arm_sums *sums) {
  float32x4_t x[8][4];
  AGQ_UNROLL_FOR (int n = 0; n < NT; n++)
    AGQ_UNROLL_FOR (int v = 0; v < NV; v++) x[n][v] = agq_to_float(c[n][v], magic);
  agq_arm_scale(k, x, v0, NV, tok, NT, sums);
}

/* U4: vectors v0 .. v0+NV-1, tokens tok .. tok+NT-1. */
AGQ_INLINE void u4_tile(const agq_arm_block *k, const int32x4_t *s, agq_arm_sums *sums, int v0, const int NV, int tok,
                        const int NT) {
  uint8x16_t mask = vdupq_n_u8(15);
  AGQ_KEEP(mask);
  const size_t step = 4 * (size_t)k->t->width;
  const int8_t *a = k->a + 4 * tok;
  const uint8_t *w = k->w + 16 * v0, *end = w + 8 * (size_t)k->t->block;
  int32x4_t c[8][4];
  load_starts(k, c, s, v0, NV, tok, NT);
  AGQ_NO_UNROLL
  do {
    int8x16_t lo[4], hi[4];
    AGQ_UNROLL_FOR (int v = 0; v < NV; v++) {
      const uint8x16_t u = vld1q_u8(w + 16 * v);
      lo[v] = vreinterpretq_s8_u8(vandq_u8(u, mask));
      hi[v] = vreinterpretq_s8_u8(vshrq_n_u8(u, 4));
    }
    columns4(c, lo, a, NV, NT);
    columns4(c, hi, a + step, NV, NT);
    w += 64;
    a += 2 * step;
  } while (w != end);
  if (k->t->block <= AGQ_MAGIC_BLOCK) finish(k, c, v0, NV, tok, NT, 1, sums);
  else finish(k, c, v0, NV, tok, NT, 0, sums);
}

AGQ_INLINE void i8_tile(const agq_arm_block *k, const int32x4_t *s, agq_arm_sums *sums, int v0, const int NV, int tok,
                        const int NT) {
  const size_t step = 4 * (size_t)k->t->width;
  const int8_t *a = k->a + 4 * tok;
  const int8_t *w = (const int8_t *)k->w + 16 * v0, *end = w + 16 * (size_t)k->t->block;
  int32x4_t c[8][4];
  load_starts(k, c, s, v0, NV, tok, NT);
  AGQ_NO_UNROLL
  do {
    int8x16_t p[4], q[4];
    AGQ_UNROLL_FOR (int v = 0; v < NV; v++) {
      p[v] = vld1q_s8(w + 16 * v);
      q[v] = vld1q_s8(w + 64 + 16 * v);
    }
    columns4(c, p, a, NV, NT);
    columns4(c, q, a + step, NV, NT);
    w += 128;
    a += 2 * step;
  } while (w != end);
  finish(k, c, v0, NV, tok, NT, 0, sums);
}

/* All tokens of a block: 8 rows x 8, 16 rows x 4, then single ones. */
#define TOKENS(NAME, TILE, MAGIC_LIMIT)                                \
  AGQ_NOINLINE void NAME(const agq_arm_block *k, agq_arm_sums *sums) { \
    const int width = k->t->width;                                     \
    int32x4_t s[AGQ_MAX_MR];                                           \
    int n = 0;                                                         \
    starts(k, s, k->t->block <= (MAGIC_LIMIT));                        \
    for (; n + 8 <= width; n += 8)                                     \
      for (int v = 0; v < 4; v += 2) TILE(k, s, sums, v, 2, n, 8);     \
    for (; n + 4 <= width; n += 4) TILE(k, s, sums, 0, 4, n, 4);       \
    switch (width - n) {                                               \
      case 3: TILE(k, s, sums, 0, 4, n, 3); break;                     \
      case 2: TILE(k, s, sums, 0, 4, n, 2); break;                     \
      case 1: TILE(k, s, sums, 0, 4, n, 1); break;                     \
      default: break;                                                  \
    }                                                                  \
  }
TOKENS(u4_tokens, u4_tile, AGQ_MAGIC_BLOCK)
TOKENS(i8_tokens, i8_tile, 0)
/* The zero point is taken off at the start: nothing to correct at the end. */
AGQ_ARM_KERNEL(dot_u4, u4_tokens, 8, 0, 0)
AGQ_ARM_KERNEL(dot_i8, i8_tokens, 16, 0, 0)
void agq_dot_u4(const agq_tile *t) { (agq_dot_wide(t) ? agq_dot_u4_wide : dot_u4)(t); }
void agq_dot_i8(const agq_tile *t) { dot_i8(t); }

#define SIXTEEN(x) {x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}
static const int32_t starts_magic[16] = SIXTEEN(AGQ_MAGIC_BITS), starts_zero[16];

/* One token. */
AGQ_INLINE void u4_m1(const agq_tile *t, const agq_m1_case which) {
  uint8x16_t mask = vdupq_n_u8(15);
  AGQ_KEEP(mask);
  const int magic = which != AGQ_M1_ANY || t->block <= AGQ_MAGIC_BLOCK;
  for (int p = 0; p < t->panels; p++) {
    agq_arm_m1 m;
    agq_arm_m1_begin(&m, t, p);
    for (int b = 0; b < t->blocks; b++) {
      int32x4_t acc[4];
      /* The symmetric zero point's share is a part of the magic number where there is one: the accumulators start at a
       * constant, which is loaded, as moves would take the pipes of SDOT. */
      const int32_t share = (which != AGQ_M1_ANY ? 8
                             : m.zero            ? 0
                                                 : t->symmetric) *
                            *m.sums,
                    *start = magic ? starts_magic : starts_zero;
      const float32x4_t less = vreinterpretq_f32_s32(vdupq_n_s32(AGQ_MAGIC_BITS + share));
      __asm__ volatile("" : "+r"(start) : : "memory");
      AGQ_UNROLL_FOR (int v = 0; v < 4; v++) acc[v] = vld1q_s32(start + 4 * v);
      const uint8_t *w = m.w;
      const int8_t *a = m.a, *end = a + t->block;
      AGQ_NO_UNROLL
      do {
        const int8x16_t x = vld1q_s8(a);
        AGQ_UNROLL_FOR (int v = 0; v < 4; v++) {
          const uint8x16_t u = vld1q_u8(w + 16 * v);
          acc[v] = vdotq_laneq_s32(acc[v], vreinterpretq_s8_u8(vandq_u8(u, mask)), x, 0);
          acc[v] = vdotq_laneq_s32(acc[v], vreinterpretq_s8_u8(vshrq_n_u8(u, 4)), x, 1);
        }
        AGQ_UNROLL_FOR (int v = 0; v < 4; v++) {
          const uint8x16_t u = vld1q_u8(w + 64 + 16 * v);
          acc[v] = vdotq_laneq_s32(acc[v], vreinterpretq_s8_u8(vandq_u8(u, mask)), x, 2);
          acc[v] = vdotq_laneq_s32(acc[v], vreinterpretq_s8_u8(vshrq_n_u8(u, 4)), x, 3);
        }
        w += 128;
        a += 16;
      } while (a != end);
      m.w = w;
      m.a = a;
      if (!magic)
        AGQ_UNROLL_FOR (int v = 0; v < 4; v++) acc[v] = vsubq_s32(acc[v], vdupq_n_s32(share));
      agq_arm_m1_block(&m, acc, 0, magic ? &less : NULL, which);
    }
    agq_arm_m1_end(&m);
  }
}

AGQ_INLINE void i8_m1(const agq_tile *t, const agq_m1_case which) {
  for (int p = 0; p < t->panels; p++) {
    agq_arm_m1 m;
    agq_arm_m1_begin(&m, t, p);
    for (int b = 0; b < t->blocks; b++) {
      int32x4_t acc[4];
      AGQ_UNROLL_FOR (int v = 0; v < 4; v++) acc[v] = vdupq_n_s32(0);
      const int8_t *w = (const int8_t *)m.w, *a = m.a, *end = a + t->block;
      AGQ_NO_UNROLL
      do {
        const int8x16_t x = vld1q_s8(a);
        AGQ_UNROLL_FOR (int v = 0; v < 4; v++) {
          acc[v] = vdotq_laneq_s32(acc[v], vld1q_s8(w + 16 * v), x, 0);
          acc[v] = vdotq_laneq_s32(acc[v], vld1q_s8(w + 64 + 16 * v), x, 1);
          acc[v] = vdotq_laneq_s32(acc[v], vld1q_s8(w + 128 + 16 * v), x, 2);
          acc[v] = vdotq_laneq_s32(acc[v], vld1q_s8(w + 192 + 16 * v), x, 3);
        }
        w += 256;
        a += 16;
      } while (a != end);
      m.w = (const uint8_t *)w;
      m.a = a;
      agq_arm_m1_block(&m, acc, 0, NULL, which);
    }
    agq_arm_m1_end(&m);
  }
}
AGQ_ARM_M1(dot_u4_m1, u4_m1)
AGQ_ARM_M1(dot_i8_m1, i8_m1)
void agq_dot_u4_m1(const agq_tile *t) { dot_u4_m1(t); }
void agq_dot_i8_m1(const agq_tile *t) { dot_i8_m1(t); }

#endif
