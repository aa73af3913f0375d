/* m1.h: what the Arm kernels for one token share: the sums of a panel's 16 rows stay in registers from its first block to
 * its last.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_ARM_M1_H
#define AGQ_ARM_M1_H

#include "common.h"

/* Where one panel stands, and its sums. */
typedef struct {
  const agq_tile *t;
  const uint8_t *w;
  const int8_t *a;
  const void *scale;   /* of the group */
  const int8_t *zero;  /* of the group, or NULL */
  const int32_t *sums; /* of the block */
  const float *as;     /* activation scale of the block */
  int panel, group_left, act_left, tokens_first;
  float32x4_t f[4], g[4]; /* sums, and those inside an outer scale (gemm.h); without one, f only */
} agq_arm_m1;

/* How much of a one-token call is known before its loops. Blocks of 32 columns are many: what they need not ask, they
 * do not. */
typedef enum {
  AGQ_M1_ANY,
  AGQ_M1_TOKEN, /* bf16 scales, one group a block, the format's symmetric zero point, at most AGQ_MAGIC_BLOCK columns a block; one activation
                 * scale */
  AGQ_M1_PAIR,  /* the same with an activation scale for each block */
  AGQ_M1_BLOCK, /* the same with an activation scale for several blocks */
} agq_m1_case;

AGQ_INLINE agq_m1_case agq_arm_m1_case(const agq_tile *t) {
  if (t->scale_type != AGQ_BF16 || t->zero || t->symmetric != t->format->symmetric_zero || t->group_blocks != 1 ||
      t->block > AGQ_MAGIC_BLOCK)
    return AGQ_M1_ANY;
  return t->act_blocks > 1 ? AGQ_M1_BLOCK : t->act_blocks ? AGQ_M1_PAIR : AGQ_M1_TOKEN;
}

/* Defines `static void NAME(const agq_tile *t)`: BODY(t, case), each case compiled by itself. */
#define AGQ_ARM_M1(NAME, BODY)                                                 \
  AGQ_NOINLINE void NAME##_any(const agq_tile *t) { BODY(t, AGQ_M1_ANY); }     \
  AGQ_NOINLINE void NAME##_token(const agq_tile *t) { BODY(t, AGQ_M1_TOKEN); } \
  AGQ_NOINLINE void NAME##_pair(const agq_tile *t) { BODY(t, AGQ_M1_PAIR); }   \
  AGQ_NOINLINE void NAME##_block(const agq_tile *t) { BODY(t, AGQ_M1_BLOCK); } \
  static void NAME(const agq_tile *t) {                                        \
    switch (agq_arm_m1_case(t)) {                                              \
      case AGQ_M1_TOKEN: NAME##_token(t); break;                               \
      case AGQ_M1_PAIR: NAME##_pair(t); break;                                 \
      case AGQ_M1_BLOCK: NAME##_block(t); break;                               \
      default: NAME##_any(t);                                                  \
    }                                                                          \
  }

AGQ_INLINE void agq_arm_m1_begin(agq_arm_m1 *m, const agq_tile *t, int panel) {
  m->t = t;
  m->w = t->w + (size_t)panel * t->w_stride;
  m->a = t->a;
  m->scale = (const char *)t->scale + (size_t)panel * t->scale_stride;
  m->zero = t->zero ? t->zero + (size_t)panel * t->zero_stride : NULL;
  m->sums = t->sums;
  m->as = t->a_scale;
  m->panel = panel;
  m->group_left = t->group_blocks;
  m->act_left = t->act_blocks;
  m->tokens_first = agq_tokens_first(t);
  AGQ_UNROLL_FOR (int v = 0; v < 4; v++) m->f[v] = m->g[v] = vdupq_n_f32(0);
}

/* Sixteen bf16 scales. */
AGQ_INLINE void agq_bf16_scales(const void *scale, float32x4_t *s) {
  const uint16x8_t low = vld1q_u16(scale), high = vld1q_u16((const uint16_t *)scale + 8);
  s[0] = vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(low), 16));
  s[1] = vreinterpretq_f32_u32(vshll_high_n_u16(low, 16));
  s[2] = vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(high), 16));
  s[3] = vreinterpretq_f32_u32(vshll_high_n_u16(high, 16));
}

