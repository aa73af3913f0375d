/* neon_m1.c: integer micro-kernels for one token on Armv8.0, with the sums of neon.c.
 *
 * Codes are used as they lie, 0..15, so that unpacking is one AND and one shift per vector. For W4A8 they would overflow
 * 16 bits; but the lane starts at -8 * (sum of its activations), the true sum of a run fits, and additions are exact
 * modulo 2^16.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "isa/features.h"

#if defined(AGQ_HAS_NEON)

#include "kernels.h"
#include "m1.h"
#include "neon.h"

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

void agq_neon_u4a8_m1(const agq_tile *t) { neon_u4a8_m1(t); }
void agq_neon_u4a4_m1(const agq_tile *t) { neon_u4a4_m1(t); }
void agq_neon_i8_m1(const agq_tile *t) { neon_i8_m1(t); }

#endif
