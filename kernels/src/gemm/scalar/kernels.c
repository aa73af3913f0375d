/* kernels.c: portable twins of every kernel. They define the result; each SIMD kernel is tested against them.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kernels.h"

#include "formats/formats.h"
#include "gemm/convert.h"

/* Integer kernels: one panel of 16 rows times one token at a time. The format is a constant at every call. */
static inline void panel_u4(const uint8_t *w, const int8_t *a, int stride, int columns, int32_t *acc) {
  for (int k = 0; k < columns; k += 8, w += 64, a += 2 * stride) {
    for (int r = 0; r < AGQ_PANEL; r++) {
      int32_t s = 0;
      for (int j = 0; j < 4; j++) s += (w[4 * r + j] & 15) * a[j] + (w[4 * r + j] >> 4) * a[stride + j];
      acc[r] += s;
    }
  }
}

static inline void panel_i8(const int8_t *w, const int8_t *a, int stride, int columns, int32_t *acc) {
  for (int k = 0; k < columns; k += 4, w += 64, a += stride) {
    for (int r = 0; r < AGQ_PANEL; r++) {
      int32_t s = 0;
      for (int j = 0; j < 4; j++) s += w[4 * r + j] * a[j];
      acc[r] += s;
    }
  }
}

static inline void integer_tile(const agq_tile *t, const agq_format *format) {
  const size_t block_bytes = agq_format_bytes(format, (size_t)t->block);
  const int tokens_first = agq_tokens_first(t), outer = agq_outer_blocks(t);
  for (int p = 0; p < t->panels; p++) {
    const uint8_t *w = t->w + p * t->w_stride;
    const char *scale = (const char *)t->scale + p * t->scale_stride;
    const int8_t *zero = t->zero ? t->zero + p * t->zero_stride : 0;
    int rows = t->rows - p * AGQ_PANEL < AGQ_PANEL ? t->rows - p * AGQ_PANEL : AGQ_PANEL;
    for (int i = 0; i < t->width; i++) {
      float f[AGQ_PANEL] = {0}, g[AGQ_PANEL] = {0};
      for (int b = 0; b < t->blocks; b++) {
        int group = b / t->group_blocks;
        int32_t sum = t->sums[(size_t)b * t->width + i], acc[AGQ_PANEL];
        for (int r = 0; r < AGQ_PANEL; r++) acc[r] = -(zero ? zero[group * AGQ_PANEL + r] : t->symmetric) * sum;
        const int8_t *a = t->a + (size_t)b * t->block * t->width + 4 * i;
        if (format->bits == 4) panel_u4(w + b * block_bytes, a, 4 * t->width, t->block, acc);
        else panel_i8((const int8_t *)w + b * block_bytes, a, 4 * t->width, t->block, acc);
        float as = t->act_blocks ? t->a_scale[(size_t)i * t->a_scale_stride + b / t->act_blocks] : 1;
        for (int r = 0; r < AGQ_PANEL; r++) {
          float ws = agq_scale_at(scale, (size_t)(group * AGQ_PANEL + r), t->scale_type);
          g[r] = agq_madd((float)acc[r], tokens_first ? as : ws, g[r]);
          if (outer && (b + 1) % outer == 0) f[r] = agq_madd(g[r], tokens_first ? ws : as, f[r]), g[r] = 0;
        }
      }
      float *y = t->y + i * t->ldy + p * AGQ_PANEL;
      for (int r = 0; r < rows; r++) {
        float v = outer ? f[r] : g[r] * t->a_scale[(size_t)i * t->a_scale_stride];
        y[r] = t->bias ? v + t->bias[p * AGQ_PANEL + r] : v;
      }
    }
  }
}

void agq_scalar_u4(const agq_tile *t) { integer_tile(t, &agq_formats[AGQ_U4]); }
void agq_scalar_i8(const agq_tile *t) { integer_tile(t, &agq_formats[AGQ_I8]); }

