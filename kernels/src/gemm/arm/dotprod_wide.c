/* dotprod_wide.c: SDOT micro-kernel for 4-bit weights and eight tokens or more.
 *
 * SDOT, unpacking and storing a vector take the same two pipes (Neoverse-N1). So weights are unpacked once for all
 * tokens of a panel, to bytes in L1, a chunk of columns at a time. With nothing to unpack a tile may be small, 4 rows x
 * 12 tokens, and then its float sums stay in registers over all blocks of the chunk: f of gemm.h, or g where several
 * blocks share the outer scale.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "isa/features.h"

#if defined(AGQ_HAS_SDOT)

#include "common.h"
#include "kernels.h"

#define CHUNK 1024 /* columns: the weights of 16 rows take 16 KB of L1, 12 tokens 12 KB */
#define BLOCKS 16  /* of a chunk, at most */

/* A chunk of columns: whole blocks, or a piece of one. What tiles write lies in the order of their rows. */
typedef struct {
  int8_t w[4][CHUNK * 4];              /* of one panel: [rows / 4][column / 4][4 rows][4 columns] */
  float32x4_t ws[BLOCKS][4];           /* scales of its 16 rows */
  int32x4_t start[BLOCKS][AGQ_MAX_MR]; /* where the accumulators of a token start */
  float as[BLOCKS][AGQ_MAX_MR];        /* scales of the tokens, where blocks have their own */
  float32x4_t f[AGQ_DOT_PANELS][4][AGQ_MAX_MR], g[AGQ_DOT_PANELS][4][AGQ_MAX_MR]; /* sums over the chunks */
  char opens[BLOCKS], closes[BLOCKS];           /* first and last of the blocks that share the outer scale */
  int32x4_t acc[AGQ_DOT_PANELS][4][AGQ_MAX_MR]; /* of an unfinished block */
  const int8_t *a;                              /* [column / 4][width][4] */
  int width, blocks, steps;                     /* steps: of 4 columns, in a block of this chunk */
  int first, last;                              /* the chunk begins, ends its block(s) */
} chunk;

AGQ_INLINE void load(int32x4_t *c, const int32x4_t *from, const int NT) {
  AGQ_HERE(from);
  AGQ_UNROLL_FOR (int n = 0; n < NT; n++) c[n] = from[n];
}

/* In pairs, which take half the time of single stores. Those before `keep` (0..3) are left out. */
AGQ_INLINE void store(int32x4_t *to, const int32x4_t *c, int keep, const int NT) {
  AGQ_HERE(to);
  if (keep == 0) {
    AGQ_UNROLL_FOR (int n = 0; n < NT; n += 2)
      __asm__("stp %q1, %q2, %0" : "=Q"(*(int32x4_t(*)[2])(to + n)) : "w"(c[n]), "w"(c[n + 1]));
  } else {
    AGQ_UNROLL_FOR (int n = 1; n < NT; n++)
      if (n >= keep) to[n] = c[n];
  }
}

/* What the scales of a block are to its sums; see gemm.h. */
typedef enum {
  PER_TOKEN, /* f += x * ws */
  PAIRS,     /* each block has an outer scale of its own: f += x * ws * as */
  ROWS,      /* g += x * ws, at the end f += g * as */
  TOKENS,    /* g += x * as, at the end f += g * ws */
} scaling;

/* Token i of four: i must be a literal. */
AGQ_INLINE float32x4_t madd_lane(float32x4_t c, float32x4_t x, float32x4_t as, const int i) {
  switch (i) {
    case 0: return vfmaq_laneq_f32(c, x, as, 0);
    case 1: return vfmaq_laneq_f32(c, x, as, 1);
    case 2: return vfmaq_laneq_f32(c, x, as, 2);
    default: return vfmaq_laneq_f32(c, x, as, 3);
  }
}
AGQ_INLINE float32x4_t mul_lane(float32x4_t x, float32x4_t as, const int i) {
  switch (i) {
    case 0: return vmulq_laneq_f32(x, as, 0);
    case 1: return vmulq_laneq_f32(x, as, 1);
    case 2: return vmulq_laneq_f32(x, as, 2);
    default: return vmulq_laneq_f32(x, as, 3);
  }
}

