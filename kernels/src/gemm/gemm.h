/* gemm.h: what a micro-kernel is, and the table of those that this library was compiled with.
 *
 * Vocabulary. A *panel* is 16 output rows (layout rl16, agq.h). A *block* is a run of columns inside which neither the
 * weight scale nor the activation scale changes: block = gcd(group_size or K, act_group or K), a multiple of 32 (K
 * padded to 32 when it is the whole row). A *token panel* is up to `mr` tokens whose codes are interleaved:
 * [K_padded/4][width][4 codes], where width is the number of tokens in that token panel (agq_act.mr, except for the
 * last one; or agq_act.panels). With width 1 that is the plain row.
 *
 * The arithmetic, which every kernel reproduces bit for bit in its integer part and in this order in its float part:
 *   acc(b) = sum over the columns k of block b of (code[row][k] - zero[row][group(b)]) * a[t][k]   (exact integer)
 * Of the two scales, the one that changes more often is applied in every block, the other once for all the blocks that
 * share it, so that a block costs one multiply-add, whatever the groups:
 *   one activation scale per token:
 *     g = 0;  for b ascending: g = fma((float)acc(b), ws[row][group(b)], g);  f = g * as[t]
 *   one per activation group of at least the weight group's length:
 *     f = 0;  for each activation group A ascending:
 *       g = 0;  for b in A ascending: g = fma((float)acc(b), ws[row][group(b)], g);   f = fma(g, as[t][A], f)
 *   weight groups W longer than the activation's:
 *     f = 0;  for each weight group W ascending:
 *       g = 0;  for b in W ascending: g = fma((float)acc(b), as[t][actgroup(b)], g);  f = fma(g, ws[row][W], f)
 *   y[t][row] = f + bias[row]
 * With minima (agq.h), y += the product of the matrix minimum[row][group] and the token's sums x[t][group], by a float
 * kernel, groups ascending:
 *   h = 0;  for g ascending: h = fma(minimum[row][g], x[t][g], h);  y[t][row] = h + y[t][row]
 *   x[t][g] = 0;  for b in g ascending: x[t][g] = fma((float)sum of a[t] over b, as[t][actgroup(b)], x[t][g])
 * (without hardware fma: product rounded, then added). The same order for every m, so a token's result does not depend
 * on the batch it is computed in. */
#ifndef AGQ_GEMM_H
#define AGQ_GEMM_H

#include "agq.h"
#include "layout.h"

/* The pointer's value is computed here: kept in a register through the loops before, it would crowd them. */
#define AGQ_HERE(pointer) __asm__ volatile("" : "+r"(pointer))

#define AGQ_MAX_MR 64

/* Tokens [first, first + width) of a pass in which sink tokens are among others. */
typedef struct {
  int first, width;
  int eight; /* 1: quantized as agq_eight_bits (linear.h) of the linear says; 0: as the linear itself */
} agq_token_panel;

/* Activations of m tokens, quantized for linears with equal (in_features, act_bits, act_group, act_symmetric,
 * input_order, hadamard, act_clip, block). */
typedef struct {
  int m, k, k_padded;            /* tokens, columns, columns padded up to 32 */
  int mr;                        /* tokens per token panel: at most the table's mr, balanced so that the last one is
                                  * not thin */
  const agq_token_panel *panels; /* [panel_count], where sink tokens are among the m; NULL: panels of mr, all alike */
  int panel_count;
  int block, blocks; /* block length and number */
  int8_t *codes;     /* token panel that starts at token i at codes + i*k_padded; padding columns are 0 */
  float *scales;     /* [m][scales_per_token] */
  int scales_per_token;
  int32_t *sums; /* token panel that starts at token i at sums + i*blocks: [blocks][width] sums of the codes of a
                  * block */
  float *rows;   /* [m][k] float activations, moved; NULL: as they come */
  float *groups; /* [m][groups] sums over the columns of a weight group, for linears with minima; else NULL */
} agq_act;

/* Arguments of an integer micro-kernel: `panels` consecutive weight panels times one token panel of `width` tokens. */
typedef struct {
  const uint8_t *w;  /* first panel */
  size_t w_stride;   /* bytes from panel to panel, as the two below */
  const void *scale; /* [group][16] */
  size_t scale_stride;
  const int8_t *zero; /* [group][16] or NULL */
  size_t zero_stride;
  int symmetric; /* the zero point of all rows where `zero` is NULL */
  int panels;
  int scale_type;    /* AGQ_F32, AGQ_F16 or AGQ_BF16 */
  int block, blocks; /* as in agq_act */
  int group_blocks;  /* blocks per weight group (>= 1) */
  int width;
  const int8_t *a;      /* [k_padded/4][width][4] */
  const int32_t *sums;  /* [blocks][width] */
  const float *a_scale; /* of the token panel's first token, token stride a_scale_stride */
  int a_scale_stride;
  int act_blocks;    /* 0: per token */
  int lowest;        /* 1: codes may be -128; then i8 weights are -127..127 and without zero points */
  const float *bias; /* of the first row, or NULL; at least `rows` long */
  float *y;          /* y[token*ldy + row] */
  size_t ldy;
  int rows; /* valid rows in these panels (the last panel may be partial): only those are written */
  const struct agq_format *format; /* of the weights (formats/formats.h) */
} agq_tile;

