/* linear.c: from a descriptor and rows of floats to kernel calls; see linear.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "linear.h"

#include <string.h>

#include "formats/formats.h"

#include "ops/ops.h"
#include "quantize.h"
#include "shape.h"

/* Codes of the tokens that are worked on while the weights pass by once: they should stay in L2 beside a panel of
 * weights. */
#define CHUNK_BYTES (768 << 10)
/* The same for float activations. */
#define FLOAT_CHUNK_BYTES (512 << 10)

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }

size_t agq_act_workspace(const agq_linear *l, int m) {
  agq_shape s;
  if (agq_linear_shape(l, &s) != AGQ_OK) return 0;
  if (!s.integer) return l->hadamard ? align64((size_t)m * (size_t)l->in_features * sizeof(float)) : 0;
  return align64((size_t)m * agq_pad32(l->in_features)) + align64((size_t)m * s.act_scales * sizeof(float)) +
         align64((size_t)m * s.blocks * sizeof(int32_t));
}

size_t agq_act_scratch(const agq_linear *l) {
  return align64((size_t)agq_pad32(l->in_features)) +
         (l->hadamard ? align64((size_t)l->in_features * sizeof(float)) : 0);
}

static float clip_of(const agq_linear *l) { return l->act_clip == 0 ? 1.0f : l->act_clip; }

void agq_act_init(agq_act *a, const agq_kernel_table *kt, const agq_linear *l, int m, void *workspace) {
  agq_shape s;
  agq_linear_shape(l, &s);
  memset(a, 0, sizeof *a);
  a->m = m;
  a->k = l->in_features;
  a->k_padded = agq_pad32(a->k);
  a->bits = l->act_bits;
  /* Token panels of equal width, so that the last one is not a thin rest. */
  int panels = (m + kt->mr - 1) / kt->mr;
  a->mr = (m + panels - 1) / panels;
  if (panels > 1 && kt->grain) a->mr = (a->mr + kt->grain - 1) / kt->grain * kt->grain;
  a->block = s.block;
  a->blocks = s.blocks;
  a->act_blocks = s.act_blocks;
  a->scales_per_token = s.act_scales;
  char *p = workspace;
  a->codes = (int8_t *)p;
  p += align64((size_t)m * a->k_padded);
  a->scales = (float *)p;
  p += align64((size_t)m * s.act_scales * sizeof(float));
  a->sums = (int32_t *)p;
}

int agq_act_compatible(const agq_linear *p, const agq_linear *q) {
  agq_shape a, b;
  if (agq_linear_shape(p, &a) != AGQ_OK || agq_linear_shape(q, &b) != AGQ_OK) return 0;
  return a.integer == b.integer && p->in_features == q->in_features && p->act_bits == q->act_bits &&
         a.act_scales == b.act_scales && p->act_symmetric == q->act_symmetric && a.block == b.block &&
         p->hadamard == q->hadamard && clip_of(p) == clip_of(q) && p->act_static == q->act_static &&
         (!p->act_static || (p->act_scale == q->act_scale && p->act_zero == q->act_zero &&
                             !memcmp(p->act_exponent, q->act_exponent, (size_t)p->in_features)));
}

int agq_act_token_panels(const agq_act *a) { return a->panels ? a->panel_count : (a->m + a->mr - 1) / a->mr; }

agq_token_panel agq_act_panel(const agq_act *a, int panel) {
  if (a->panels) return a->panels[panel];
  const int first = panel * a->mr, rest = a->m - first;
  return (agq_token_panel){first, rest < a->mr ? rest : a->mr, 0};
}

agq_linear agq_eight_bits(const agq_linear *l) {
  agq_linear eight = *l;
  eight.act_bits = 8;
  eight.act_group = 0;
  eight.act_symmetric = 1;
  eight.act_clip = 1;
  eight.multiplier = AGQ_MULTIPLIER_DEFAULT;
  return eight;
}

void agq_act_sinks(agq_act *a, const agq_kernel_table *kt, const int32_t *position, int sinks, agq_token_panel *panels) {
  int any = 0, count = 0;
  for (int i = 0; i < a->m; i++) any |= position[i] < sinks;
  if (!any) return;
  for (int begin = 0, end; begin < a->m; begin = end) { /* runs of tokens of one format */
    const int eight = position[begin] < sinks;
    for (end = begin + 1; end < a->m && (position[end] < sinks) == eight; end++) {}
    const int number = (end - begin + kt->mr - 1) / kt->mr, mr = (end - begin + number - 1) / number;
    for (int i = begin; i < end; i += mr) panels[count++] = (agq_token_panel){i, end - i < mr ? end - i : mr, eight};
  }
  a->panels = panels;
  a->panel_count = count;
}