/* Four tokens' sums s of block b (f, or g) take c. OPENS: g begins here. */
AGQ_INLINE void scale4(float32x4_t *s, const int32x4_t *c, float32x4_t ws, const float *as, const scaling HOW,
                       const int OPENS, const int MAGIC) {
  float32x4_t tokens = ws;
  if (HOW == PAIRS || HOW == TOKENS) {
    AGQ_HERE(as);
    tokens = vld1q_f32(as);
  }
  AGQ_UNROLL_FOR (int i = 0; i < 4; i++) {
    const float32x4_t x = agq_to_float(c[i], MAGIC);
    if (HOW == PAIRS) s[i] = madd_lane(s[i], vmulq_f32(x, ws), tokens, i);
    else if (HOW == TOKENS) s[i] = OPENS ? mul_lane(x, tokens, i) : madd_lane(s[i], x, tokens, i);
    else s[i] = OPENS ? vmulq_f32(x, ws) : vfmaq_f32(s[i], x, ws);
  }
}

/* c += the products of the columns up to `end`, 16 at a time, for 8 or 12 tokens. In assembly: the order matters, as
 * each accumulator waits for its last product, and compilers change it. */
#define DOT4(c0, c1, c2, c3, x)                                                             \
  "sdot %[" #c0 "].4s, v28.16b, " #x ".4b[0]\n sdot %[" #c1 "].4s, v28.16b, " #x ".4b[1]\n" \
  "sdot %[" #c2 "].4s, v28.16b, " #x ".4b[2]\n sdot %[" #c3 "].4s, v28.16b, " #x ".4b[3]\n"
#define STEP8(offset)                                                                                          \
  "ldr q28, [%[w], #" #offset "]\n ldp q29, q30, [%[a]]\n add %[a], %[a], %[step]\n" DOT4(c0, c1, c2, c3, v29) \
      DOT4(c4, c5, c6, c7, v30)
#define STEP12(offset)                                                                                    \
  "ldr q28, [%[w], #" #offset                                                                             \
  "]\n ldp q29, q30, [%[a]]\n ldr q31, [%[a], #32]\n add %[a], %[a], %[step]\n" DOT4(c0, c1, c2, c3, v29) \
      DOT4(c4, c5, c6, c7, v30) DOT4(c8, c9, c10, c11, v31)
#define LOOP(STEP) "1:\n" STEP(0) STEP(16) STEP(32) STEP(48) "add %[w], %[w], #64\n cmp %[w], %[end]\n b.ne 1b\n"
#define SUMS8                                                                                           \
  [c0] "+w"(c[0]), [c1] "+w"(c[1]), [c2] "+w"(c[2]), [c3] "+w"(c[3]), [c4] "+w"(c[4]), [c5] "+w"(c[5]), \
      [c6] "+w"(c[6]), [c7] "+w"(c[7])
AGQ_INLINE void columns(int32x4_t *c, const int8_t **w, const int8_t **a, size_t step, const int8_t *end,
                        const int NT) {
  if (NT == 8)
    __asm__ volatile(LOOP(STEP8)
                     : SUMS8, [w] "+r"(*w), [a] "+r"(*a)
                     : [step] "r"(step), [end] "r"(end)
                     : "v28", "v29", "v30", "cc", "memory");
  else
    __asm__ volatile(
        LOOP(STEP12)
        : SUMS8, [c8] "+w"(c[8]), [c9] "+w"(c[9]), [c10] "+w"(c[10]), [c11] "+w"(c[11]), [w] "+r"(*w), [a] "+r"(*a)
        : [step] "r"(step), [end] "r"(end)
        : "v28", "v29", "v30", "v31", "cc", "memory");
}

AGQ_INLINE void load_sums(float32x4_t *s, const float32x4_t *from, const int NT) {
  AGQ_HERE(from);
  AGQ_UNROLL_FOR (int n = 0; n < NT; n++) s[n] = from[n];
}

AGQ_INLINE void store_sums(float32x4_t *to, const float32x4_t *s, int keep, const int NT) {
  int32x4_t bits[12];
  AGQ_UNROLL_FOR (int n = 0; n < NT; n++) bits[n] = vreinterpretq_s32_f32(s[n]);
  store((int32x4_t *)to, bits, keep, NT);
}

/* f += g * the outer scale. */
AGQ_INLINE void close_sums(float32x4_t *to, const float32x4_t *g, float32x4_t ws, const float *as, int keep,
                           const int NT, const scaling HOW) {
  float32x4_t f[12];
  load_sums(f, to, NT);
  AGQ_UNROLL_FOR (int n = 0; n < NT; n += 4) {
    const float32x4_t tokens = HOW == ROWS ? vld1q_f32(as + n) : ws;
    AGQ_UNROLL_FOR (int i = 0; i < 4; i++)
      f[n + i] = HOW == ROWS ? madd_lane(f[n + i], g[n + i], tokens, i) : vfmaq_f32(f[n + i], g[n + i], ws);
  }
  store_sums(to, f, keep, NT);
}

