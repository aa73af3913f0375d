/* arm_dot_short.c: SDOT micro-kernel for blocks of 32 and 64 columns, 4-bit weights, 8 or 16 tokens.
 *
 * arm_dot.c reads and writes the float sums once a block. Where a block is 8 or 16 SDOTs an accumulator, that is a fifth of all
 * instructions. Here a tile is 4 rows x 8 tokens, so that its float sums stay in registers over CHUNK blocks: 8 + 8 accumulators.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(AGQ_ISA_DOTPROD) || defined(AGQ_ISA_I8MM)

#include "arm_common.h"
#include "arm_kernels.h"

/* Blocks that are prepared together; their codes stay in L1 over the tiles of a panel (16 x 64 x (8 + 16) bytes). */
#define CHUNK 16
#define TILE 8   /* tokens */
#define WIDEST 16 /* tokens of a call */

typedef struct {
  const uint8_t *w;
  const int8_t *a;
  int count, zeros, scaled;        /* blocks; with zero points; with activation scales of blocks */
  float32x4_t ws[CHUNK][4];        /* scales of the 16 rows */
  int32x4_t zc[CHUNK][4];          /* -zero points */
  int32x4_t sums[CHUNK][WIDEST / 4]; /* of the codes of a token; without zero points: where its accumulators start */
  float32x4_t as[CHUNK][WIDEST / 4];
} chunk;

AGQ_INLINE void spread(int32x4_t *c, int32x4_t s) {
  c[0] = vdupq_laneq_s32(s, 0);
  c[1] = vdupq_laneq_s32(s, 1);
  c[2] = vdupq_laneq_s32(s, 2);
  c[3] = vdupq_laneq_s32(s, 3);
}

AGQ_INLINE void start4(const chunk *k, int b, int v, int32x4_t *c, int32x4_t s) {
  if (k->zeros) {
    const int32x4_t magic = vdupq_n_s32(AGQ_MAGIC_BITS), z = k->zc[b][v];
    c[0] = vmlaq_laneq_s32(magic, z, s, 0);
    c[1] = vmlaq_laneq_s32(magic, z, s, 1);
    c[2] = vmlaq_laneq_s32(magic, z, s, 2);
    c[3] = vmlaq_laneq_s32(magic, z, s, 3);
  } else {
    spread(c, s);
  }
}

AGQ_INLINE void scale4(const chunk *k, int b, int v, int q, float32x4_t *f, const int32x4_t *c) {
  const float32x4_t ws = k->ws[b][v];
  if (k->scaled) {
    const float32x4_t as = k->as[b][q];
    f[0] = vfmaq_f32(f[0], agq_to_float(c[0], 1), vmulq_laneq_f32(ws, as, 0));
    f[1] = vfmaq_f32(f[1], agq_to_float(c[1], 1), vmulq_laneq_f32(ws, as, 1));
    f[2] = vfmaq_f32(f[2], agq_to_float(c[2], 1), vmulq_laneq_f32(ws, as, 2));
    f[3] = vfmaq_f32(f[3], agq_to_float(c[3], 1), vmulq_laneq_f32(ws, as, 3));
  } else {
    AGQ_UNROLL for (int n = 0; n < 4; n++) f[n] = vfmaq_f32(f[n], agq_to_float(c[n], 1), ws);
  }
}

/* Rows 4v .. 4v+3, tokens tok .. tok+7. */
AGQ_INLINE void tile(const chunk *k, float (*out)[AGQ_PANEL], int v, int tok, const int WIDTH, const int BLOCK) {
  uint8x16_t mask = vdupq_n_u8(15);
  AGQ_KEEP(mask);
  const uint8_t *w = k->w + 16 * v;
  const int8_t *a = k->a + 4 * tok;
  const int q = tok / 4;
  float32x4_t f[TILE];
  AGQ_UNROLL for (int n = 0; n < TILE; n++) f[n] = vld1q_f32(out[tok + n] + 4 * v);
  for (int b = 0; b < k->count; b++) {
    int32x4_t c[TILE];
    start4(k, b, v, c, k->sums[b][q]);
    start4(k, b, v, c + 4, k->sums[b][q + 1]);
    AGQ_UNROLL for (int i = 0; i < BLOCK / 8; i++) {
      const uint8x16_t u = vld1q_u8(w + 64 * i);
      const int8x16_t lo = vreinterpretq_s8_u8(vandq_u8(u, mask)), hi = vreinterpretq_s8_u8(vshrq_n_u8(u, 4));
      const int8_t *x = a + 8 * WIDTH * i, *z = x + 4 * WIDTH;
      agq_dot4(c, 1, lo, vld1q_s8(x));
      agq_dot4(c + 4, 1, lo, vld1q_s8(x + 16));
      agq_dot4(c, 1, hi, vld1q_s8(z));
      agq_dot4(c + 4, 1, hi, vld1q_s8(z + 16));
    }
    w += 8 * BLOCK;
    a += BLOCK * WIDTH;
    scale4(k, b, v, q, f, c);
    scale4(k, b, v, q + 1, f + 4, c + 4);
  }
  AGQ_UNROLL for (int n = 0; n < TILE; n++) vst1q_f32(out[tok + n] + 4 * v, f[n]);
}

