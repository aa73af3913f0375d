/* neon.c: integer micro-kernels for Armv8.0 (Cortex-A53, A72: no SDOT).
 *
 * The widening multiply-accumulate SMLAL makes 8 products of 8-bit operands per instruction, and the A72 can start one
 * each cycle: 8 products per cycle is the limit; everything else (unpacking, broadcasting activations) fits beside it
 * on the second vector pipe. On layout rl16 a 16-bit lane holds (row, column mod 4); a lane takes a quarter of the
 * columns of a block.
 *
 *   codes -8..7 times -127..127: 32 products fit in 16 bits, so 128 columns without widening   (W4A8)
 *   codes -8..7 times -15..15:  256 products, 1024 columns                                       (W4A4)
 *   codes -128..127 times -127..127: 2 products                                                 (W8A8)
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "isa/features.h"

#if defined(AGQ_HAS_NEON)

#include "common.h"
#include "kernels.h"
#include "neon.h"

/* One token after the other: mixed by the compiler's scheduler, temporaries and accumulators would not fit in
 * registers. */
#define AGQ_IN_ORDER(x, c) __asm__("" : "+w"(x) : "w"((c)[0]), "w"((c)[1]), "w"((c)[2]), "w"((c)[3]))

/* NT tokens x 8 rows (vectors v0, v0+1): the codes of NT tokens for 4 columns, one broadcast each. first: c = instead
 * of c +=. */
AGQ_INLINE void columns4(int16x8_t (*c)[4], int8x16_t w0, int8x16_t w1, const int8_t *a, const int NT,
                         const int first) {
  int8x16_t xs = vdupq_n_s8(0);
  if (NT == 4) {
    xs = vld1q_s8(a);
    AGQ_KEEP(xs);
  }
  AGQ_UNROLL_FOR (int n = 0; n < NT; n++) {
    const int8x16_t x = NT == 4 ? agq_dup4(xs, n) : agq_load_dup4(a + 4 * n);
    c[n][0] = first ? vmull_s8(vget_low_s8(w0), vget_low_s8(x)) : mlal_low(c[n][0], w0, x);
    c[n][1] = first ? vmull_high_s8(w0, x) : vmlal_high_s8(c[n][1], w0, x);
    c[n][2] = first ? vmull_s8(vget_low_s8(w1), vget_low_s8(x)) : mlal_low(c[n][2], w1, x);
    c[n][3] = first ? vmull_high_s8(w1, x) : vmlal_high_s8(c[n][3], w1, x);
    AGQ_IN_ORDER(xs, c[n]);
  }
}

/* 8 columns of 8 rows. */
AGQ_INLINE void unit(int16x8_t (*c)[4], const uint8_t *w, const int8_t *a, size_t step, const int NT, const int first) {
  const uint8x16_t mask = vdupq_n_u8(15), u0 = vld1q_u8(w), u1 = vld1q_u8(w + 16);
  const int8x16_t eight = vdupq_n_s8(8);
  columns4(c, vsubq_s8(vreinterpretq_s8_u8(vandq_u8(u0, mask)), eight),
           vsubq_s8(vreinterpretq_s8_u8(vandq_u8(u1, mask)), eight), a, NT, first);
  columns4(c, vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(u0, 4)), eight),
           vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(u1, 4)), eight), a + step, NT, 0);
}

/* `columns` (at least 16) of U4 codes, summed in 16 bits. */
AGQ_INLINE void u4_run(int32x4_t (*acc)[4], const uint8_t *w, const int8_t *a, size_t step, int columns, const int NT) {
  const uint8_t *end = w + 8 * (size_t)columns;
  int16x8_t c[4][4];
  unit(c, w, a, step, NT, 1);
  w += 64;
  a += 2 * step;
  AGQ_NO_UNROLL
  do {
    unit(c, w, a, step, NT, 0);
    w += 64;
    a += 2 * step;
  } while (w != end);
  AGQ_UNROLL_FOR (int n = 0; n < NT; n++) {
    acc[n][0] = rows4(c[n][0], c[n][1]);
    acc[n][1] = rows4(c[n][2], c[n][3]);
  }
}

/* A block that fits in one run. */
AGQ_INLINE void u4_tile(const agq_arm_block *k, agq_arm_sums *sums, int v0, int tok, const int NT) {
  int32x4_t acc[4][4];
  u4_run(acc, k->w + 16 * v0, k->a + 4 * tok, 4 * (size_t)k->t->width, k->t->block, NT);
  agq_arm_epilogue(k, acc, v0, 2, tok, NT, sums);
}

/* Longer blocks: widened every `run` columns. */
AGQ_INLINE void u4_long(const agq_arm_block *k, agq_arm_sums *sums, int v0, int tok, const int NT, const int run) {
  const size_t step = 4 * (size_t)k->t->width;
  int32x4_t acc[4][4], part[4][4];
  AGQ_UNROLL_FOR (int n = 0; n < NT; n++) acc[n][0] = acc[n][1] = vdupq_n_s32(0);
  for (int at = 0; at < k->t->block; at += run) {
    const int left = k->t->block - at;
    u4_run(part, k->w + 16 * v0 + 8 * (size_t)at, k->a + 4 * tok + (size_t)at * k->t->width, step,
           left < run ? left : run, NT);
    AGQ_UNROLL_FOR (int n = 0; n < NT; n++) {
      acc[n][0] = vaddq_s32(acc[n][0], part[n][0]);
      acc[n][1] = vaddq_s32(acc[n][1], part[n][1]);
    }
  }
  agq_arm_epilogue(k, acc, v0, 2, tok, NT, sums);
}