/* Rows 4v .. 4v+3 of panel p, NT tokens from tok on, of which the first `keep` are not stored. */
AGQ_INLINE void tile(chunk *k, int p, int v, int tok, int keep, const int NT, const scaling HOW, const int MAGIC) {
  const int inner = HOW == ROWS || HOW == TOKENS;
  const int8_t *w = k->w[v], *a = k->a + 4 * tok;
  const size_t step = 4 * (size_t)k->width, bytes = 16 * (size_t)k->steps;
  float32x4_t *sums = &(inner ? k->g : k->f)[p][v][tok], s[12];
  int32x4_t c[12];
  int b = 0;
  if (!k->last) {
    load(c, k->first ? &k->start[0][tok] : &k->acc[p][v][tok], NT);
    columns(c, &w, &a, step, w + bytes, NT);
    store(&k->acc[p][v][tok], c, keep, NT);
    return;
  }
  do {
    load(c, k->first ? &k->start[b][tok] : &k->acc[p][v][tok], NT);
    columns(c, &w, &a, step, w + bytes, NT);
    /* Not before the products: they need not wait behind these loads. */
    if (b == 0 && !(inner && k->opens[0])) load_sums(s, sums, NT);
    const float32x4_t *rows = &k->ws[b][v];
    AGQ_HERE(rows);
    const float32x4_t ws = *rows;
    const float *as = k->as[b] + tok;
    if (inner && k->opens[b])
      AGQ_UNROLL_FOR (int n = 0; n < NT; n += 4) scale4(s + n, c + n, ws, as + n, HOW, 1, MAGIC);
    else
      AGQ_UNROLL_FOR (int n = 0; n < NT; n += 4) scale4(s + n, c + n, ws, as + n, HOW, 0, MAGIC);
    if (inner && k->closes[b]) close_sums(&k->f[p][v][tok], s, ws, as, keep, NT, HOW);
  } while (++b < k->blocks);
  if (!(inner && k->closes[b - 1])) store_sums(sums, s, keep, NT);
}

/* Up to two tiles of 8 tokens, and tiles of 12. Where they are more than the tokens, the second tile begins inside the
 * first one and leaves the results of these tokens alone. */
#define TILES(NAME, HOW, MAGIC)                                             \
  AGQ_NOINLINE void NAME(chunk *k, int p) {                                 \
    const int whole = (k->width + 3) / 4 * 4,                               \
              eights = whole % 12 == 0   ? 0                                \
                       : whole % 12 == 8 ? 1                                \
                                         : 2,                               \
              over = whole - k->width;                                      \
    int tok = 0, keep = 0;                                                  \
    for (int i = 0; i < eights; i++, tok += 8, keep = 0) {                  \
      if (i == 1) keep = over, tok -= over;                                 \
      for (int v = 0; v < 4; v++) tile(k, p, v, tok, keep, 8, HOW, MAGIC);  \
    }                                                                       \
    for (int i = eights; tok < k->width; i++, tok += 12, keep = 0) {        \
      if (i == 1) keep = over, tok -= over;                                 \
      for (int v = 0; v < 4; v++) tile(k, p, v, tok, keep, 12, HOW, MAGIC); \
    }                                                                       \
  }