#define TILES(NAME, WIDTH, BLOCK)                                        \
  AGQ_NOINLINE void NAME(const chunk *k, float (*f)[AGQ_PANEL]) {        \
    for (int v = 0; v < 4; v++)                                          \
      for (int n = 0; n < (WIDTH); n += TILE) tile(k, f, v, n, WIDTH, BLOCK); \
  }
TILES(tiles16_32, 16, 32)
TILES(tiles16_64, 16, 64)
TILES(tiles8_32, 8, 32)
TILES(tiles8_64, 8, 64)

/* Block `from` of panel p and those behind it. */
AGQ_INLINE void prepare(chunk *k, const agq_tile *t, int p, int from) {
  const char *scale = (const char *)t->scale + (size_t)p * t->scale_stride;
  k->count = t->blocks - from < CHUNK ? t->blocks - from : CHUNK;
  k->w = t->w + (size_t)p * t->w_stride + (size_t)from * (size_t)t->block * 8;
  k->a = t->a + (size_t)from * (size_t)t->block * (size_t)t->width;
  for (int b = 0; b < k->count; b++) {
    const int g = (from + b) / t->group_blocks;
    const int32_t *sums = t->sums + (size_t)(from + b) * (size_t)t->width;
    AGQ_UNROLL for (int v = 0; v < 4; v++) k->ws[b][v] = agq_load_scale4(scale, (size_t)g * AGQ_PANEL + 4 * (size_t)v, t->scale_bf16);
    if (k->zeros) agq_arm_zero(t->zero + (size_t)p * t->zero_stride + (size_t)g * AGQ_PANEL, 0, k->zc[b]);
    for (int q = 0; q < t->width / 4; q++) {
      const int32x4_t s = vld1q_s32(sums + 4 * q);
      k->sums[b][q] = k->zeros ? s : vmlsq_n_s32(vdupq_n_s32(AGQ_MAGIC_BITS), s, 8);
    }
    if (k->scaled && b > 0 && (from + b) % t->act_blocks) {
      memcpy(k->as[b], k->as[b - 1], sizeof k->as[b]);
    } else if (k->scaled) {
      float as[WIDEST];
      const float *scales = t->a_scale + (from + b) / t->act_blocks;
      for (int n = 0; n < t->width; n++) as[n] = scales[(size_t)n * (size_t)t->a_scale_stride];
      for (int q = 0; q < t->width / 4; q++) k->as[b][q] = vld1q_f32(as + 4 * q);
    }
  }
}

int agq_dot_short(const agq_tile *t) { return (t->block == 32 || t->block == 64) && (t->width == 8 || t->width == 16); }

void agq_dot_u4_short(const agq_tile *t) {
  void (*const tiles)(const chunk *, float (*)[AGQ_PANEL]) =
      t->width == 16 ? (t->block == 32 ? tiles16_32 : tiles16_64) : (t->block == 32 ? tiles8_32 : tiles8_64);
  chunk k;
  k.zeros = t->zero != NULL;
  k.scaled = t->act_blocks != 0;
  for (int p = 0; p < t->panels; p++) {
    float f[WIDEST][AGQ_PANEL];
    for (int n = 0; n < t->width; n++)
      for (int v = 0; v < 4; v++) vst1q_f32(f[n] + 4 * v, vdupq_n_f32(0));
    for (int from = 0; from < t->blocks; from += CHUNK) {
      prepare(&k, t, p, from);
      tiles(&k, f);
    }
    agq_arm_store(t, p, f);
  }
}

#endif