/* I8: the sum of two products fits in 16 bits, then it is widened. */
AGQ_INLINE void i8_tile(const agq_arm_block *k, agq_arm_sums *sums, int v0, int tok, const int NT) {
  const size_t step = 4 * (size_t)k->t->width;
  const int8_t *a = k->a + 4 * tok;
  const int8_t *w = (const int8_t *)k->w + 16 * v0;
  int32x4_t c[4][4], acc[4][4];
  AGQ_UNROLL_FOR (int n = 0; n < NT; n++) c[n][0] = c[n][1] = c[n][2] = c[n][3] = vdupq_n_s32(0);
  const int8_t *end = w + 16 * (size_t)k->t->block;
  AGQ_NO_UNROLL
  do {
    const int8x16_t p0 = vld1q_s8(w), p1 = vld1q_s8(w + 16), q0 = vld1q_s8(w + 64), q1 = vld1q_s8(w + 80);
    int8x16_t xs = vdupq_n_s8(0), zs = xs;
    if (NT == 4) {
      xs = vld1q_s8(a);
      zs = vld1q_s8(a + step);
    }
    w += 128;
    AGQ_UNROLL_FOR (int n = 0; n < NT; n++) {
      const int8x16_t x = NT == 4 ? agq_dup4(xs, n) : agq_load_dup4(a + 4 * n);
      const int8x16_t z = NT == 4 ? agq_dup4(zs, n) : agq_load_dup4(a + step + 4 * n);
      c[n][0] = vpadalq_s16(c[n][0], mlal_low(vmull_s8(vget_low_s8(p0), vget_low_s8(x)), q0, z));
      c[n][1] = vpadalq_s16(c[n][1], vmlal_high_s8(vmull_high_s8(p0, x), q0, z));
      c[n][2] = vpadalq_s16(c[n][2], mlal_low(vmull_s8(vget_low_s8(p1), vget_low_s8(x)), q1, z));
      c[n][3] = vpadalq_s16(c[n][3], vmlal_high_s8(vmull_high_s8(p1, x), q1, z));
      AGQ_IN_ORDER(xs, c[n]);
      AGQ_IN_ORDER(zs, c[n]);
    }
    a += 2 * step;
  } while (w != end);
  AGQ_UNROLL_FOR (int n = 0; n < NT; n++) {
    acc[n][0] = vpaddq_s32(c[n][0], c[n][1]);
    acc[n][1] = vpaddq_s32(c[n][2], c[n][3]);
  }
  agq_arm_epilogue(k, acc, v0, 2, tok, NT, sums);
}

AGQ_INLINE void u4a8_long(const agq_arm_block *k, agq_arm_sums *sums, int v0, int tok, const int NT) {
  u4_long(k, sums, v0, tok, NT, RUN_A8);
}
AGQ_INLINE void u4a4_long(const agq_arm_block *k, agq_arm_sums *sums, int v0, int tok, const int NT) {
  u4_long(k, sums, v0, tok, NT, RUN_A4);
}

/* All tokens of a block: fours, then what is left over, for the upper and the lower 8 rows. */
#define TOKENS(NAME, TILE)                                             \
  AGQ_NOINLINE void NAME(const agq_arm_block *k, agq_arm_sums *sums) { \
    const int width = k->t->width;                                     \
    for (int v0 = 0; v0 < 4; v0 += 2) {                                \
      int n = 0;                                                       \
      for (; n + 4 <= width; n += 4) TILE(k, sums, v0, n, 4);          \
      switch (width - n) {                                             \
        case 3: TILE(k, sums, v0, n, 3); break;                        \
        case 2: TILE(k, sums, v0, n, 2); break;                        \
        case 1: TILE(k, sums, v0, n, 1); break;                        \
        default: break;                                                \
      }                                                                \
    }                                                                  \
  }
TOKENS(u4_tokens, u4_tile)
TOKENS(u4a8_long_tokens, u4a8_long)
TOKENS(u4a4_long_tokens, u4a4_long)
TOKENS(i8_tokens, i8_tile)
AGQ_ARM_KERNEL(u4_short, u4_tokens, 8, 8, 1)
AGQ_ARM_KERNEL(u4a8_longer, u4a8_long_tokens, 8, 8, 1)
AGQ_ARM_KERNEL(u4a4_longer, u4a4_long_tokens, 8, 8, 1)
AGQ_ARM_KERNEL(neon_i8, i8_tokens, 16, 0, 1)
void agq_neon_u4a8(const agq_tile *t) { (t->block <= RUN_A8 ? u4_short : u4a8_longer)(t); }
void agq_neon_u4a4(const agq_tile *t) { (t->block <= RUN_A4 ? u4_short : u4a4_longer)(t); }

void agq_neon_i8(const agq_tile *t) { neon_i8(t); }

#endif