/* Rows of codes that are interleaved together: as many as fit the stack buffer, so that whole cache lines are
 * written. */
#define ROWS 8
#define ROWS_BYTES (64 << 10)

/* `count` rows of k codes, 4 codes at a time, to codes[k/4][width][4] from token `first` on. */
static void interleave(const int8_t *rows, size_t stride, int count, int k, int8_t *codes, int width, int first) {
  codes += 4 * first;
  if (count == ROWS) { /* a constant number: the copies below become plain vector code */
    for (int c = 0; c < k; c += 4)
      for (int i = 0; i < ROWS; i++) memcpy(codes + (size_t)c * width + 4 * i, rows + i * stride + c, 4);
  } else {
    for (int i = 0; i < count; i++)
      for (int c = 0; c < k; c += 4) memcpy(codes + (size_t)c * width + 4 * i, rows + i * stride + c, 4);
  }
}

void agq_act_quantize(agq_act *a, const agq_kernel_table *kt, const agq_linear *l, const float *x, size_t ldx,
                      int begin, int end, void *scratch) {
  _Alignas(64) int8_t buffer[ROWS_BYTES];
  int8_t *row = scratch;
  float *rotated = l->hadamard ? (float *)((char *)scratch + align64((size_t)a->k_padded)) : 0;
  const size_t stride = (size_t)a->k_padded;
  /* Several rows in the buffer if they fit; else one in the caller's scratch. */
  const agq_static fixed = l->act_static ? agq_static_of(l) : (agq_static){0};
  const agq_linear sink = agq_eight_bits(l);
  agq_shape sink_shape = {0};
  if (a->panels) agq_linear_shape(&sink, &sink_shape);
  const int together = stride * ROWS <= ROWS_BYTES ? ROWS : stride * 2 <= ROWS_BYTES ? (int)(ROWS_BYTES / stride) : 1;
  for (int p = begin; p < end; p++) {
    const agq_token_panel panel = agq_act_panel(a, p);
    const int width = panel.width, first = panel.first;
    const int block = panel.eight ? sink_shape.block : a->block, blocks = panel.eight ? sink_shape.blocks : a->blocks;
    const agq_linear *as = panel.eight ? &sink : l;
    int8_t *codes = a->codes + (size_t)first * a->k_padded;
    int32_t *sums = a->sums + (size_t)first * a->blocks;
    for (int i = 0; i < width; i += together) {
      const int count = width - i < together ? width - i : together;
      int8_t *out = width == 1 ? codes : together == 1 ? row : buffer;
      for (int j = 0; j < count; j++) {
        const size_t token = (size_t)first + i + j;
        const float *from = x + token * ldx;
        if (rotated) {
          agq_hadamard_row(from, rotated, a->k, l->hadamard);
          from = rotated;
        }
        if (l->act_static) {
          kt->quantize_static(from, a->k, a->k_padded, &fixed, out + j * stride);
          a->scales[token] = l->act_scale;
        } else {
          kt->quantize_row(from, a->k, a->k_padded, as->act_bits, as->act_group, as->act_symmetric, clip_of(as),
                           out + j * stride, a->scales + token * a->scales_per_token);
        }
        kt->sum_blocks(out + j * stride, block, blocks, sums + i + j, width);
      }
      if (width > 1) interleave(out, stride, count, a->k_padded, codes, width, i);
    }
  }
}

void agq_act_rotate(const agq_linear *l, const float *x, size_t ldx, int begin, int end, float *rows) {
  for (int t = begin; t < end; t++)
    agq_hadamard_row(x + (size_t)t * ldx, rows + (size_t)t * (size_t)l->in_features, l->in_features, l->hadamard);
}

static const agq_kernel *integer_kernel(const agq_kernel_table *kt, const agq_linear *l, int m) {
  const agq_format *format = agq_format_of(l->weight_dtype);
  if (l->multiplier == AGQ_MULTIPLIER_PACKED) return agq_format_kernel(kt, format->packed);
  /* Static 4-bit operands are shifted by up to 3 bits: too long for the kernels that count on |a| <= 15. */
  const int four = l->act_bits == 4 && !l->act_static;
  return agq_format_kernel(kt, (m == 1 ? format->one : format->many)[four]);
}

/* What token panels of one format are given to. */
typedef struct {
  const agq_kernel *kernel;
  agq_tile t;
} format;

