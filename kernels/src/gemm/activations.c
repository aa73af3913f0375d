/* activations.c: the activations of a linear: where they lie, their token panels, their codes, scales and sums.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "convert.h"
#include "linear.h"
#include "ops/ops.h"
#include "quantize.h"

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }

size_t agq_act_workspace(const agq_prepared *p, int m) {
  const agq_shape *s = &p->own.shape;
  const size_t k = (size_t)p->l.in_features;
  const size_t groups = p->l.minimum ? align64((size_t)m * s->groups * sizeof(float)) : 0;
  if (!s->integer) return groups + (agq_act_moves(&p->l) ? align64((size_t)m * k * sizeof(float)) : 0);
  return groups + align64((size_t)m * agq_pad32(p->l.in_features)) +
         align64((size_t)m * s->act_scales * sizeof(float)) + align64((size_t)m * s->blocks * sizeof(int32_t));
}

size_t agq_act_scratch(const agq_prepared *p) {
  return align64((size_t)agq_pad32(p->l.in_features)) +
         (agq_act_moves(&p->l) ? align64((size_t)p->l.in_features * sizeof(float)) : 0);
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
    if (agq_act_moves(&p->l)) a->rows = (float *)at;
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

/* A row of the input as the columns of `l` multiply it: in their order, then transformed. */
static void move_row(const agq_linear *l, const float *x, float *to) {
  if (l->input_order) {
    for (int c = 0; c < l->in_features; c++) to[c] = x[l->input_order[c]];
    x = to;
  }
  if (l->hadamard) agq_hadamard_row(x, to, l->in_features, l->hadamard);
}

void agq_act_quantize(agq_act *a, const agq_prepared *p, const float *x, size_t ldx, int begin, int end,
                      void *scratch) {
  _Alignas(64) int8_t buffer[ROWS_BYTES];
  const agq_kernel_table *kt = p->kernels;
  int8_t *row = scratch;
  float *moved = agq_act_moves(&p->l) ? (float *)((char *)scratch + align64((size_t)a->k_padded)) : 0;
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
        if (moved) {
          move_row(&p->l, from, moved);
          from = moved;
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
      move_row(&p->l, from, row);
      from = row;
    }
    if (!a->groups) continue;
    const int columns = a->k / groups;
    for (int g = 0; g < groups; g++)
      a->groups[(size_t)t * (size_t)groups + (size_t)g] = sum_floats(from + (size_t)g * (size_t)columns, columns);
  }
}
