/* tile.h: register tiles: the products of a few vectors of weight rows and up to AGQ_TILE_TOKENS tokens over one chunk of
 * unpacked columns. tile.c, which alone includes it, says what is unpacked and in which order.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_X86_TILE_H
#define AGQ_X86_TILE_H

#include "kernels.h"
#include "vec.h"

/* Weight panels of a group, which are multiplied together. */
#if AGQ_VB == 64
#define MAX_PANELS 4
#elif defined(AGQ_HAS_DPBUSD)
#define MAX_PANELS 2
#else
#define MAX_PANELS 1
#endif
#define MAX_RV (MAX_PANELS * AGQ_NV)

/* What a block brings: vectors of the panel group, numbers of the token panel. */
typedef struct {
  vf scale[MAX_RV];         /* where the block needs it: not inside an outer scale of the rows */
  vi zero[MAX_RV];          /* factors of the sums, if rows have zero points */
  int32_t init[AGQ_X86_MR]; /* start of the accumulators, or the token's sum if rows have zero points */
  const float *a_scale;     /* of token 0, if blocks have their own */
  int opens, closes;        /* first and last of the blocks that share the outer scale (gemm.h) */
} block;

/* One register tile over one chunk, which is several whole blocks or a piece of one. */
typedef struct {
  const block *block;
  int blocks, steps;   /* steps of each: 4 columns */
  const uint8_t *u;    /* [blocks * steps][vectors] vectors */
  const int8_t *a;     /* [blocks * steps] of a_stride bytes: 4 codes of each token */
  int a_stride, token; /* token: the tile's first one in the token panel */
  vi *acc;             /* [W][vectors], kept between chunks of a block */
  vf *f, *g;           /* [W][vectors]: sums, and those inside an outer scale */
  int zeros, tokens_first, a_scale_stride;
  int first, last; /* the chunk begins, ends its block(s) */
} tile_args;

typedef void (*tile_fn)(const tile_args *);

/* Vectors of the panel group. With vpdpbusd a tile takes all of them, without it a group is one panel. */
#if defined(AGQ_MADDUBS)
#define VECTORS(R) AGQ_NV
#else
#define VECTORS(R) (R)
#endif

/* Accumulators c[vector][token] of a tile at the start of a block. W, R: constants at every call. */
INLINE void begin(const tile_args *s, const block *b, const int W, const int R, int first, vi c[][AGQ_TILE_TOKENS]) {
  AGQ_HERE(s);
  const int vectors = VECTORS(R);
  const int32_t *init = b->init + s->token;
  if (!s->first) {
#pragma GCC unroll 16
    for (int t = 0; t < W; t++)
#pragma GCC unroll 4
      for (int i = 0; i < R; i++) c[i][t] = s->acc[t * vectors + first + i];
  } else if (s->zeros) {
#pragma GCC unroll 16
    for (int t = 0; t < W; t++)
#pragma GCC unroll 4
      for (int i = 0; i < R; i++) c[i][t] = vi_mul32(b->zero[first + i], vi_set32(init[t]));
  } else {
#pragma GCC unroll 16
    for (int t = 0; t < W; t++)
#pragma GCC unroll 4
      for (int i = 0; i < R; i++) c[i][t] = vi_set32(init[t]);
  }
}

