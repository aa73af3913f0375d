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

#define RUN_A8 128 /* columns that are summed in 16 bits */
#define RUN_A4 1024

/* One token after the other: mixed by the compiler's scheduler, temporaries and accumulators would not fit in
 * registers. */
#define AGQ_IN_ORDER(x, c) __asm__("" : "+w"(x) : "w"((c)[0]), "w"((c)[1]), "w"((c)[2]), "w"((c)[3]))

/* 2 rows x 4 columns in each half. */
AGQ_INLINE int16x8_t mlal_low(int16x8_t acc, int8x16_t w, int8x16_t x) {
  return vmlal_s8(acc, vget_low_s8(w), vget_low_s8(x));
}

/* Two accumulators of 2 rows x 4 partial sums -> one of 4 rows. */
AGQ_INLINE int32x4_t rows4(int16x8_t a, int16x8_t b) { return vpaddq_s32(vpaddlq_s16(a), vpaddlq_s16(b)); }

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

/* ---- one token
 * --------------------------------------------------------------------------------------------------------------- Codes
 * are used as they lie, 0..15, so that unpacking is one AND and one shift per vector. For W4A8 they would overflow 16
 * bits; but the lane starts at -8 * (sum of its activations), the true sum of a run fits, and additions are exact
 * modulo 2^16. */
#define STARTS 512

/* -8 * sum of the codes k with k mod 4 = lane mod 4. */
static int16x8_t lane_start(const int8_t *a, int columns) {
  int16x8_t s = vdupq_n_s16(0);
  for (int k = 0; k < columns; k += 16) {
    const int8x16_t x = vld1q_s8(a + k);
    s = vaddw_high_s8(vaddw_s8(s, vget_low_s8(x)), x);
  }
  return vnegq_s16(vshlq_n_s16(vaddq_s16(s, vextq_s16(s, s, 4)), 3));
}

/* 8 columns of 16 rows, activations in lanes X and Z of v24; W: where the weights lie. In assembly: compilers move
 * accumulators about. */
#define UNIT_M1(W, X, Z)                                                                             \
  "ldp q20, q21, [%[w], #" #W "]\n ldp q22, q23, [%[w], #" #W " + 32]\n"                             \
  "dup v25.4s, v24.s[" #X "]\n dup v26.4s, v24.s[" #Z "]\n"                                          \
  "and v27.16b, v20.16b, %[mask].16b\n and v28.16b, v21.16b, %[mask].16b\n"                          \
  "and v29.16b, v22.16b, %[mask].16b\n and v30.16b, v23.16b, %[mask].16b\n"                          \
  "smlal %[c0].8h, v27.8b, v25.8b\n smlal2 %[c1].8h, v27.16b, v25.16b\n ushr v20.16b, v20.16b, #4\n" \
  "smlal %[c2].8h, v28.8b, v25.8b\n smlal2 %[c3].8h, v28.16b, v25.16b\n ushr v21.16b, v21.16b, #4\n" \
  "smlal %[c4].8h, v29.8b, v25.8b\n smlal2 %[c5].8h, v29.16b, v25.16b\n ushr v22.16b, v22.16b, #4\n" \
  "smlal %[c6].8h, v30.8b, v25.8b\n smlal2 %[c7].8h, v30.16b, v25.16b\n ushr v23.16b, v23.16b, #4\n" \
  "smlal %[c0].8h, v20.8b, v26.8b\n smlal2 %[c1].8h, v20.16b, v26.16b\n"                             \
  "smlal %[c2].8h, v21.8b, v26.8b\n smlal2 %[c3].8h, v21.16b, v26.16b\n"                             \
  "smlal %[c4].8h, v22.8b, v26.8b\n smlal2 %[c5].8h, v22.16b, v26.16b\n"                             \
  "smlal %[c6].8h, v23.8b, v26.8b\n smlal2 %[c7].8h, v23.16b, v26.16b\n"