static format format_of(const agq_kernel_table *kt, const agq_linear *l, const agq_act *a, size_t ldy) {
  agq_shape s;
  agq_linear_shape(l, &s);
  const agq_tile t = {
      .w_stride = s.panel_bytes, .scale_stride = s.scale_panel_bytes, .zero_stride = s.zero_panel_bytes,
      .scale_bf16 = l->scale_dtype == AGQ_BF16, .block = s.block, .blocks = s.blocks, .group_blocks = s.group_blocks,
      .a_scale_stride = a->scales_per_token, .act_blocks = s.act_blocks, .ldy = ldy,
      .lowest = l->act_static && l->act_bits == 8, .format = agq_format_of(l->weight_dtype),
  };
  return (format){integer_kernel(kt, l, a->m), t};
}

static void run_integer(const agq_kernel_table *kt, const agq_linear *l, const agq_act *a, float *y, size_t ldy, int begin,
                        int end) {
  format formats[2] = {format_of(kt, l, a, ldy)};
  if (a->panels) {
    const agq_linear eight = agq_eight_bits(l);
    formats[1] = format_of(kt, &eight, a, ldy);
  }
  const int token_panels = agq_act_token_panels(a);
  /* Loops: a chunk of tokens whose codes fit L2; then the weights once; for each few panels of them all tokens of the
   * chunk. */
  int chunk = (int)(CHUNK_BYTES / ((size_t)a->k_padded * a->mr));
  if (chunk < 1) chunk = 1;
  const int step = a->m == 1 ? end - begin : formats[0].kernel->step;
  for (int c = 0; c < token_panels; c += chunk) {
    const int last = c + chunk < token_panels ? c + chunk : token_panels;
    for (int p = begin; p < end; p += step) {
      const int row = p * AGQ_PANEL;
      for (int f = 0; f <= (a->panels != 0); f++) {
        agq_tile *t = &formats[f].t;
        t->panels = end - p < step ? end - p : step;
        t->rows = l->out_features - row < t->panels * AGQ_PANEL ? l->out_features - row : t->panels * AGQ_PANEL;
        t->w = (const uint8_t *)l->weight + p * t->w_stride;
        t->scale = (const char *)l->scale + p * t->scale_stride;
        t->zero = l->zero ? l->zero + p * t->zero_stride : 0;
        t->bias = l->bias ? l->bias + row : 0;
      }
      for (int q = c; q < last; q++) {
        const agq_token_panel panel = agq_act_panel(a, q);
        const size_t token = (size_t)panel.first;
        agq_tile *t = &formats[panel.eight].t;
        t->width = panel.width;
        t->a = a->codes + token * a->k_padded;
        t->sums = a->sums + token * a->blocks;
        t->a_scale = a->scales + token * a->scales_per_token;
        t->y = y + token * ldy + row;
        formats[panel.eight].kernel->run(t);
      }
    }
  }
}

static const agq_float_kernel *float_kernel(const agq_kernel_table *kt, int dtype) {
  return agq_format_floats(kt, agq_format_of(dtype)->floats);
}

void agq_linear_run(const agq_kernel_table *kt, const agq_linear *l, const agq_act *a, const float *x, size_t ldx,
                    int m, float *y, size_t ldy, int begin, int end) {
  agq_shape s;
  agq_linear_shape(l, &s);
  if (begin >= end || m < 1) return;
  if (s.integer) {
    run_integer(kt, l, a, y, ldy, begin, end);
    return;
  }
  const agq_float_fn run = float_kernel(kt, l->weight_dtype)->run;
  int chunk = (int)(FLOAT_CHUNK_BYTES / ((size_t)l->in_features * sizeof(float)));
  chunk = chunk < 16 ? 16 : chunk;
  for (int i = 0; i < m; i += chunk) {
    agq_float_tile t = {.l = l, .panel = begin, .panels = end - begin, .x = x + i * ldx, .ldx = ldx,
                        .m = m - i < chunk ? m - i : chunk, .y = y + i * ldy, .ldy = ldy};
    run(&t);
  }
}

const char *agq_linear_kernel(const agq_linear *l, int m) {
  return l->act_bits == 32 ? float_kernel(&agq_kernels_native, l->weight_dtype)->name : integer_kernel(&agq_kernels_native, l, m)->name;
}

const char *agq_linear_accumulator(const agq_linear *l) {
  return l->act_bits == 32 ? "float32" : integer_kernel(&agq_kernels_native, l, 2)->accumulator;
}