#define SCALINGS(MAGIC)                        \
  TILES(tiles_token_##MAGIC, PER_TOKEN, MAGIC) \
  TILES(tiles_pairs_##MAGIC, PAIRS, MAGIC)     \
  TILES(tiles_rows_##MAGIC, ROWS, MAGIC)       \
  TILES(tiles_tokens_##MAGIC, TOKENS, MAGIC)
SCALINGS(0)
SCALINGS(1)
static void (*const tiles[2][4])(chunk *, int) = {
    {tiles_token_0, tiles_pairs_0, tiles_rows_0, tiles_tokens_0},
    {tiles_token_1, tiles_pairs_1, tiles_rows_1, tiles_tokens_1},
};

/* Block b of the tokens as the chunk's block i. Zero points of rows are taken off the weights, the common 8 at the
 * start. */
AGQ_INLINE void prepare_tokens(chunk *k, const agq_tile *t, int b, int i, int magic) {
  const int32_t *sums = t->sums + (size_t)b * (size_t)t->width, base = magic ? AGQ_MAGIC_BITS : 0;
  for (int n = 0; n < t->width; n++) k->start[i][n] = vdupq_n_s32(base - (t->zero ? 0 : t->symmetric * sums[n]));
  if (t->act_blocks) {
    const float *scales = t->a_scale + b / t->act_blocks;
    for (int n = 0; n < t->width; n++) k->as[i][n] = scales[(size_t)n * (size_t)t->a_scale_stride];
    k->opens[i] = (char)(b % agq_outer_blocks(t) == 0);
    k->closes[i] = (char)((b + 1) % agq_outer_blocks(t) == 0);
  }
}

/* `columns` of a panel from w on to steps `from` of the chunk; zero: of the 16 rows, or NULL. */
AGQ_INLINE void unpack(chunk *k, int from, const uint8_t *w, int columns, const int8_t *zero, const int ZERO) {
  uint8x16_t mask = vdupq_n_u8(15);
  AGQ_KEEP(mask);
  uint8x16_t z[4];
  if (ZERO) {
    const uint8x16_t each = vreinterpretq_u8_s8(vld1q_s8(zero)), low = vzip1q_u8(each, each),
                     high = vzip2q_u8(each, each);
    z[0] = vzip1q_u8(low, low), z[1] = vzip2q_u8(low, low);
    z[2] = vzip1q_u8(high, high), z[3] = vzip2q_u8(high, high);
  }
  for (int i = 0; i < columns / 8; i++, w += 64) {
    AGQ_UNROLL_FOR (int v = 0; v < 4; v++) {
      const uint8x16_t u = vld1q_u8(w + 16 * v);
      uint8x16_t lo = vandq_u8(u, mask), hi = vshrq_n_u8(u, 4);
      if (ZERO) lo = vsubq_u8(lo, z[v]), hi = vsubq_u8(hi, z[v]);
      vst1q_u8_x2((uint8_t *)k->w[v] + 16 * (from + 2 * i), (uint8x16x2_t){{lo, hi}});
    }
  }
}

/* Block b of panel p (`columns` of it from `column` on) as the chunk's block i. */
AGQ_INLINE void prepare_rows(chunk *k, const agq_tile *t, int p, int b, int i, int column, int columns) {
  const size_t g = (size_t)(b / t->group_blocks) * AGQ_PANEL;
  const char *scale = (const char *)t->scale + (size_t)p * t->scale_stride;
  const uint8_t *w = t->w + (size_t)p * t->w_stride + ((size_t)b * (size_t)t->block + (size_t)column) * 8;
  AGQ_UNROLL_FOR (int v = 0; v < 4; v++) k->ws[i][v] = agq_load_scale4(scale, g + 4 * (size_t)v, t->scale_type);
  if (t->zero) unpack(k, i * k->steps, w, columns, t->zero + (size_t)p * t->zero_stride + g, 1);
  else unpack(k, i * k->steps, w, columns, NULL, 0);
}

int agq_dot_wide(const agq_tile *t) { return t->width >= 12 || t->width == 8; }

void agq_dot_u4_wide(const agq_tile *t) {
  const int magic = t->block <= AGQ_MAGIC_BLOCK, whole = t->block <= CHUNK;
  const int most = !whole ? 1 : t->block * BLOCKS < CHUNK ? BLOCKS : CHUNK / t->block;
  const scaling how = !t->act_blocks ? PER_TOKEN : agq_tokens_first(t) ? TOKENS : t->act_blocks > 1 ? ROWS : PAIRS;
  chunk k;
  k.width = t->width;
  for (int from = 0; from < t->panels; from += AGQ_DOT_PANELS) {
    const int panels = t->panels - from < AGQ_DOT_PANELS ? t->panels - from : AGQ_DOT_PANELS;
    for (int i = 0; i < 4 * panels; i++) memset(k.f[i / 4][i % 4], 0, sizeof(float32x4_t) * (size_t)t->width);
    k.a = t->a;
    for (int b = 0; b < t->blocks; b += k.blocks) {
      k.blocks = t->blocks - b < most ? t->blocks - b : most;
      for (int i = 0; i < k.blocks; i++) prepare_tokens(&k, t, b + i, i, magic);
      for (int column = 0, columns; column < t->block; column += columns) {
        columns = whole ? t->block : t->block - column < CHUNK ? t->block - column : CHUNK;
        k.steps = columns / 4;
        k.first = column == 0;
        k.last = column + columns == t->block;
        for (int p = 0; p < panels; p++) {
          for (int i = 0; i < k.blocks; i++) prepare_rows(&k, t, from + p, b + i, i, column, columns);
          tiles[magic][how](&k, p);
        }
        k.a += (size_t)k.blocks * (size_t)columns * (size_t)t->width;
      }
    }
    for (int p = 0; p < panels; p++) {
      float f[AGQ_MAX_MR][AGQ_PANEL];
      for (int n = 0; n < t->width; n++)
        AGQ_UNROLL_FOR (int v = 0; v < 4; v++) vst1q_f32(f[n] + 4 * v, k.f[p][v][n]);
      agq_arm_store(t, from + p, f);
    }
  }
}

#endif
