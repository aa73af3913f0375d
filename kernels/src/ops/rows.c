/* rows.c: reading rows of stored matrices as floats.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "formats/formats.h"
#include "gemm/convert.h"
#include "ops.h"

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

void agq_scaled_row(const int8_t *x, float scale, float *y, int n) {
  for (int i = 0; i < n; i++) y[i] = (float)x[i] * scale;
}

static void panel_row_i8(const agq_linear *l, int row, float *y) {
  const int k = l->in_features, group = l->group_size ? l->group_size : k, groups = k / group;
  const size_t panel = (size_t)row / AGQ_PANEL, lane = (size_t)row % AGQ_PANEL;
  const int8_t *w = (const int8_t *)l->weight + panel * AGQ_PANEL * (size_t)agq_pad32(k) + 4 * lane;
  for (int g = 0; g < groups; g++) {
    const size_t at = (panel * (size_t)groups + (size_t)g) * AGQ_PANEL + lane;
    const float scale =
        l->scale_dtype == AGQ_BF16 ? agq_bf16_float(((const uint16_t *)l->scale)[at]) : ((const float *)l->scale)[at];
    const int zero = l->zero ? l->zero[at] : 0;
    const int end = (g + 1) * group; /* groups start at multiples of 4 */
    int c = g * group;
    for (; c + 4 <= end; c += 4)
      for (int i = 0; i < 4; i++) y[c + i] = (float)(w[(size_t)c * 16 + (size_t)i] - zero) * scale;
    for (int i = 0; c + i < end; i++) y[c + i] = (float)(w[(size_t)c * 16 + (size_t)i] - zero) * scale;
  }
}

void agq_panel_row(const agq_linear *l, int row, float *y) {
  if (l->weight_dtype == AGQ_I8) {
    panel_row_i8(l, row, y);
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