/* Float activations. */
static inline void write_rows(const agq_float_tile *t, int token, int panel, const float *f) {
  const int rows = t->l->out_features, first = panel * AGQ_PANEL;
  const float *addend = agq_float_addend(t, token);
  for (int r = 0; r < AGQ_PANEL && first + r < rows; r++)
    t->y[token * t->ldy + first + r] = addend ? f[r] + addend[first + r] : f[r];
}

/* Weights stored as floats; `dtype` is a constant at every call. */
static inline void float_tile(const agq_float_tile *t, int dtype) {
  const int k = t->l->in_features;
  for (int p = t->panel; p < t->panel + t->panels; p++) {
    const float *w32 = (const float *)t->l->weight + (size_t)p * k * AGQ_PANEL;
    const uint16_t *w16 = (const uint16_t *)t->l->weight + (size_t)p * k * AGQ_PANEL;
    for (int i = 0; i < t->m; i++) {
      const float *x = t->x + i * t->ldx;
      float f[AGQ_PANEL] = {0};
      for (int c = 0; c < k; c++)
        for (int r = 0; r < AGQ_PANEL; r++) {
          size_t at = (size_t)c * AGQ_PANEL + r;
          float w = dtype == AGQ_F32 ? w32[at] : dtype == AGQ_BF16 ? agq_bf16_float(w16[at]) : agq_f16_float(w16[at]);
          f[r] = agq_madd(w, x[c], f[r]);
        }
      write_rows(t, i, p, f);
    }
  }
}

/* Integer weights, float activations: per group the sum of (code - zero) * x, then one multiply-add with the scale. */
static inline void dequant_tile(const agq_float_tile *t, const agq_format *format) {
  const agq_linear *l = t->l;
  const int k = l->in_features, group = l->group_size ? l->group_size : k, groups = k / group;
  const size_t panel_bytes = agq_format_bytes(format, (size_t)agq_pad32(k));
  for (int p = t->panel; p < t->panel + t->panels; p++) {
    const uint8_t *w = (const uint8_t *)l->weight + p * panel_bytes;
    const size_t at = (size_t)p * groups * AGQ_PANEL;
    for (int i = 0; i < t->m; i++) {
      const float *x = t->x + i * t->ldx;
      float f[AGQ_PANEL] = {0};
      for (int g = 0; g < groups; g++) {
        float sum[AGQ_PANEL] = {0}, zero[AGQ_PANEL];
        for (int r = 0; r < AGQ_PANEL; r++)
          zero[r] = (float)(l->zero ? l->zero[at + g * AGQ_PANEL + r] : agq_symmetric_zero(l));
        for (int c = g * group; c < (g + 1) * group; c++)
          for (int r = 0; r < AGQ_PANEL; r++) {
            int code = format->bits == 4 ? w[(size_t)(c / 8) * 64 + 4 * r + c % 4] >> (c & 4) & 15
                                         : (int8_t)w[(size_t)(c / 4) * 64 + 4 * r + c % 4];
            sum[r] = agq_madd((float)code - zero[r], x[c], sum[r]);
          }
        for (int r = 0; r < AGQ_PANEL; r++)
          f[r] = agq_madd(sum[r], agq_scale_at(l->scale, at + (size_t)(g * AGQ_PANEL + r), l->scale_dtype), f[r]);
      }
      write_rows(t, i, p, f);
    }
  }
}

void agq_scalar_float_f32(const agq_float_tile *t) { float_tile(t, AGQ_F32); }
void agq_scalar_float_f16(const agq_float_tile *t) { float_tile(t, AGQ_F16); }
void agq_scalar_float_bf16(const agq_float_tile *t) { float_tile(t, AGQ_BF16); }
void agq_scalar_float_u4(const agq_float_tile *t) { dequant_tile(t, &agq_formats[AGQ_U4]); }
void agq_scalar_float_i8(const agq_float_tile *t) { dequant_tile(t, &agq_formats[AGQ_I8]); }
