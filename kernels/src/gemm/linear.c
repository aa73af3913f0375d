/* linear.c: from a descriptor and rows of floats to kernel calls; see linear.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "linear.h"

#include <math.h>
#include <string.h>

#include "convert.h"
#include "ops/ops.h"
#include "quantize.h"

/* Codes of the tokens that are worked on while the weights pass by once: they should stay in L2 beside a panel of
 * weights. */
#define CHUNK_BYTES (768 << 10)
/* The same for float activations. */
#define FLOAT_CHUNK_BYTES (512 << 10)

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }

agq_linear agq_eight_bits(const agq_linear *l) {
  agq_linear eight = *l;
  eight.act_bits = 8;
  eight.act_group = 0;
  eight.act_symmetric = 1;
  eight.act_clip = 1;
  eight.multiplier = AGQ_MULTIPLIER_DEFAULT;
  return eight;
}

static const agq_kernel *integer_kernel(const agq_kernel_table *kt, const agq_linear *l, int m) {
  const agq_format *format = agq_format_of(l->weight_dtype);
  if (l->multiplier == AGQ_MULTIPLIER_PACKED) return agq_format_kernel(kt, format->packed);
  /* Static 4-bit operands are shifted by up to 3 bits: too long for the kernels that count on |a| <= 15. */
  const int four = agq_dynamic_four_bits(l);
  return agq_format_kernel(kt, (m == 1 ? format->one : format->many)[four]);
}

static const agq_float_kernel *float_kernel(const agq_kernel_table *kt, const agq_linear *l) {
  return agq_format_floats(kt, agq_format_of(l->weight_dtype)->floats);
}

static int prepare_scheme(agq_scheme *s, const agq_kernel_table *kt, const agq_linear *l) {
  const int status = agq_linear_shape(l, &s->shape);
  if (status != AGQ_OK) return status;
  s->bits = l->act_bits;
  s->group = l->act_group;
  s->symmetric = l->act_symmetric;
  s->clip = l->act_clip == 0 ? 1.0f : l->act_clip;
  if (!s->shape.integer) return AGQ_OK;
  s->one = integer_kernel(kt, l, 1);
  s->many = integer_kernel(kt, l, 2);
  return AGQ_OK;
}

int agq_linear_prepare(agq_prepared *p, const agq_kernel_table *kt, const agq_linear *l, int sinks) {
  memset(p, 0, sizeof *p);
  int status = prepare_scheme(&p->own, kt, l);
  if (status != AGQ_OK) return status;
  p->l = *l;
  p->kernels = kt;
  p->format = agq_format_of(l->weight_dtype);
  p->floats = float_kernel(kt, l);
  if (l->minimum) {
    p->minimum = (agq_linear){.out_features = l->out_features,
                              .in_features = p->own.shape.groups,
                              .weight_dtype = l->scale_dtype,
                              .act_bits = 32,
                              .weight = l->minimum};
    p->minimum_floats = float_kernel(kt, &p->minimum);
  }
  if (l->act_static) p->fixed = agq_static_of(l);
  if (sinks && agq_dynamic_four_bits(l)) {
    const agq_linear eight = agq_eight_bits(l);
    status = prepare_scheme(&p->eight, kt, &eight);
  }
  return status;
}

agq_prepared agq_linear_slice(const agq_prepared *p, int begin, int end) {
  agq_prepared part = *p;
  const agq_shape *s = &p->own.shape;
  part.l.out_features = (end - begin) * AGQ_PANEL;
  part.l.weight = (const char *)p->l.weight + (size_t)begin * s->panel_bytes;
  if (p->l.scale) part.l.scale = (const char *)p->l.scale + (size_t)begin * s->scale_panel_bytes;
  if (p->l.zero) part.l.zero = p->l.zero + (size_t)begin * s->zero_panel_bytes;
  if (p->l.bias) part.l.bias = p->l.bias + (size_t)begin * AGQ_PANEL;
  if (p->l.minimum) {
    part.l.minimum = (const char *)p->l.minimum + (size_t)begin * s->scale_panel_bytes;
    part.minimum.weight = part.l.minimum;
    part.minimum.out_features = part.l.out_features;
  }
  return part;
}

size_t agq_act_workspace(const agq_prepared *p, int m) {
  const agq_shape *s = &p->own.shape;
  const size_t k = (size_t)p->l.in_features;
  const size_t groups = p->l.minimum ? align64((size_t)m * s->groups * sizeof(float)) : 0;
  if (!s->integer) return groups + (p->l.hadamard ? align64((size_t)m * k * sizeof(float)) : 0);
  return groups + align64((size_t)m * agq_pad32(p->l.in_features)) +
         align64((size_t)m * s->act_scales * sizeof(float)) + align64((size_t)m * s->blocks * sizeof(int32_t));
}

size_t agq_act_scratch(const agq_prepared *p) {
  return align64((size_t)agq_pad32(p->l.in_features)) +
         (p->l.hadamard ? align64((size_t)p->l.in_features * sizeof(float)) : 0);
}

