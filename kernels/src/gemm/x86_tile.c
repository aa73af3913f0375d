/* x86_tile.c: integer kernels for several tokens (prefill and batches).
 *
 * A call takes a few weight panels and one token panel. Columns go by in chunks: the chunk's weights are unpacked once
 * to bytes in L1, then every register tile (up to AGQ_TILE_TOKENS tokens) of the token panel multiplies them. Float
 * accumulators of all tokens lie in L1 between blocks. Weights become the unsigned operand: 4-bit codes as they are,
 * 8-bit codes plus 128; the offset and the zero point are subtracted at the start of a block as -(zero + offset) *
 * sum(a).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "x86_vec.h"

#if defined(AGQ_X86)
#include "x86_kernels.h"

#define CHUNK 256 /* columns unpacked at once */

#if defined(AGQ_ISA_AVX512VNNI)
#define MAX_PANELS 4
#elif defined(AGQ_ISA_AVXVNNI)
#define MAX_PANELS 2
#else
#define MAX_PANELS 1
#endif
#define MAX_RV (MAX_PANELS * AGQ_NV)

/* One register tile over one chunk. Vectors of the panel group: `row_vectors`, of which the tile works on RV at a
 * time. */
typedef struct {
  const uint8_t *u;      /* [steps][row_vectors] vectors: one step = 4 columns */
  int steps, row_vectors;
  const int8_t *a;       /* [steps] of a_stride bytes: 4 codes of each token */
  int a_stride;
  vi *acc;               /* [W][row_vectors], kept between chunks of a block */
  vf *f;                 /* [W][row_vectors] */
  const int32_t *init;   /* [W]: start of the accumulators, or the token's sum if `zero` */
  const vi *zero;        /* [row_vectors]: factors of the sums, or NULL */
  const vf *scale;       /* [row_vectors] */
  const float *a_scale;  /* scale of the first token in this block, or NULL (per token) */
  int a_scale_stride;
  int first, last;       /* of the chunks of a block */
} tile_args;

typedef void (*tile_fn)(const tile_args *);

/* Without vpdpbusd a group is always one panel. */
#if defined(AGQ_MADDUBS)
#define VECTORS(s) AGQ_NV
#else
#define VECTORS(s) ((s)->row_vectors)
#endif

/* Accumulators c[vector][token] of a tile at the start of a chunk. W, R: constants at every call. */
INLINE void begin(const tile_args *s, const int W, const int R, int first, vi c[][AGQ_TILE_TOKENS]) {
  const int vectors = VECTORS(s);
  if (!s->first) {
#pragma GCC unroll 16
    for (int t = 0; t < W; t++)
#pragma GCC unroll 4
      for (int i = 0; i < R; i++) c[i][t] = s->acc[t * vectors + first + i];
  } else if (s->zero) {
#pragma GCC unroll 16
    for (int t = 0; t < W; t++)
#pragma GCC unroll 4
      for (int i = 0; i < R; i++) c[i][t] = vi_mul32(s->zero[first + i], vi_set32(s->init[t]));
  } else {
#pragma GCC unroll 16
    for (int t = 0; t < W; t++)
#pragma GCC unroll 4
      for (int i = 0; i < R; i++) c[i][t] = vi_set32(s->init[t]);
  }
}

/* The end of a chunk: at the end of the block f = acc * scale + f. */
INLINE void end(const tile_args *s, const int W, const int R, int first, vi c[][AGQ_TILE_TOKENS]) {
  const int vectors = VECTORS(s);
  vf *f = s->f + first;
  const vf *scale = s->scale + first;
  if (!s->last) {
#pragma GCC unroll 16
    for (int t = 0; t < W; t++)
#pragma GCC unroll 4
      for (int i = 0; i < R; i++) s->acc[t * vectors + first + i] = c[i][t];
  } else if (s->a_scale) {
    const float *a_scale = s->a_scale;
#pragma GCC unroll 16
    for (int t = 0; t < W; t++, a_scale += s->a_scale_stride)
#pragma GCC unroll 4
      for (int i = 0; i < R; i++)
        f[t * vectors + i] = vf_madd(vf_from_int(c[i][t]), vf_mul(scale[i], vf_set(*a_scale)), f[t * vectors + i]);
  } else {
#pragma GCC unroll 16
    for (int t = 0; t < W; t++)
#pragma GCC unroll 4
      for (int i = 0; i < R; i++) f[t * vectors + i] = vf_madd(vf_from_int(c[i][t]), scale[i], f[t * vectors + i]);
  }
}

#if !defined(AGQ_MADDUBS)
INLINE void tile(const int RV, const int W, const tile_args *s) {
  vi c[4][AGQ_TILE_TOKENS];
  begin(s, W, RV, 0, c);
  const uint8_t *u = s->u;
  const int8_t *a = s->a;
  const int a_stride = s->a_stride;
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
  end(s, W, RV, 0, c);
}
#define KINDS 1

