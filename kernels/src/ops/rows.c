/* rows.c: reading rows of stored matrices as floats.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "formats/formats.h"
#include "gemm/convert.h"
#include "ops.h"
#include "vec.h"

int agq_finite_row(const float *x, int n) { return isfinite(vlargest_of(x, n)); }

int agq_float_bytes(int dtype) {
  const agq_format *format = agq_format_of(dtype);
  return format && !format->integer ? format->bits / 8 : 0;
}

void agq_to_float_row(int dtype, const void *x, float *y, int n) {
  if (dtype == AGQ_F32) memcpy(y, x, (size_t)n * sizeof(float));
  else if (dtype == AGQ_BF16)
    for (int i = 0; i < n; i++) y[i] = agq_bf16_float(((const uint16_t *)x)[i]);
  else
    for (int i = 0; i < n; i++) y[i] = agq_f16_float(((const uint16_t *)x)[i]);
}

void agq_scaled_row(const int8_t *x, const float *scale, size_t row, int group, float *y, int n) {
  if (!group) group = n;
  scale += row * (size_t)(n / group);
  for (int c = 0; c < n; c += group, scale++)
    for (int i = c; i < c + group; i++) y[i] = (float)x[i] * *scale;
}

static void panel_row_codes(const agq_linear *l, const agq_format *format, int row, float *y) {
  const int k = l->in_features, group = l->group_size ? l->group_size : k, groups = k / group;
  const size_t panel = (size_t)row / AGQ_PANEL, lane = (size_t)row % AGQ_PANEL;
  const uint8_t *w = (const uint8_t *)l->weight + panel * agq_format_bytes(format, (size_t)agq_pad32(k));
  int8_t codes[AGQ_UNPACK_COLUMNS * AGQ_PANEL];
  for (int c = 0; c < k; c += AGQ_UNPACK_COLUMNS) { /* groups start at multiples of it */
    const size_t at = (panel * (size_t)groups + (size_t)(c / group)) * AGQ_PANEL + lane;
    const float scale = agq_scale_at(l->scale, at, l->scale_dtype);
    const int zero = l->zero ? l->zero[at] : agq_symmetric_zero(l),
              n = k - c < AGQ_UNPACK_COLUMNS ? k - c : AGQ_UNPACK_COLUMNS;
    format->unpack(w + agq_format_bytes(format, (size_t)c), AGQ_UNPACK_COLUMNS, codes);
    for (int i = 0; i < n; i++) y[c + i] = (float)(codes[i / 4 * 64 + 4 * (int)lane + i % 4] - zero) * scale;
    if (!l->minimum) continue;
    const float minimum = agq_scale_at(l->minimum, at, l->scale_dtype);
    for (int i = 0; i < n; i++) y[c + i] += minimum;
  }
}

void agq_panel_row(const agq_linear *l, int row, float *y) {
  const agq_format *format = agq_format_of(l->weight_dtype);
  if (format->integer) {
    panel_row_codes(l, format, row, y);
    return;
  }
  const int k = l->in_features;
  const size_t first = (size_t)(row / AGQ_PANEL) * AGQ_PANEL * (size_t)k + (size_t)(row % AGQ_PANEL);
  if (l->weight_dtype == AGQ_F32)
    for (int c = 0; c < k; c++) y[c] = ((const float *)l->weight)[first + (size_t)c * AGQ_PANEL];
  else if (l->weight_dtype == AGQ_BF16)
    for (int c = 0; c < k; c++) y[c] = agq_bf16_float(((const uint16_t *)l->weight)[first + (size_t)c * AGQ_PANEL]);
  else
    for (int c = 0; c < k; c++) y[c] = agq_f16_float(((const uint16_t *)l->weight)[first + (size_t)c * AGQ_PANEL]);
}