typedef void (*agq_tile_fn)(const agq_tile *t);

/* 1: the weight scale is the one that is applied once for several blocks (above). */
static inline int agq_tokens_first(const agq_tile *t) { return t->act_blocks && t->act_blocks < t->group_blocks; }
/* Blocks that share the scale which is applied once for them; 0: all, and agq_tile.a_scale is it. */
static inline int agq_outer_blocks(const agq_tile *t) { return agq_tokens_first(t) ? t->group_blocks : t->act_blocks; }

/* Float activations: y[t][row] = sum_k W[row][k] x[t][k] + bias, f32 accumulation, columns ascending (U4 and I8: per
 * group, f = fma(sum over the group of (code - zero) * x, scale, f)). */
typedef struct {
  const agq_linear *l;
  int panel, panels; /* weight panels [panel, panel + panels) of the linear */
  const float *x;    /* x[token*ldx + column] */
  size_t ldx;
  int m;    /* any m >= 1 */
  float *y; /* y[token*ldy + row] with the linear's own row numbers: row 0 is row 0 of panel 0 */
  size_t ldy;
  int add; /* 1: added to what y holds (the product first), instead of the bias */
} agq_float_tile;

/* What is added to the products of a token, by row; NULL: nothing. */
static inline const float *agq_float_addend(const agq_float_tile *t, int token) {
  return t->add ? t->y + (size_t)token * t->ldy : t->l->bias;
}

typedef void (*agq_float_fn)(const agq_float_tile *t);

/* The name of a kernel, which `info` and `bench` show: <weights><activations>_<rows>x<tokens>_<level>
 *   weights        a weight format by its name: u4, i8, f32, f16, bf16; any: every integer format, by its `unpack`
 *   activations    s8, s4: codes of 8, 4 bits with their sign; u4: of 4 bits from 0 on (packed multiplier); f32: floats
 *   rows, tokens   of one register tile
 *   level          whose instructions it uses: the library's level or one of its ancestors
 * as in u4s8_32x12_avx512vnni. tests/test_names.c parses it. */
#define AGQ_NAME(weights, activations, tile, level) weights activations "_" tile "_" level

typedef struct {
  const char *name;        /* AGQ_NAME */
  agq_tile_fn run;         /* any width in 1..mr */
  int mr;                  /* most tokens in one call */
  int step;                /* panels it likes to be given at once (>= 1); must accept any panels >= 1 */
  const char *accumulator; /* "int32", "int16 over 32 columns, then int32", ... */
} agq_kernel;

typedef struct {
  const char *name; /* AGQ_NAME */
  agq_float_fn run;
} agq_float_kernel;

/* What quantizes the inputs of a linear with static activations: operand = (rint(clamp(x * 2^-e * inverse, lo, hi)) +
 * offset) * 2^shift with e = exponent[column], shift = e with 4 bits and 0 with 8. */
typedef struct {
  float inverse; /* 1 / scale */
  float lo, hi;  /* -zero, 2^bits - 1 - zero */
  int offset;    /* zero - 128 with 8 bits, else 0 */
  int bits;
  const uint8_t *exponent; /* [k], 0..3 */
} agq_static;

/* The kernels of one instruction-set level. Every field is set: what a level does not replace is its parent's
 * (table.c). */
typedef struct {
  const char *isa;
  int mr;    /* token panel width that quantization uses for m > 1 */
  int grain; /* widths of full token panels are multiples of it, where m allows; 0: any width is as good */
  agq_kernel u4a8, u4a4, i8a8, i8a4;             /* tiles; also take width 1 */
  agq_kernel u4a8_m1, u4a4_m1, i8a8_m1, i8a4_m1; /* decode: width 1 only */
  agq_kernel packed4;                            /* agq_linear.multiplier: u4 x 4-bit activations, any width */
  agq_float_kernel f32, f16, bf16, u4, i8;       /* float activations */
  agq_kernel any; /* integer formats without kernels of their own, any activations and width */
  agq_float_kernel any_float;
  agq_kernel bytes; /* integer formats of codes -127..127, by the kernels of AGQ_I8; any activations and width */
  /* One token: x[k] -> codes (plain order, k_padded long, padding 0) and scales; see quantize.h for the formulas. */
  void (*quantize_row)(const float *x, int k, int k_padded, int bits, int group, int symmetric, float clip,
                       int8_t *codes, float *scales);
  /* The same with a static scale (act_static of agq.h). */
  void (*quantize_static)(const float *x, int k, int k_padded, const agq_static *s, int8_t *codes);
  /* Sums of `block` consecutive codes (a multiple of 32): sums[b * stride] for b < blocks. */
  void (*sum_blocks)(const int8_t *codes, int block, int blocks, int32_t *sums, int stride);
} agq_kernel_table;

extern const agq_kernel_table agq_kernels_scalar; /* in every library */
/* Of the level this library is compiled for (scalar library: the same functions). */
extern const agq_kernel_table agq_kernels_native;

#endif