/* `columns` (a multiple of 16) of a panel in 16 bits, from the start value s. */
AGQ_INLINE void run_m1(int32x4_t *acc, const uint8_t *w, const int8_t *a, int columns, int16x8_t s) {
  int16x8_t c[8];
  AGQ_UNROLL_FOR (int i = 0; i < 8; i++) c[i] = s;
  const int8_t *end = a + columns;
  __asm__ volatile("1:\n ldr q24, [%[a]], #16\n" UNIT_M1(0, 0, 1)
                       UNIT_M1(64, 2, 3) "add %[w], %[w], #128\n cmp %[a], %[end]\n b.ne 1b\n"
                   : [c0] "+w"(c[0]), [c1] "+w"(c[1]), [c2] "+w"(c[2]), [c3] "+w"(c[3]), [c4] "+w"(c[4]),
                     [c5] "+w"(c[5]), [c6] "+w"(c[6]), [c7] "+w"(c[7]), [w] "+r"(w), [a] "+r"(a)
                   : [end] "r"(end), [mask] "w"(vdupq_n_u8(15)), "m"(*(const uint8_t (*)[])w),
                     "m"(*(const int8_t (*)[])a)
                   : "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "cc");
  AGQ_UNROLL_FOR (int v = 0; v < 4; v++) acc[v] = rows4(c[2 * v], c[2 * v + 1]);
}

/* Where all rows have a zero point other than the 8 that the lanes took off. */
AGQ_INLINE void other_zero(const agq_arm_m1 *m, int32x4_t *acc) {
  if (m->zero || m->t->symmetric == 8) return;
  const int32x4_t rest = vdupq_n_s32((8 - m->t->symmetric) * *m->sums);
  AGQ_UNROLL_FOR (int v = 0; v < 4; v++) acc[v] = vaddq_s32(acc[v], rest);
}

/* Panels whose blocks are one run each, start values known. */
AGQ_INLINE void u4_short_m1(const agq_tile *t, const int16x8_t *start, const agq_m1_case which) {
  for (int p = 0; p < t->panels; p++) {
    agq_arm_m1 m;
    agq_arm_m1_begin(&m, t, p);
    for (int b = 0; b < t->blocks; b++) {
      int32x4_t acc[4];
      run_m1(acc, m.w, m.a, t->block, start[b]);
      m.w += 8 * (size_t)t->block;
      m.a += t->block;
      if (which == AGQ_M1_ANY) other_zero(&m, acc);
      agq_arm_m1_block(&m, acc, 8, NULL, which);
    }
    agq_arm_m1_end(&m);
  }
}

/* Any number of runs and blocks. */
AGQ_NOINLINE void u4_long_m1(const agq_tile *t, const int16x8_t *start, const int run) {
  for (int p = 0, i = 0; p < t->panels; p++, i = 0) {
    agq_arm_m1 m;
    agq_arm_m1_begin(&m, t, p);
    for (int b = 0; b < t->blocks; b++) {
      int32x4_t acc[4], part[4];
      AGQ_UNROLL_FOR (int v = 0; v < 4; v++) acc[v] = vdupq_n_s32(0);
      for (int left = t->block; left > 0; left -= run, i++) {
        const int columns = left < run ? left : run;
        run_m1(part, m.w, m.a, columns, i < STARTS ? start[i] : lane_start(m.a, columns));
        AGQ_UNROLL_FOR (int v = 0; v < 4; v++) acc[v] = vaddq_s32(acc[v], part[v]);
        m.w += 8 * (size_t)columns;
        m.a += columns;
      }
      other_zero(&m, acc);
      agq_arm_m1_block(&m, acc, 8, NULL, AGQ_M1_ANY);
    }
    agq_arm_m1_end(&m);
  }
}

AGQ_INLINE void u4_m1(const agq_tile *t, const int run, const agq_m1_case which) {
  int16x8_t start[STARTS];
  int i = 0;
  for (int b = 0; b < t->blocks; b++)
    for (int at = 0; at < t->block && i < STARTS; at += run, i++) {
      const int left = t->block - at;
      start[i] = lane_start(t->a + (size_t)b * t->block + at, left < run ? left : run);
    }
  if (t->block <= run && t->blocks <= STARTS) u4_short_m1(t, start, which);
  else u4_long_m1(t, start, run);
}
AGQ_INLINE void u4a8_m1(const agq_tile *t, const agq_m1_case which) { u4_m1(t, RUN_A8, which); }
AGQ_INLINE void u4a4_m1(const agq_tile *t, const agq_m1_case which) { u4_m1(t, RUN_A4, which); }
AGQ_ARM_M1(neon_u4a8_m1, u4a8_m1)
AGQ_ARM_M1(neon_u4a4_m1, u4a4_m1)

AGQ_INLINE void i8_m1(const agq_tile *t, const agq_m1_case which) {
  for (int p = 0; p < t->panels; p++) {
    agq_arm_m1 m;
    agq_arm_m1_begin(&m, t, p);
    for (int b = 0; b < t->blocks; b++) {
      int32x4_t c[8], acc[4];
      AGQ_UNROLL_FOR (int i = 0; i < 8; i++) c[i] = vdupq_n_s32(0);
      const int8_t *w = (const int8_t *)m.w, *a = m.a, *end = a + t->block;
      AGQ_NO_UNROLL
      do {
        int8x16_t xs = vld1q_s8(a);
        AGQ_KEEP(xs);
        AGQ_UNROLL_FOR (int h = 0; h < 2; h++) {
          const int8x16_t x = agq_dup4(xs, 2 * h), z = agq_dup4(xs, 2 * h + 1);
          AGQ_UNROLL_FOR (int v = 0; v < 4; v++) {
            const int8x16_t q = vld1q_s8(w + 128 * h + 16 * v), r = vld1q_s8(w + 128 * h + 64 + 16 * v);
            c[2 * v] = vpadalq_s16(c[2 * v], mlal_low(vmull_s8(vget_low_s8(q), vget_low_s8(x)), r, z));
            c[2 * v + 1] = vpadalq_s16(c[2 * v + 1], vmlal_high_s8(vmull_high_s8(q, x), r, z));
          }
        }
        w += 256;
        a += 16;
      } while (a != end);
      m.w = (const uint8_t *)w;
      m.a = a;
      AGQ_UNROLL_FOR (int v = 0; v < 4; v++) acc[v] = vpaddq_s32(c[2 * v], c[2 * v + 1]);
      agq_arm_m1_block(&m, acc, 0, NULL, which);
    }
    agq_arm_m1_end(&m);
  }
}
AGQ_ARM_M1(neon_i8_m1, i8_m1)

void agq_neon_i8(const agq_tile *t) { neon_i8(t); }
void agq_neon_u4a8_m1(const agq_tile *t) { neon_u4a8_m1(t); }
void agq_neon_u4a4_m1(const agq_tile *t) { neon_u4a4_m1(t); }
void agq_neon_i8_m1(const agq_tile *t) { neon_i8_m1(t); }

#endif