/* Takes acc + (offset - zero) * sum of a block into the sums, then on to the next one. offset: what acc has already off
 * each code; without zero points acc is complete. magic: where acc started, as the bits of a float (agq_to_float);
 * NULL: at 0. */
AGQ_INLINE void agq_arm_m1_block(agq_arm_m1 *m, int32x4_t *acc, const int offset, const float32x4_t *magic,
                                 const agq_m1_case which) {
  const agq_tile *t = m->t;
  const int any = which == AGQ_M1_ANY, bf16 = !any || t->scale_type == AGQ_BF16,
            scaled = any ? t->act_blocks != 0 : which != AGQ_M1_TOKEN;
  float32x4_t s[4];
  if (any && m->zero) {
    int32x4_t zc[4];
    agq_arm_zero(m->zero, offset, zc);
    AGQ_UNROLL_FOR (int v = 0; v < 4; v++) acc[v] = vmlaq_n_s32(acc[v], zc[v], *m->sums);
  }
  if (bf16) agq_bf16_scales(m->scale, s);
  else
    AGQ_UNROLL_FOR (int v = 0; v < 4; v++) s[v] = agq_load_scale4(m->scale, 4 * (size_t)v, t->scale_type);
  const float *as = m->as;
  __asm__("" : "+r"(as)); /* load it here: kept in a register over the next block, it would crowd the loop */
  float32x4_t x[4];
  AGQ_UNROLL_FOR (int v = 0; v < 4; v++)
    x[v] = magic ? vsubq_f32(vreinterpretq_f32_s32(acc[v]), *magic) : vcvtq_f32_s32(acc[v]);
  if (!scaled) {
    AGQ_UNROLL_FOR (int v = 0; v < 4; v++) m->f[v] = vfmaq_f32(m->f[v], x[v], s[v]);
  } else if (any && m->tokens_first) {
    AGQ_UNROLL_FOR (int v = 0; v < 4; v++) m->g[v] = vfmaq_n_f32(m->g[v], x[v], *as);
    if (m->group_left == 1)
      AGQ_UNROLL_FOR (int v = 0; v < 4; v++) m->f[v] = vfmaq_f32(m->f[v], m->g[v], s[v]), m->g[v] = vdupq_n_f32(0);
  } else if (which == AGQ_M1_PAIR) {
    AGQ_UNROLL_FOR (int v = 0; v < 4; v++) m->f[v] = vfmaq_n_f32(m->f[v], vmulq_f32(x[v], s[v]), *as);
  } else {
    AGQ_UNROLL_FOR (int v = 0; v < 4; v++) m->g[v] = vfmaq_f32(m->g[v], x[v], s[v]);
    if (m->act_left == 1)
      AGQ_UNROLL_FOR (int v = 0; v < 4; v++) m->f[v] = vfmaq_n_f32(m->f[v], m->g[v], *as), m->g[v] = vdupq_n_f32(0);
  }
  m->sums++;
  if (!any || --m->group_left == 0) {
    m->scale = (const char *)m->scale + AGQ_PANEL * (bf16 || t->scale_type == AGQ_F16 ? 2 : 4);
    if (any && m->zero) m->zero += AGQ_PANEL;
    m->group_left = t->group_blocks;
  }
  if (scaled && (which == AGQ_M1_PAIR || --m->act_left == 0)) {
    m->as++;
    m->act_left = t->act_blocks;
  }
}

AGQ_INLINE void agq_arm_m1_end(agq_arm_m1 *m) {
  float f[1][AGQ_PANEL];
  AGQ_UNROLL_FOR (int v = 0; v < 4; v++) vst1q_f32(f[0] + 4 * v, m->f[v]);
  agq_arm_store(m->t, m->panel, f);
}

#endif
