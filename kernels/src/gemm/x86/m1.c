/* m1.c: integer kernels for one token (decode). Weights are unpacked in registers; RV vectors of rows go side by
 * side so that the accumulators' latency is hidden. See tile.c for the operands and the depth of int16
 * accumulation.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "vec.h"

#if defined(AGQ_HAS_X86)
#include "kernels.h"

/* Where the accumulators of AGQ_VL rows start: -(zero + offset) * sum. */
INLINE vi start(const int8_t *zeros, int at, int offset, int symmetric, int sum) {
  if (zeros) return vi_mul32(vi_add32(vi_from_s8(zeros + at), vi_set32(offset)), vi_set32(-sum));
  return vi_set32(-(offset + symmetric) * sum);
}

#if !defined(AGQ_MADDUBS)
/* The high nibble stays where it is, 16 times its value, in an accumulator of its own: one shift per block instead of
 * one per vector. */
INLINE void dot_u4(const uint8_t *const *w, size_t at, const int8_t *a, int units, vi *c, const int P, int kind) {
  (void)kind;
  const vi low = vi_set8(15), high = vi_set8(-16);
  vi hi[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) hi[i] = vi_zero();
  for (int k = 0; k < units; k++) {
    const vi x0 = vi_broadcast4(a + 8 * k), x1 = vi_broadcast4(a + 8 * k + 4);
#pragma GCC unroll 4
    for (int i = 0; i < P * AGQ_NV; i++) {
      const vi v = vi_load(w[i / AGQ_NV] + at + 64 * (size_t)k + i % AGQ_NV * AGQ_VB);
      c[i] = vi_dot(c[i], vi_and(v, low), x0);
      hi[i] = vi_dot(hi[i], vi_and(v, high), x1);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < P * AGQ_NV; i++) c[i] = vi_add32(c[i], vi_shr4(hi[i]));
}

INLINE void dot_i8(const uint8_t *const *w, size_t at, const int8_t *a, int units, vi *c, const int P, int kind) {
  (void)kind;
  const vi flip = vi_set8(-128);
  vi odd[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) odd[i] = vi_zero();
  for (int k = 0; k < units; k += 2) {
    const vi x0 = vi_broadcast4(a + 4 * k), x1 = vi_broadcast4(a + 4 * k + 4);
#pragma GCC unroll 4
    for (int i = 0; i < P * AGQ_NV; i++) {
      const uint8_t *p = w[i / AGQ_NV] + at + 64 * (size_t)k + i % AGQ_NV * AGQ_VB;
      c[i] = vi_dot(c[i], vi_xor(vi_load(p), flip), x0);
      odd[i] = vi_dot(odd[i], vi_xor(vi_load(p + 64), flip), x1);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < P * AGQ_NV; i++) c[i] = vi_add32(c[i], odd[i]);
}
#define I8A8_OFFSET 128

#else
/* 4-bit activations: the high nibble is not shifted down but multiplied in place, 16 times its value: 2*240*15*4 =
 * 28800 fits int16 for 4 units of 8 columns; then the sum is shifted, exactly, and added to that of the low nibbles,
 * together 2*2*15*15*32 = 28800 for 32 units. One shift in four units instead of one per unit, as with 8-bit
 * activations. */
INLINE void dot_u4a4(const uint8_t *const *w, size_t at, const int8_t *a, int units, vi *c, const int P) {
  const vi low = vi_set8(15), high = vi_set8(-16), one = vi_set16(1);
  for (int k = 0; k < units; k += 32) {
    const int last = units - k < 32 ? units : k + 32;
    vi s[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) s[i] = vi_zero();
    for (int g = k; g < last; g += 4) {
      vi h[4];
#pragma GCC unroll 4
      for (int j = g; j < g + 4; j++) {
        const vi x0 = vi_broadcast4(a + 8 * j), x1 = vi_broadcast4(a + 8 * j + 4);
#pragma GCC unroll 4
        for (int i = 0; i < P * AGQ_NV; i++) {
          const vi v = vi_load(w[i / AGQ_NV] + at + 64 * (size_t)j + i % AGQ_NV * AGQ_VB);
          ACCUMULATE16(s[i], vi_maddubs(vi_and(v, low), x0));
          if (j == g) h[i] = vi_maddubs(vi_and(v, high), x1);
          else ACCUMULATE16(h[i], vi_maddubs(vi_and(v, high), x1));
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < P * AGQ_NV; i++) ACCUMULATE16(s[i], vi_sra16_4(h[i]));
    }
#pragma GCC unroll 4
    for (int i = 0; i < P * AGQ_NV; i++) c[i] = vi_add32(c[i], vi_madd16(s[i], one));
  }
}

INLINE void dot_u4(const uint8_t *const *w, size_t at, const int8_t *a, int units, vi *c, const int P, int kind) {
  if (kind == AGQ_U4A4) {
    dot_u4a4(w, at, a, units, c, P);
    return;
  }
  const vi m15 = vi_set8(15), one = vi_set16(1);
  for (int k = 0; k < units; k += 4) { /* 32 columns */
    vi s[4];
#pragma GCC unroll 4
    for (int j = k; j < k + 4; j++) {
      const vi x0 = vi_broadcast4(a + 8 * j), x1 = vi_broadcast4(a + 8 * j + 4);
#pragma GCC unroll 4
      for (int i = 0; i < P * AGQ_NV; i++) {
        const vi v = vi_load(w[i / AGQ_NV] + at + 64 * (size_t)j + i % AGQ_NV * AGQ_VB);
        if (j == k) s[i] = vi_maddubs(vi_and(v, m15), x0);
        else ACCUMULATE16(s[i], vi_maddubs(vi_and(v, m15), x0));
        ACCUMULATE16(s[i], vi_maddubs(vi_high_nibble(v, m15), x1));
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < P * AGQ_NV; i++) c[i] = vi_add32(c[i], vi_madd16(s[i], one));
  }
}

INLINE void dot_i8(const uint8_t *const *w, size_t at, const int8_t *a, int units, vi *c, const int P, int kind) {
  const vi flip = vi_set8(-128), one = vi_set16(1);
  const int depth = kind == AGQ_I8A4 ? 4 : 1; /* units of 4 columns */
  for (int k = 0; k < units; k += depth) {
    vi s[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) s[i] = vi_zero();
#pragma GCC unroll 4
    for (int j = k; j < k + depth; j++) {
      const vi x = vi_broadcast4(a + 4 * j);
#pragma GCC unroll 4
      for (int i = 0; i < P * AGQ_NV; i++) {
        const vi v = vi_load(w[i / AGQ_NV] + at + 64 * (size_t)j + i % AGQ_NV * AGQ_VB);
        if (kind == AGQ_I8A8) s[i] = vi_maddubs(vi_abs8(v), vi_sign8(x, v));
        else if (kind == AGQ_I8A8_LOWEST) s[i] = vi_maddubs(vi_abs8(x), vi_sign8(v, x)); /* -128 has no -x */
        else s[i] = vi_add16(s[i], vi_maddubs(vi_xor(v, flip), x));
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < P * AGQ_NV; i++) c[i] = vi_add32(c[i], vi_madd16(s[i], one));
  }
}
#define I8A8_OFFSET 0
#endif

/* Weights come from memory, a piece of one block from each of several panels at a time, too short for the hardware to
 * run ahead: the pieces are asked for early. */
#define AHEAD_BYTES 2048
#define MOST_BYTES 2048 /* of a piece: longer ones need no help */

/* P panels, all columns. */
INLINE void panels_m1(const agq_tile *t, int panel, const int P, const int kind) {
  const int u4 = AGQ_KIND_U4(kind), symmetric = t->symmetric;
  const int offset = u4 ? 0 : kind == AGQ_I8A4 ? 128 : I8A8_OFFSET;
  const int units = t->block / AGQ_OF_KIND(u4, agq_format_unit);
  const size_t block_bytes = (size_t)units * 64;
  const uint8_t *w[4];
  for (int p = 0; p < P; p++) w[p] = t->w + (panel + p) * t->w_stride;
  const char *scales = (const char *)t->scale + panel * t->scale_stride;
  const int8_t *zeros = t->zero ? t->zero + panel * t->zero_stride : 0;
  const int tokens_first = agq_tokens_first(t);
  vf f[4], g[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) f[i] = g[i] = vf_zero();
  const float *a_scale = t->a_scale;
  int group_left = t->group_blocks, act_left = t->act_blocks, row0 = 0;
  for (int b = 0; b < t->blocks; b++) {
    const int sum = t->sums[b];
    vi c[4];
#pragma GCC unroll 4
    for (int i = 0; i < P * AGQ_NV; i++)
      c[i] = start(zeros ? zeros + i / AGQ_NV * t->zero_stride : 0, row0 + i % AGQ_NV * AGQ_VL, offset, symmetric, sum);
    const int8_t *a = t->a + (size_t)b * t->block;
    if (P > 2 && block_bytes <= MOST_BYTES)
      for (int p = 0; p < P; p++)
        for (size_t i = 0; i < block_bytes; i += 64) __builtin_prefetch(w[p] + b * block_bytes + AHEAD_BYTES + i);
    if (u4) dot_u4(w, b * block_bytes, a, units, c, P, kind);
    else dot_i8(w, b * block_bytes, a, units, c, P, kind);
    const vf as = vf_set(*a_scale);
#define SCALE(i) \
  vf_load_scale(scales + (i) / AGQ_NV * t->scale_stride, (size_t)(row0 + (i) % AGQ_NV * AGQ_VL), t->scale_type)
    if (tokens_first)
#pragma GCC unroll 4
      for (int i = 0; i < P * AGQ_NV; i++) g[i] = vf_madd(vf_from_int(c[i]), as, g[i]);
    else
#pragma GCC unroll 4
      for (int i = 0; i < P * AGQ_NV; i++) g[i] = vf_madd(vf_from_int(c[i]), SCALE(i), g[i]);
    if ((tokens_first ? group_left : act_left) == 1) { /* the last block that shares the outer scale */
#pragma GCC unroll 4
      for (int i = 0; i < P * AGQ_NV; i++) {
        f[i] = vf_madd(g[i], tokens_first ? SCALE(i) : as, f[i]);
        g[i] = vf_zero();
      }
    }
#undef SCALE
    if (--group_left == 0) group_left = t->group_blocks, row0 += AGQ_PANEL;
    if (--act_left == 0) act_left = t->act_blocks, a_scale++;
  }
#pragma GCC unroll 4
  for (int i = 0; i < P * AGQ_NV; i++) {
    const int row = panel * AGQ_PANEL + i * AGQ_VL, rows = t->rows - row;
    if (rows <= 0) break;
    vf v = t->act_blocks ? f[i] : vf_mul(g[i], vf_set(t->a_scale[0]));
    if (t->bias) v = vf_add(v, vf_load_rows(t->bias + row, rows));
    vf_store_rows(t->y + row, v, rows);
  }
}

/* Four vectors of rows side by side. */
#define PANELS (4 / AGQ_NV)

#define M1(name, kind)                                                          \
  void name(const agq_tile *t) {                                                \
    int p = 0;                                                                  \
    for (; p + PANELS <= t->panels; p += PANELS) panels_m1(t, p, PANELS, kind); \
    if (PANELS > 1)                                                             \
      for (; p < t->panels; p++) panels_m1(t, p, 1, kind);                      \
  }
/* clang-format off */
M1(agq_x86_m1_u4a8, AGQ_U4A8)
static M1(m1_u4a4, AGQ_U4A4)
void agq_x86_m1_u4a4(const agq_tile *t) { (t->block > 32 ? m1_u4a4 : agq_x86_m1_u4a8)(t); } /* see agq_x86_tile_u4a4 */
M1(agq_x86_m1_i8a4, AGQ_I8A4)
#if defined(AGQ_MADDUBS)
static M1(m1_i8a8, AGQ_I8A8)
static M1(m1_i8a8_lowest, AGQ_I8A8_LOWEST)
void agq_x86_m1_i8a8(const agq_tile *t) { (t->lowest ? m1_i8a8_lowest : m1_i8a8)(t); }
#else
M1(agq_x86_m1_i8a8, AGQ_I8A8)
#endif
/* clang-format on */
#endif
