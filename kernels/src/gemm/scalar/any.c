/* any.c: kernels for every integer weight format, from its row's `unpack` (formats.h): what a format without kernels of
 * its own is computed by, on all levels. The arithmetic is that of kernels.c, so the results are the same bit for bit.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "formats/formats.h"
#include "gemm/convert.h"
#include "gemm/layout.h"
#include "kernels.h"

enum { CODES = AGQ_UNPACK_COLUMNS * AGQ_PANEL };

/* acc[row] += products of one block's columns with a token's codes a: [column / 4] of `stride` bytes. */
static void block_products(const agq_format *f, const uint8_t *w, int columns, const int8_t *a, int stride,
                           int32_t *acc) {
  int8_t codes[CODES];
  for (int c = 0; c < columns; c += AGQ_UNPACK_COLUMNS, w += agq_format_bytes(f, AGQ_UNPACK_COLUMNS)) {
    f->unpack(w, AGQ_UNPACK_COLUMNS, codes);
    for (const int8_t *u = codes; u != codes + CODES; u += 4 * AGQ_PANEL, a += stride)
      for (int r = 0; r < AGQ_PANEL; r++)
        for (int j = 0; j < 4; j++) acc[r] += u[4 * r + j] * a[j];
  }
}

/* One panel times token i of the token panel. */
static void panel_token(const agq_tile *t, int p, int i) {
  const uint8_t *w = t->w + p * t->w_stride;
  const char *scale = (const char *)t->scale + p * t->scale_stride;
  const int8_t *zero = t->zero ? t->zero + p * t->zero_stride : NULL;
  const int tokens_first = agq_tokens_first(t), outer = agq_outer_blocks(t);
  const float *a_scale = t->a_scale + (size_t)i * (size_t)t->a_scale_stride;
  float f[AGQ_PANEL] = {0}, g[AGQ_PANEL] = {0};
  for (int b = 0; b < t->blocks; b++) {
    const size_t group = (size_t)(b / t->group_blocks) * AGQ_PANEL;
    const int32_t sum = t->sums[(size_t)b * (size_t)t->width + (size_t)i];
    int32_t acc[AGQ_PANEL];
    for (int r = 0; r < AGQ_PANEL; r++) acc[r] = -(zero ? zero[group + r] : t->symmetric) * sum;
    block_products(t->format, w + agq_format_bytes(t->format, (size_t)b * (size_t)t->block), t->block,
                   t->a + (size_t)b * (size_t)t->block * (size_t)t->width + 4 * i, 4 * t->width, acc);
    const float as = t->act_blocks ? a_scale[b / t->act_blocks] : 1;
    for (int r = 0; r < AGQ_PANEL; r++) {
      const float ws = agq_scale_at(scale, group + (size_t)r, t->scale_type);
      g[r] = agq_madd((float)acc[r], tokens_first ? as : ws, g[r]);
      if (outer && (b + 1) % outer == 0) f[r] = agq_madd(g[r], tokens_first ? ws : as, f[r]), g[r] = 0;
    }
  }
  float *y = t->y + i * t->ldy + p * AGQ_PANEL;
  for (int r = 0; r < AGQ_PANEL && p * AGQ_PANEL + r < t->rows; r++) {
    const float v = outer ? f[r] : g[r] * a_scale[0];
    y[r] = t->bias ? v + t->bias[p * AGQ_PANEL + r] : v;
  }
}

void agq_any_tile(const agq_tile *t) {
  for (int p = 0; p < t->panels; p++)
    for (int i = 0; i < t->width; i++) panel_token(t, p, i);
}

/* One panel times one token of floats. */
static void panel_floats(const agq_float_tile *t, const agq_format *format, int panel, int token) {
  const agq_linear *l = t->l;
  const int k = l->in_features, group = l->group_size ? l->group_size : k, groups = k / group,
            first = panel * AGQ_PANEL;
  const uint8_t *w = (const uint8_t *)l->weight + (size_t)panel * agq_format_bytes(format, (size_t)agq_pad32(k));
  const float *x = t->x + token * t->ldx;
  float f[AGQ_PANEL] = {0};
  int8_t codes[CODES];
  for (int g = 0; g < groups; g++) {
    const size_t at = ((size_t)panel * (size_t)groups + (size_t)g) * AGQ_PANEL;
    float sum[AGQ_PANEL] = {0};
    for (int c = g * group; c < (g + 1) * group; c++) {
      const int j = c % AGQ_UNPACK_COLUMNS;
      if (j == 0) format->unpack(w + agq_format_bytes(format, (size_t)c), AGQ_UNPACK_COLUMNS, codes);
      for (int r = 0; r < AGQ_PANEL; r++) {
        const float zero = (float)(l->zero ? l->zero[at + (size_t)r] : agq_symmetric_zero(l));
        sum[r] = agq_madd((float)codes[j / 4 * 64 + 4 * r + j % 4] - zero, x[c], sum[r]);
      }
    }
    for (int r = 0; r < AGQ_PANEL; r++)
      f[r] = agq_madd(sum[r], agq_scale_at(l->scale, at + (size_t)r, l->scale_dtype), f[r]);
  }
  for (int r = 0; r < AGQ_PANEL && first + r < l->out_features; r++)
    t->y[token * t->ldy + first + r] = l->bias ? f[r] + l->bias[first + r] : f[r];
}

void agq_any_float(const agq_float_tile *t) {
  const agq_format *format = agq_format_of(t->l->weight_dtype);
  for (int p = t->panel; p < t->panel + t->panels; p++)
    for (int i = 0; i < t->m; i++) panel_floats(t, format, p, i);
}
