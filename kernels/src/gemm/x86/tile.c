/* tile.c: integer kernels for several tokens (prefill and batches).
 *
 * A call takes a few weight panels and one token panel. Columns go by in chunks: the chunk's weights are unpacked once
 * to bytes in L1, then every register tile (up to AGQ_TILE_TOKENS tokens) of the token panel multiplies them. Float
 * accumulators of all tokens lie in L1 between blocks. Weights become the unsigned operand: 4-bit codes as they are,
 * 8-bit codes plus 128; the offset and the zero point are subtracted at the start of a block as -(zero + offset) *
 * sum(a).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "vec.h"

#if defined(AGQ_HAS_X86)
#include "tile.h"

#define CHUNK 256 /* columns unpacked at once */
/* The same of short blocks, whose float sums want room in L1 too, where vpdpbusd is fast enough to feel it. */
#define SHORT 128
/* Tokens up to which computing does not hide the memory anyway; in short chunks, unpacking overlaps the products
 * before. */
#define NARROW 6
/* Few tokens: weights come from memory, and each of several panels gives only a piece of 1 or 2 KiB at a time, too
 * short for the hardware to run ahead. So pieces are asked for early. */
#define AHEAD_BYTES 2048

/* `columns` of `panels` weight panels to [step][panel][64 bytes]; what lies `ahead` bytes further is fetched, unless
 * 0. */