/* The end of a block: its sums into g, and at the end of an outer scale into f. */
INLINE void end(const tile_args *s, const block *b, const int W, const int R, int first, vi c[][AGQ_TILE_TOKENS]) {
  AGQ_HERE(s);
  const int vectors = VECTORS(R);
  if (!s->last) {
#pragma GCC unroll 16
    for (int t = 0; t < W; t++)
#pragma GCC unroll 4
      for (int i = 0; i < R; i++) s->acc[t * vectors + first + i] = c[i][t];
    return;
  }
  vf *f = s->f + first, *g = s->g + first, x[4][AGQ_TILE_TOKENS];
  const vf *scale = b->scale + first;
  const ptrdiff_t stride = s->a_scale_stride;
  const float *a_scale = b->a_scale + s->token * stride, *as = a_scale;
#define EACH(V)                                                      \
  _Pragma("GCC unroll 16") for (int t = 0; t < W; t++, as += stride) \
      _Pragma("GCC unroll 4") for (int i = 0; i < R; i++) x[i][t] = V
  if (s->tokens_first) {
    if (b->opens) EACH(vf_mul(vf_from_int(c[i][t]), vf_set(*as)));
    else EACH(vf_madd(vf_from_int(c[i][t]), vf_set(*as), g[t * vectors + i]));
  } else {
    if (b->opens) EACH(vf_mul(vf_from_int(c[i][t]), scale[i]));
    else EACH(vf_madd(vf_from_int(c[i][t]), scale[i], g[t * vectors + i]));
  }
#undef EACH
  if (!b->closes) {
#pragma GCC unroll 16
    for (int t = 0; t < W; t++)
#pragma GCC unroll 4
      for (int i = 0; i < R; i++) g[t * vectors + i] = x[i][t];
  } else if (s->tokens_first) {
#pragma GCC unroll 16
    for (int t = 0; t < W; t++)
#pragma GCC unroll 4
      for (int i = 0; i < R; i++) f[t * vectors + i] = vf_madd(x[i][t], scale[i], f[t * vectors + i]);
  } else {
#pragma GCC unroll 16
    for (int t = 0; t < W; t++, a_scale += stride)
#pragma GCC unroll 4
      for (int i = 0; i < R; i++) f[t * vectors + i] = vf_madd(x[i][t], vf_set(*a_scale), f[t * vectors + i]);
  }
}

#if !defined(AGQ_MADDUBS)
INLINE void tile(const int RV, const int W, const tile_args *s) {
  const uint8_t *u = s->u;
  const int8_t *a = s->a;
  const int a_stride = s->a_stride;
  for (const block *b = s->block, *stop = b + s->blocks; b != stop; b++) {
    vi c[4][AGQ_TILE_TOKENS];
    begin(s, b, W, RV, 0, c);
    for (int k = s->steps; k > 0; k--) {
      vi v[4];
#pragma GCC unroll 4
      for (int i = 0; i < RV; i++) v[i] = vi_load(u + i * AGQ_VB);
#pragma GCC unroll 16
      for (int t = 0; t < W; t++) {
        const vi x = vi_broadcast4(a + 4 * t);
#pragma GCC unroll 4
        for (int i = 0; i < RV; i++) c[i][t] = vi_dot(c[i][t], v[i], x);
      }
      u += RV * AGQ_VB;
      a += a_stride;
    }
    end(s, b, W, RV, 0, c);
  }
}
#define KINDS 1

#else
/* `depth` steps are accumulated in int16 lanes before they are widened: the most whose sums surely fit (a lane takes
 * two products a step). u4 x s8: 2*15*127*8 = 30480; u4 x s4: 2*15*15*64 = 28800; u8 x s4: 2*255*15*4 = 30600. s8 x s8
 * is widened at once: |w| x sign(a, w), 2*128*127 = 32512; with codes of -128, which have no negative, |a| x sign(w,
 * a). The int32 accumulators lie in memory where int16 ones need the registers. */
enum { RV = 2 };
INLINE void block_products(const int kind, const int W, const tile_args *s, const uint8_t *u, const int8_t *a,
                           vi wide[][AGQ_TILE_TOKENS]) {
  const int depth = kind == AGQ_U4A8 ? 8 : kind == AGQ_U4A4 ? 64 : kind == AGQ_I8A4 ? 4 : 1;
  const int lowest = kind == AGQ_I8A8_LOWEST;
  const vi one = vi_set16(1);
  const int a_stride = s->a_stride;
  if (kind == AGQ_I8A8 || lowest) {
#pragma GCC unroll 1
    for (int k = s->steps; k > 0; k--) {
      const vi v0 = vi_load(u), v1 = vi_load(u + AGQ_VB), m0 = vi_abs8(v0), m1 = vi_abs8(v1);
#pragma GCC unroll 8
      for (int t = 0; t < W; t++) {
        const vi x = vi_broadcast4(a + 4 * t);
        const vi p0 = lowest ? vi_maddubs(vi_abs8(x), vi_sign8(v0, x)) : vi_maddubs(m0, vi_sign8(x, v0));
        const vi p1 = lowest ? vi_maddubs(vi_abs8(x), vi_sign8(v1, x)) : vi_maddubs(m1, vi_sign8(x, v1));
        ACCUMULATE32(wide[0][t], vi_madd16(p0, one));
        ACCUMULATE32(wide[1][t], vi_madd16(p1, one));
      }
      u += 64;
      a += a_stride;
    }
  } else {
#pragma GCC unroll 1
    for (int k = 0; k < s->steps; k += depth) {
      const int n = depth <= 8 ? depth : s->steps - k < depth ? s->steps - k : depth;
      vi c[RV][AGQ_TILE_TOKENS];
#pragma GCC unroll 8
      for (int t = 0; t < W; t++) c[0][t] = c[1][t] = vi_zero();
#pragma GCC unroll 1
      for (int j = 0; j < n; j++) {
        const vi v0 = vi_load(u), v1 = vi_load(u + AGQ_VB);
#pragma GCC unroll 8
        for (int t = 0; t < W; t++) {
          const vi x = vi_broadcast4(a + 4 * t);
          ACCUMULATE16(c[0][t], vi_maddubs(v0, x));
          ACCUMULATE16(c[1][t], vi_maddubs(v1, x));
        }
        u += 64;
        a += a_stride;
      }
#pragma GCC unroll 8
      for (int t = 0; t < W; t++)
        for (int i = 0; i < RV; i++) wide[i][t] = vi_add32(wide[i][t], vi_madd16(c[i][t], one));
    }
  }
}