void agq_act_init(agq_act *a, const agq_prepared *p, int m, void *workspace) {
  const agq_shape *s = &p->own.shape;
  const int mr = p->kernels->mr, grain = p->kernels->grain;
  memset(a, 0, sizeof *a);
  a->m = m;
  a->k = p->l.in_features;
  a->k_padded = agq_pad32(a->k);
  char *at = workspace;
  if (p->l.minimum) {
    a->groups = (float *)at;
    at += align64((size_t)m * s->groups * sizeof(float));
  }
  if (!s->integer) {
    if (p->l.hadamard) a->rows = (float *)at;
    return;
  }
  /* Token panels of equal width, so that the last one is not a thin rest. */
  const int panels = (m + mr - 1) / mr;
  a->mr = (m + panels - 1) / panels;
  if (panels > 1 && grain) a->mr = (a->mr + grain - 1) / grain * grain;
  a->block = s->block;
  a->blocks = s->blocks;
  a->scales_per_token = s->act_scales;
  a->codes = (int8_t *)at;
  at += align64((size_t)m * a->k_padded);
  a->scales = (float *)at;
  at += align64((size_t)m * s->act_scales * sizeof(float));
  a->sums = (int32_t *)at;
}

int agq_act_token_panels(const agq_act *a) { return a->panels ? a->panel_count : (a->m + a->mr - 1) / a->mr; }

agq_token_panel agq_act_panel(const agq_act *a, int panel) {
  if (a->panels) return a->panels[panel];
  const int first = panel * a->mr, rest = a->m - first;
  return (agq_token_panel){first, rest < a->mr ? rest : a->mr, 0};
}