INLINE void unpack(int kind, const uint8_t *w, size_t stride, int panels, int columns, uint8_t *u, int ahead) {
  const vi m15 = vi_set8(15), offset = vi_set8(kind != AGQ_I8A4 && KINDS > 1 ? 0 : -128);
  const int step = panels * 64;
  for (int p = 0; p < panels; p++) {
    const uint8_t *from = w + p * stride;
    uint8_t *to = u + p * 64;
    if (ahead)
      for (int i = 0; i < columns / AGQ_OF_KIND(AGQ_KIND_U4(kind), agq_format_unit); i++)
        __builtin_prefetch(from + ahead + 64 * i);
    if (AGQ_KIND_U4(kind)) {
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

/* A block's place among those that share a scale. Counted, not divided: with few tokens divisions would be felt. */
typedef struct {
  int b, group, act;        /* block, weight group, activation group */
  int group_left, act_left; /* blocks of them from here on */
} place;

INLINE void next_place(place *at, const agq_tile *t) {
  at->b++;
  if (--at->group_left == 0) at->group++, at->group_left = t->group_blocks;
  if (--at->act_left == 0) at->act++, at->act_left = t->act_blocks;
}

/* A block of `panels` panels and of the token panel. */
INLINE void prepare(const agq_tile *t, block *k, const place *here, int offset, int tokens_first, int panel,
                    int panels) {
  const int width = t->width;
  if (tokens_first) k->opens = here->group_left == t->group_blocks, k->closes = here->group_left == 1;
  else if (t->act_blocks) k->opens = here->act_left == t->act_blocks, k->closes = here->act_left == 1;
  else k->opens = here->b == 0, k->closes = 0;
  k->a_scale = t->a_scale + here->act;
  const int scaled = !tokens_first || k->closes;
  for (int i = 0; i < panels * AGQ_NV; i++) {
    const int p = panel + i / AGQ_NV, at = here->group * AGQ_PANEL + i % AGQ_NV * AGQ_VL;
    if (scaled) k->scale[i] = vf_load_scale((const char *)t->scale + p * t->scale_stride, (size_t)at, t->scale_type);
    if (t->zero) {
      /* -(zero + offset) in 32 bits */
      const vi z = vi_add32(vi_from_s8(t->zero + p * t->zero_stride + at), vi_set32(offset));
      k->zero[i] = vi_mul32(z, vi_set32(-1));
    }
  }
  const int32_t *sums = t->sums + (size_t)here->b * width;
  const int factor = t->zero ? 1 : -(offset + t->symmetric);
  for (int i = 0; i < width; i++) k->init[i] = factor * sums[i];
}

INLINE void panel_group(const agq_tile *t, int kind, int panel, int panels) {
  const int u4 = AGQ_KIND_U4(kind), vectors = panels * AGQ_NV, width = t->width;
  const int offset = u4 || (kind != AGQ_I8A4 && KINDS > 1) ? 0 : 128;
  const int column_bytes = 2 * AGQ_OF_KIND(u4, AGQ_BITS), whole = t->block <= CHUNK;
  const int chunk = width <= NARROW || (KINDS == 1 && t->block <= SHORT) ? SHORT : CHUNK,
            most = t->block < chunk ? chunk / t->block : 1;
  const int tokens_first = agq_tokens_first(t);
  const uint8_t *w = t->w + panel * t->w_stride;
  _Alignas(64) uint8_t u[CHUNK / 4 * 64 * MAX_PANELS];
  block blocks[CHUNK / 32];
  place at = {.group_left = t->group_blocks, .act_left = t->act_blocks};
  vi acc[AGQ_X86_MR * MAX_RV];
  vf f[AGQ_X86_MR * MAX_RV], g[AGQ_X86_MR * MAX_RV];
  if (t->act_blocks)
    for (int i = 0; i < width * vectors; i++) f[i] = vf_zero();

  /* Register tiles of equal width. */
  const int tiles_count = (width + AGQ_TILE_TOKENS - 1) / AGQ_TILE_TOKENS;
  for (int b = 0, count; b < t->blocks; b += count) {
    count = t->blocks - b < most ? t->blocks - b : most;
    for (int i = 0; i < count; i++, next_place(&at, t))
      prepare(t, &blocks[i], &at, offset, tokens_first, panel, panels);
    for (int c = 0, columns; c < t->block; c += columns) {
      columns = whole || t->block - c < CHUNK ? t->block - c : CHUNK;
      const size_t column = (size_t)b * t->block + c;
      unpack(kind, w + column * column_bytes, t->w_stride, panels, count * columns, u,
             panels > 2 && width <= NARROW ? AHEAD_BYTES : 0);
      for (int i = 0, token = 0; i < tiles_count; i++) {
        const int n = (width - token) / (tiles_count - i);
        const tile_args s = {
            .block = blocks,
            .blocks = count,
            .steps = columns / 4,
            .u = u,
            .a = t->a + column * width + 4 * token,
            .a_stride = 4 * width,
            .token = token,
            .acc = acc + token * vectors,
            .f = f + token * vectors,
            .g = g + token * vectors,
            .zeros = t->zero != NULL,
            .tokens_first = tokens_first,
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
  write_out(t, panel, panels, t->act_blocks ? f : g);
}

static void run(const agq_tile *t, int kind) {
  int p = 0;
#if AGQ_VB == 64
  if (t->width <= WIDE_TOKENS)
    for (; p + 4 <= t->panels; p += 4) panel_group(t, kind, p, 4);
  for (; p + 2 <= t->panels; p += 2) panel_group(t, kind, p, 2);
#elif defined(AGQ_HAS_DPBUSD)
  if (t->width <= WIDE_TOKENS)
    for (; p + 2 <= t->panels; p += 2) panel_group(t, kind, p, 2);
#endif
  for (; p < t->panels; p++) panel_group(t, kind, p, 1);
}

void agq_x86_tile_u4a8(const agq_tile *t) { run(t, AGQ_U4A8); }
/* In blocks of 32 columns the sums of 8-bit products fit in 16 bits just as well. */
void agq_x86_tile_u4a4(const agq_tile *t) { run(t, t->block > 32 ? AGQ_U4A4 : AGQ_U4A8); }
void agq_x86_tile_i8a8(const agq_tile *t) { run(t, t->lowest && KINDS > 1 ? AGQ_I8A8_LOWEST : AGQ_I8A8); }
void agq_x86_tile_i8a4(const agq_tile *t) { run(t, AGQ_I8A4); }
#endif