INLINE void tile(const int kind, const int W, const tile_args *s) {
  for (int h = 0; h < AGQ_NV; h += RV)
    for (int b = 0; b < s->blocks; b++) {
      const int step = b * s->steps;
      vi wide[RV][AGQ_TILE_TOKENS];
      begin(s, s->block + b, W, RV, h, wide);
      block_products(kind, W, s, s->u + step * 64 + h * AGQ_VB, s->a + step * s->a_stride, wide);
      end(s, s->block + b, W, RV, h, wide);
    }
}
#define KINDS 5
#endif

/* One function per width, so that the accumulators are registers. */
#if defined(AGQ_MADDUBS)
/* clang-format off */
#define TILE(k, w) static void tile_##k##_##w(const tile_args *s) { tile(k, w, s); }
#define TILES(k) TILE(k, 1) TILE(k, 2) TILE(k, 3) TILE(k, 4) TILE(k, 5)
TILES(AGQ_U4A8) TILES(AGQ_U4A4) TILES(AGQ_I8A8) TILES(AGQ_I8A4) TILES(AGQ_I8A8_LOWEST)
#define ROW(k) {0, tile_##k##_1, tile_##k##_2, tile_##k##_3, tile_##k##_4, tile_##k##_5}
static const tile_fn tiles[KINDS][AGQ_TILE_TOKENS + 1] = {ROW(AGQ_U4A8), ROW(AGQ_U4A4), ROW(AGQ_I8A8), ROW(AGQ_I8A4),
                                                         ROW(AGQ_I8A8_LOWEST)};
#else
#define TILE(rv, w) static void tile_##rv##_##w(const tile_args *s) { tile(rv, w, s); }
#define TILES6(rv) TILE(rv, 1) TILE(rv, 2) TILE(rv, 3) TILE(rv, 4) TILE(rv, 5) TILE(rv, 6)
#if AGQ_VB == 64
#define TILES12(rv) TILES6(rv) TILE(rv, 7) TILE(rv, 8) TILE(rv, 9) TILE(rv, 10) TILE(rv, 11) TILE(rv, 12)
TILES12(1) TILES12(2) TILES6(4)
#define ROW(rv) {0, tile_##rv##_1, tile_##rv##_2, tile_##rv##_3, tile_##rv##_4, tile_##rv##_5, tile_##rv##_6, \
                 tile_##rv##_7, tile_##rv##_8, tile_##rv##_9, tile_##rv##_10, tile_##rv##_11, tile_##rv##_12}
static const tile_fn tiles[5][AGQ_TILE_TOKENS + 1] = {
    [1] = ROW(1), [2] = ROW(2), [4] = {0, tile_4_1, tile_4_2, tile_4_3, tile_4_4, tile_4_5, tile_4_6}};
#define WIDE_TOKENS 6 /* up to this width four panels fit the registers */
#else
TILES6(2) TILE(4, 1) TILE(4, 2)
static const tile_fn tiles[5][AGQ_TILE_TOKENS + 1] = {
    [2] = {0, tile_2_1, tile_2_2, tile_2_3, tile_2_4, tile_2_5, tile_2_6}, [4] = {0, tile_4_1, tile_4_2}};
#define WIDE_TOKENS 2
#endif
#endif
/* clang-format on */

#endif