void agq_act_sinks(agq_act *a, const agq_prepared *p, const int32_t *position, int sinks, agq_token_panel *panels) {
  const int most = p->kernels->mr;
  int any = 0, count = 0;
  for (int i = 0; i < a->m; i++) any |= position[i] < sinks;
  if (!any) return;
  for (int begin = 0, end; begin < a->m; begin = end) { /* runs of tokens of one format */
    const int eight = position[begin] < sinks;
    for (end = begin + 1; end < a->m && (position[end] < sinks) == eight; end++) {}
    const int number = (end - begin + most - 1) / most, mr = (end - begin + number - 1) / number;
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

/* Sums of the dequantized activations of a token's weight groups, from those of its blocks' codes. */
static void sum_groups(const agq_shape *s, const int32_t *sums, int stride, const float *scales, float *groups) {
  for (int g = 0, b = 0; g < s->groups; g++) {
    float sum = 0;
    for (int end = b + s->group_blocks; b < end; b++)
      sum = agq_madd((float)sums[(size_t)b * (size_t)stride], scales[s->act_blocks ? b / s->act_blocks : 0], sum);
    groups[g] = sum;
  }
}

void agq_act_quantize(agq_act *a, const agq_prepared *p, const float *x, size_t ldx, int begin, int end,
                      void *scratch) {
  _Alignas(64) int8_t buffer[ROWS_BYTES];
  const agq_kernel_table *kt = p->kernels;
  int8_t *row = scratch;
  float *rotated = p->l.hadamard ? (float *)((char *)scratch + align64((size_t)a->k_padded)) : 0;
  const size_t stride = (size_t)a->k_padded;
  /* Several rows in the buffer if they fit; else one in the caller's scratch. */
  const int together = stride * ROWS <= ROWS_BYTES ? ROWS : stride * 2 <= ROWS_BYTES ? (int)(ROWS_BYTES / stride) : 1;
  for (int q = begin; q < end; q++) {
    const agq_token_panel panel = agq_act_panel(a, q);
    const int width = panel.width, first = panel.first;
    const agq_scheme *as = panel.eight ? &p->eight : &p->own;
    const int block = as->shape.block, blocks = as->shape.blocks;
    int8_t *codes = a->codes + (size_t)first * a->k_padded;
    int32_t *sums = a->sums + (size_t)first * a->blocks;
    for (int i = 0; i < width; i += together) {
      const int count = width - i < together ? width - i : together;
      int8_t *out = width == 1 ? codes : together == 1 ? row : buffer;
      for (int j = 0; j < count; j++) {
        const size_t token = (size_t)first + i + j;
        const float *from = x + token * ldx;
        if (rotated) {
          agq_hadamard_row(from, rotated, a->k, p->l.hadamard);
          from = rotated;
        }
        if (p->l.act_static) {
          kt->quantize_static(from, a->k, a->k_padded, &p->fixed, out + j * stride);
          a->scales[token] = agq_finite_row(from, a->k) ? p->l.act_scale : NAN;
        } else {
          kt->quantize_row(from, a->k, a->k_padded, as->bits, as->group, as->symmetric, as->clip, out + j * stride,
                           a->scales + token * a->scales_per_token);
        }
        kt->sum_blocks(out + j * stride, block, blocks, sums + i + j, width);
        if (a->groups)
          sum_groups(&as->shape, sums + i + j, width, a->scales + token * a->scales_per_token,
                     a->groups + token * (size_t)as->shape.groups);
      }
      if (width > 1) interleave(out, stride, count, a->k_padded, codes, width, i);
    }
  }
}

/* In eight interleaved sums, which vectors of any length compute alike. */
static float sum_floats(const float *x, int n) {
  float s[8] = {0};
  int i = 0;
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; j++) s[j] += x[i + j];
  for (; i < n; i++) s[i % 8] += x[i];
  return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

void agq_act_floats(agq_act *a, const agq_prepared *p, const float *x, size_t ldx, int begin, int end) {
  const int groups = p->own.shape.groups;
  for (int t = begin; t < end; t++) {
    const float *from = x + (size_t)t * ldx;
    if (a->rows) {
      float *row = a->rows + (size_t)t * (size_t)a->k;
      agq_hadamard_row(from, row, a->k, p->l.hadamard);
      from = row;
    }
    if (!a->groups) continue;
    const int columns = a->k / groups;
    for (int g = 0; g < groups; g++)
      a->groups[(size_t)t * (size_t)groups + (size_t)g] = sum_floats(from + (size_t)g * (size_t)columns, columns);
  }
}

/* What token panels of one scheme are given to. */
typedef struct {
  const agq_kernel *kernel;
  agq_tile t;
} call;

static call call_of(const agq_prepared *p, const agq_scheme *as, const agq_act *a, size_t ldy) {
  const agq_shape *s = &as->shape;
  const agq_tile t = {
      .w_stride = s->panel_bytes,
      .scale_stride = s->scale_panel_bytes,
      .zero_stride = s->zero_panel_bytes,
      .symmetric = agq_symmetric_zero(&p->l),
      .scale_type = p->l.scale_dtype,
      .block = s->block,
      .blocks = s->blocks,
      .group_blocks = s->group_blocks,
      .a_scale_stride = a->scales_per_token,
      .act_blocks = s->act_blocks,
      .ldy = ldy,
      .lowest = p->l.act_static && as->bits == 8,
      .format = p->format,
  };
  return (call){a->m == 1 ? as->one : as->many, t};
}

static void run_integer(const agq_prepared *prepared, const agq_act *a, float *y, size_t ldy, int begin, int end) {
  const agq_linear *l = &prepared->l;
  call calls[2] = {call_of(prepared, &prepared->own, a, ldy)};
  if (a->panels) calls[1] = call_of(prepared, &prepared->eight, a, ldy);
  const int token_panels = agq_act_token_panels(a);
  /* Loops: a chunk of tokens whose codes fit L2; then the weights once; for each few panels of them all tokens of the
   * chunk. */
  int chunk = (int)(CHUNK_BYTES / ((size_t)a->k_padded * a->mr));
  if (chunk < 1) chunk = 1;
  const int step = a->m == 1 ? end - begin : calls[0].kernel->step;
  for (int c = 0; c < token_panels; c += chunk) {
    const int last = c + chunk < token_panels ? c + chunk : token_panels;
    for (int p = begin; p < end; p += step) {
      const int row = p * AGQ_PANEL;
      for (int f = 0; f <= (a->panels != 0); f++) {
        agq_tile *t = &calls[f].t;
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
        agq_tile *t = &calls[panel.eight].t;
        t->width = panel.width;
        t->a = a->codes + token * a->k_padded;
        t->sums = a->sums + token * a->blocks;
        t->a_scale = a->scales + token * a->scales_per_token;
        t->y = y + token * ldy + row;
        calls[panel.eight].kernel->run(t);
      }
    }
  }
}

/* Float weights or codes times floats. add: to what y holds. */
static void run_floats(const agq_linear *l, const agq_float_kernel *kernel, const float *x, size_t ldx, int m, float *y,
                       size_t ldy, int begin, int end, int add) {
  int chunk = (int)(FLOAT_CHUNK_BYTES / ((size_t)l->in_features * sizeof(float)));
  chunk = chunk < 16 ? 16 : chunk;
  for (int i = 0; i < m; i += chunk) {
    agq_float_tile t = {.l = l,
                        .panel = begin,
                        .panels = end - begin,
                        .x = x + i * ldx,
                        .ldx = ldx,
                        .m = m - i < chunk ? m - i : chunk,
                        .y = y + i * ldy,
                        .ldy = ldy,
                        .add = add};
    kernel->run(&t);
  }
}

void agq_linear_run(const agq_prepared *p, const agq_act *a, const float *x, size_t ldx, int m, float *y, size_t ldy,
                    int begin, int end) {
  if (begin >= end || m < 1) return;
  if (p->own.shape.integer) run_integer(p, a, y, ldy, begin, end);
  else run_floats(&p->l, p->floats, x, ldx, m, y, ldy, begin, end, 0);
  if (p->l.minimum)
    run_floats(&p->minimum, p->minimum_floats, a->groups, (size_t)p->minimum.in_features, m, y, ldy, begin, end, 1);
}

const char *agq_linear_kernel(const agq_linear *l, int m) {
  return l->act_bits == 32 ? float_kernel(&agq_kernels_native, l)->name
                           : integer_kernel(&agq_kernels_native, l, m)->name;
}

const char *agq_linear_accumulator(const agq_linear *l) {
  return l->act_bits == 32 ? "float32" : integer_kernel(&agq_kernels_native, l, 2)->accumulator;
}