#else
/* `depth` steps are accumulated in int16 lanes before they are widened: the most whose sums surely fit (a lane takes
 * two products a step). u4 x s8: 2*15*127*8 = 30480; u4 x s4: 2*15*15*64 = 28800; u8 x s4: 2*255*15*4 = 30600. s8 x s8
 * is widened at once: |w| x sign(a, w), 2*128*127 = 32512; with codes of -128, which have no negative, |a| x sign(w, a). The int32 accumulators lie in memory where int16 ones need
 * the registers. */
INLINE void tile(const int kind, const int W, const tile_args *s) {
  enum { RV = 2 };
  const int depth = kind == AGQ_U4A8 ? 8 : kind == AGQ_U4A4 ? 64 : kind == AGQ_I8A4 ? 4 : 1;
  const int lowest = kind == AGQ_I8A8_LOWEST;
  const vi one = vi_set16(1);
  const int a_stride = s->a_stride;
  for (int h = 0; h < AGQ_NV; h += RV) {
    const uint8_t *u = s->u + h * AGQ_VB;
    const int8_t *a = s->a;
    vi wide[RV][AGQ_TILE_TOKENS];
    begin(s, W, RV, h, wide);
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
    end(s, W, RV, h, wide);
  }
}
#define KINDS 5
#endif

/* One function per width, so that the accumulators are registers. */
#if defined(AGQ_MADDUBS)
#define TILE(k, w) static void tile_##k##_##w(const tile_args *s) { tile(k, w, s); }
#define TILES(k) TILE(k, 1) TILE(k, 2) TILE(k, 3) TILE(k, 4) TILE(k, 5)
TILES(AGQ_U4A8) TILES(AGQ_U4A4) TILES(AGQ_I8A8) TILES(AGQ_I8A4) TILES(AGQ_I8A8_LOWEST)
#define ROW(k) {0, tile_##k##_1, tile_##k##_2, tile_##k##_3, tile_##k##_4, tile_##k##_5}
static const tile_fn tiles[KINDS][AGQ_TILE_TOKENS + 1] = {ROW(AGQ_U4A8), ROW(AGQ_U4A4), ROW(AGQ_I8A8), ROW(AGQ_I8A4),
                                                         ROW(AGQ_I8A8_LOWEST)};
#else
#define TILE(rv, w) static void tile_##rv##_##w(const tile_args *s) { tile(rv, w, s); }
#define TILES6(rv) TILE(rv, 1) TILE(rv, 2) TILE(rv, 3) TILE(rv, 4) TILE(rv, 5) TILE(rv, 6)
#if defined(AGQ_ISA_AVX512VNNI)
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

/* Few tokens: weights come from memory, and each of several panels gives only a piece of 1 or 2 KiB at a time, too short for the
 * hardware to run ahead. So pieces are asked for early. */
#define NARROW 6 /* tokens up to which computing does not hide the memory anyway */
#define AHEAD_BYTES 2048

/* `columns` of `panels` weight panels to [step][panel][64 bytes]; what lies `ahead` bytes further is fetched, unless 0. */
INLINE void unpack(int kind, const uint8_t *w, size_t stride, int panels, int columns, uint8_t *u, int ahead) {
  const vi m15 = vi_set8(15), offset = vi_set8(kind != AGQ_I8A4 && KINDS > 1 ? 0 : -128);
  const int step = panels * 64;
  for (int p = 0; p < panels; p++) {
    const uint8_t *from = w + p * stride;
    uint8_t *to = u + p * 64;
    if (ahead)
      for (int i = 0; i < columns / (kind == AGQ_U4A8 || kind == AGQ_U4A4 ? 8 : 4); i++)
        __builtin_prefetch(from + ahead + 64 * i);
    if (kind == AGQ_U4A8 || kind == AGQ_U4A4) {
      for (int k = 0; k < columns; k += 8, from += 64, to += 2 * step)
        for (int i = 0; i < 64; i += AGQ_VB) {
          const vi q = vi_load(from + i);
          vi_store(to + i, vi_and(q, m15));
          vi_store(to + step + i, vi_high_nibble(q, m15));
        }
    } else {
      for (int k = 0; k < columns; k += 4, from += 64, to += step)
        for (int i = 0; i < 64; i += AGQ_VB) vi_store(to + i, vi_xor(vi_load(from + i), offset));
    }
  }
}

/* y of one group of panels from its float accumulators. */
static void write_out(const agq_tile *t, int panel, int panels, const vf *f) {
  const int vectors = panels * AGQ_NV, first = panel * AGQ_PANEL, rows = t->rows - first;
  vf bias[MAX_RV];
  for (int i = 0; i < vectors; i++)
    bias[i] = t->bias && i * AGQ_VL < rows ? vf_load_rows(t->bias + first + i * AGQ_VL, rows - i * AGQ_VL) : vf_zero();
  for (int w = 0; w < t->width; w++) {
    float *y = t->y + w * t->ldy + first;
    const vf scale = vf_set(t->a_scale[w * t->a_scale_stride]);
    for (int i = 0; i < vectors && i * AGQ_VL < rows; i++) {
      vf v = f[w * vectors + i];
      if (!t->act_blocks) v = vf_mul(v, scale);
      if (t->bias) v = vf_add(v, bias[i]);
      vf_store_rows(y + i * AGQ_VL, v, rows - i * AGQ_VL);
    }
  }
}

