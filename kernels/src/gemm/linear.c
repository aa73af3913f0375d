/* linear.c: from a descriptor and rows of floats to kernel calls; see linear.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "linear.h"

#include <string.h>

#include "quantize.h"

/* Codes of the tokens that are worked on while the weights pass by once: they should stay in L2 beside a panel of
 * weights. */
#define CHUNK_BYTES (768 << 10)
/* The same for float activations. */
#define FLOAT_CHUNK_BYTES (512 << 10)

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