INLINE void panel_group(const agq_tile *t, int kind, int panel, int panels) {
  const int u4 = kind == AGQ_U4A8 || kind == AGQ_U4A4, vectors = panels * AGQ_NV, width = t->width;
  const int offset = u4 || (kind != AGQ_I8A4 && KINDS > 1) ? 0 : 128;
  const int column_bytes = u4 ? 8 : 16;
  const uint8_t *w = t->w + panel * t->w_stride;
  const char *scales = (const char *)t->scale + panel * t->scale_stride;
  const int8_t *zeros = t->zero ? t->zero + panel * t->zero_stride : 0;
  _Alignas(64) uint8_t u[CHUNK / 4 * 64 * MAX_PANELS];
  vi acc[AGQ_X86_MR * MAX_RV], zero[MAX_RV];
  vf f[AGQ_X86_MR * MAX_RV], scale[MAX_RV];
  int32_t init[AGQ_X86_MR];
  for (int i = 0; i < width * vectors; i++) f[i] = vf_zero();

  /* Register tiles of equal width. */
  const int tiles_count = (width + AGQ_TILE_TOKENS - 1) / AGQ_TILE_TOKENS;
  for (int b = 0; b < t->blocks; b++) {
    const int group = b / t->group_blocks;
    if (b % t->group_blocks == 0)
      for (int i = 0; i < vectors; i++) {
        const int p = i / AGQ_NV, at = group * AGQ_PANEL + i % AGQ_NV * AGQ_VL;
        scale[i] = vf_load_scale(scales + p * t->scale_stride, at, t->scale_bf16);
        if (zeros) {
          /* -(zero + offset) in 32 bits */
          const vi z = vi_add32(vi_from_s8(zeros + p * t->zero_stride + at), vi_set32(offset));
          zero[i] = vi_mul32(z, vi_set32(-1));
        }
      }
    const int32_t *sums = t->sums + (size_t)b * width;
    const int factor = zeros ? 1 : -(offset + (u4 ? 8 : 0));
    for (int i = 0; i < width; i++) init[i] = factor * sums[i];
    for (int c = 0; c < t->block; c += CHUNK) {
      const int columns = t->block - c < CHUNK ? t->block - c : CHUNK;
      const size_t column = (size_t)b * t->block + c;
      unpack(kind, w + column * column_bytes, t->w_stride, panels, columns, u,
             panels > 2 && width <= NARROW ? AHEAD_BYTES : 0);
      for (int i = 0, token = 0; i < tiles_count; i++) {
        const int n = (width - token) / (tiles_count - i);
        const tile_args s = {
            .u = u,
            .steps = columns / 4,
            .row_vectors = vectors,
            .a = t->a + column * width + 4 * token,
            .a_stride = 4 * width,
            .acc = acc + token * vectors,
            .f = f + token * vectors,
            .init = init + token,
            .zero = zeros ? zero : 0,
            .scale = scale,
            .a_scale = t->act_blocks ? t->a_scale + (size_t)token * t->a_scale_stride + b / t->act_blocks : 0,
            .a_scale_stride = t->a_scale_stride,
            .first = c == 0,
            .last = c + columns == t->block,
        };
#if defined(AGQ_MADDUBS)
        tiles[kind][n](&s);
#else
        tiles[vectors][n](&s);
#endif
        token += n;
      }
    }
  }
  write_out(t, panel, panels, f);
}

static void run(const agq_tile *t, int kind) {
  int p = 0;
#if defined(AGQ_ISA_AVX512VNNI)
  if (t->width <= WIDE_TOKENS)
    for (; p + 4 <= t->panels; p += 4) panel_group(t, kind, p, 4);
  for (; p + 2 <= t->panels; p += 2) panel_group(t, kind, p, 2);
#elif defined(AGQ_ISA_AVXVNNI)
  if (t->width <= WIDE_TOKENS)
    for (; p + 2 <= t->panels; p += 2) panel_group(t, kind, p, 2);
#endif
  for (; p < t->panels; p++) panel_group(t, kind, p, 1);
}

void agq_x86_tile_u4a8(const agq_tile *t) { run(t, AGQ_U4A8); }
void agq_x86_tile_u4a4(const agq_tile *t) { run(t, AGQ_U4A4); }
void agq_x86_tile_i8a8(const agq_tile *t) { run(t, t->lowest && KINDS > 1 ? AGQ_I8A8_LOWEST : AGQ_I8A8); }
void agq_x86_tile_i8a4(const agq_tile *t) { run(t, AGQ_I8A4); }
#endif
