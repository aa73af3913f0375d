/* problem.h: random linears for the tests of products: as the kernels take them, and row by row as they are meant.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_TEST_PROBLEM_H
#define AGQ_TEST_PROBLEM_H

#include <math.h>

#include "gemm/convert.h"
#include "gemm/linear.h"
#include "test.h"

/* A random linear, everything it points to, and what that means row by row, read by the definition of the layout
 * (agq.h). */
typedef struct {
  agq_linear l;
  uint8_t *weight;
  void *scale;
  int8_t *zero;
  float *bias;
  int16_t *code;     /* [n][k]: code - zero point */
  double *row_scale; /* [n][groups] */
  void *minimum;
  double *row_minimum; /* [n][groups]; 0 without minima */
  double *dense;       /* [n][k], with float activations */
} problem;

/* Rows of inputs and outputs lie further apart than they are long; what is between them must stay as it is. */
enum { X_GAP = 5, Y_GAP = 3 };
static const float UNTOUCHED = 12345.5f;

enum { FILL_RANDOM, FILL_MAX, FILL_MIN, FILL_MIXED, FILLS };

static inline int code_at(const agq_linear *l, int row, int c) {
  const uint8_t *w = l->weight;
  const size_t panel = (size_t)(row / 16) * agq_pad32(l->in_features), r = row % 16;
  if (l->weight_dtype == AGQ_U4) return w[panel * 8 + (size_t)(c / 8) * 64 + 4 * r + c % 4] >> (c & 4) & 15;
  if (l->weight_dtype == AGQ_I6) {
    const uint8_t *lines = w + panel * 12 + (size_t)(c / 32) * 384 + 4 * r + c % 4;
    const int low = lines[c % 32 / 8 * 64] >> (c & 4) & 15,
              high = lines[256 + c % 32 / 16 * 64] >> (c % 16 / 4 * 2) & 3;
    return (high << 4 | low) - 32;
  }
  return (int8_t)w[panel * 16 + (size_t)(c / 4) * 64 + 4 * r + c % 4];
}

static inline double float_at(const agq_linear *l, int row, int c) {
  const size_t at = (size_t)(row / 16) * l->in_features * 16 + (size_t)c * 16 + row % 16;
  switch (l->weight_dtype) {
    case AGQ_F32: return ((const float *)l->weight)[at];
    case AGQ_F16: return agq_f16_float(((const uint16_t *)l->weight)[at]);
    default: return agq_bf16_float(((const uint16_t *)l->weight)[at]);
  }
}

/* Half precision by its definition: sign, exponent - 15, 10 bits of mantissa. */
static inline double half_of(uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const double value = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
  return h >> 15 ? -value : value;
}

/* A scale or a minimum. */
static inline double stored_at(const void *values, size_t i, int dtype) {
  if (dtype == AGQ_F32) return (double)((const float *)values)[i];
  const uint16_t bits = ((const uint16_t *)values)[i];
  return dtype == AGQ_F16 ? half_of(bits) : (double)agq_bf16_float(bits);
}

static inline void read_back(problem *p) {
  const agq_linear *l = &p->l;
  const int n = l->out_features, k = l->in_features, group = l->group_size ? l->group_size : k, groups = k / group;
  const int coded = l->weight_dtype >= AGQ_I8;
  if (coded) {
    p->code = test_alloc((size_t)n * k * sizeof *p->code);
    p->row_scale = test_alloc((size_t)n * groups * sizeof *p->row_scale);
    p->row_minimum = test_alloc((size_t)n * groups * sizeof *p->row_minimum);
  }
  if (l->act_bits == 32) p->dense = test_alloc((size_t)n * k * sizeof *p->dense);
  for (int r = 0; r < n; r++)
    for (int c = 0; c < k; c++) {
      const size_t at = (size_t)r * k + c, s = ((size_t)(r / 16) * groups + c / group) * 16 + r % 16;
      double scale = 1, minimum = 0;
      if (coded) {
        const int symmetric = l->weight_dtype == AGQ_U4 && !l->minimum ? 8 : 0;
        p->row_scale[(size_t)r * groups + c / group] = scale = stored_at(l->scale, s, l->scale_dtype);
        if (l->minimum) minimum = stored_at(l->minimum, s, l->scale_dtype);
        p->row_minimum[(size_t)r * groups + c / group] = minimum;
        p->code[at] = (int16_t)(code_at(l, r, c) - (l->zero ? l->zero[s] : symmetric));
      }
      if (p->dense) p->dense[at] = coded ? p->code[at] * scale + minimum : float_at(l, r, c);
    }
}

static inline void make(problem *p, int n, int k, int dtype, int group, int act_bits, int act_group, int act_symmetric,
                        int asymmetric, int scale_dtype, int fill) {
  memset(p, 0, sizeof *p);
  agq_linear *l = &p->l;
  *l = (agq_linear){.out_features = n,
                    .in_features = k,
                    .weight_dtype = dtype,
                    .scale_dtype = scale_dtype,
                    .group_size = group,
                    .act_bits = act_bits,
                    .act_group = act_group,
                    .act_symmetric = act_symmetric,
                    .zero = asymmetric ? (int8_t *)p : 0};
  l->weight_bytes = (size_t)agq_linear_weight_bytes(l);
  l->scale_bytes = (size_t)agq_linear_scale_bytes(l);
  l->zero_bytes = (size_t)agq_linear_zero_bytes(l);
  p->weight = test_alloc(l->weight_bytes);
  p->scale = test_alloc(l->scale_bytes);
  p->zero = asymmetric ? test_alloc(l->zero_bytes) : 0;
  p->bias = random_bits() & 1 ? test_alloc((size_t)n * sizeof(float)) : 0;
  const int u4 = dtype == AGQ_U4, i6 = dtype == AGQ_I6, lowest = asymmetric ? -128 : -127;
  for (size_t i = 0; i < l->weight_bytes; i++) {
    int high = fill == FILL_MAX || (fill == FILL_MIXED && random_bits() & 1), extreme = fill != FILL_RANDOM;
    if (u4 || i6) p->weight[i] = extreme ? (high ? 0xff : 0x00) : (uint8_t)random_bits();
    else p->weight[i] = (uint8_t)(extreme ? (high ? 127 : lowest) : random_int(lowest, 127));
  }
  for (size_t i = 0; i < l->scale_bytes / (scale_dtype == AGQ_F32 ? 4 : 2); i++) {
    float s = 0.01f + 0.02f * fabsf(random_float());
    if (scale_dtype == AGQ_BF16) ((uint16_t *)p->scale)[i] = test_bf16(s);
    else if (scale_dtype == AGQ_F16) ((uint16_t *)p->scale)[i] = (uint16_t)(0x2000 + random_int(0, 0x7ff));
    else ((float *)p->scale)[i] = s;
  }
  for (size_t i = 0; i < l->zero_bytes; i++) {
    int extreme = fill != FILL_RANDOM;
    p->zero[i] = (int8_t)(u4        ? (extreme ? (int)(random_bits() & 1) * 15 : random_int(0, 15))
                          : i6      ? (extreme ? (int)(random_bits() & 1) * 63 - 32 : random_int(-32, 31))
                          : extreme ? (random_bits() & 1 ? 127 : -128)
                                    : random_int(-128, 127));
  }
  for (int i = 0; i < n && p->bias; i++) p->bias[i] = random_float();
  l->weight = p->weight;
  l->scale = p->scale;
  l->zero = p->zero;
  l->bias = p->bias;
  read_back(p);
}

/* Gives it minima, as long as a few steps; in half precision some are subnormal. */
static inline void make_minima(problem *p) {
  agq_linear *l = &p->l;
  p->minimum = test_alloc(l->scale_bytes);
  for (size_t i = 0; i < l->scale_bytes / (l->scale_dtype == AGQ_F32 ? 4 : 2); i++) {
    const float f = 0.2f * random_float();
    if (l->scale_dtype == AGQ_F32) ((float *)p->minimum)[i] = f;
    else if (l->scale_dtype == AGQ_BF16) ((uint16_t *)p->minimum)[i] = test_bf16(f);
    else
      ((uint16_t *)p->minimum)[i] =
          (uint16_t)((random_bits() & 0x8000) | (uint32_t)random_int(i % 9 ? 0x2800 : 0, 0x3000));
  }
  l->minimum = p->minimum;
  l->minimum_bytes = l->scale_bytes;
  free(p->code), free(p->row_scale), free(p->row_minimum), free(p->dense);
  p->dense = NULL;
  read_back(p);
}

/* Floats of type f32, f16 or bf16 with small values. */
static inline void make_float(problem *p, int n, int k, int dtype) {
  memset(p, 0, sizeof *p);
  p->l = (agq_linear){.out_features = n, .in_features = k, .weight_dtype = dtype, .act_bits = 32};
  p->l.weight_bytes = (size_t)agq_linear_weight_bytes(&p->l);
  p->weight = test_alloc(p->l.weight_bytes);
  p->bias = random_bits() & 1 ? test_alloc((size_t)n * sizeof(float)) : 0;
  for (size_t i = 0; i < p->l.weight_bytes / (dtype == AGQ_F32 ? 4 : 2); i++) {
    float f = random_float();
    if (dtype == AGQ_F32) ((float *)p->weight)[i] = f;
    else if (dtype == AGQ_BF16) ((uint16_t *)p->weight)[i] = test_bf16(f);
    else
      ((uint16_t *)p->weight)[i] =
          (uint16_t)(random_bits() & 0x83ff) | (uint16_t)(random_int(0, 15) << 10); /* subnormals too */
  }
  for (int i = 0; i < n && p->bias; i++) p->bias[i] = random_float();
  p->l.weight = p->weight;
  p->l.bias = p->bias;
  read_back(p);
}

static inline void destroy(problem *p) {
  free(p->weight);
  free(p->scale);
  free(p->zero);
  free(p->bias);
  free(p->code);
  free(p->row_scale);
  free(p->minimum);
  free(p->row_minimum);
  free(p->dense);
}

/* y[m][n + Y_GAP] by a kernel table, from x[m][k + X_GAP] or from the given codes[m][k] and scales. */
static inline void compute(const agq_kernel_table *kt, const agq_linear *l, const float *x, int m, float *y,
                           const int8_t *codes, const float *scales) {
  agq_act a;
  agq_prepared prepared;
  test_expect(agq_linear_prepare(&prepared, kt, l, 0) == AGQ_OK, "agq_linear_prepare");
  const size_t bytes = agq_act_workspace(&prepared, m), ldy = (size_t)l->out_features + Y_GAP;
  size_t ldx = (size_t)l->in_features + X_GAP;
  char *workspace = test_alloc(bytes);
  void *scratch = test_alloc(agq_act_scratch(&prepared));
  for (size_t i = 0; i < (size_t)m * ldy; i++) y[i] = UNTOUCHED;
  agq_act_init(&a, &prepared, m, workspace);
  if (agq_act_needs_floats(&prepared)) {
    agq_act_floats(&a, &prepared, x, ldx, 0, m);
    if (a.rows) x = a.rows, ldx = (size_t)l->in_features;
  }
  if (l->act_bits != 32) {
    agq_act_quantize(&a, &prepared, x, ldx, 0, agq_act_token_panels(&a), scratch);
    if (codes) {
      for (int t = 0; t < m; t++) {
        const int p = t / a.mr, width = m - p * a.mr < a.mr ? m - p * a.mr : a.mr, i = t % a.mr;
        int8_t *c = a.codes + (size_t)p * a.mr * a.k_padded;
        int32_t *sums = a.sums + (size_t)p * a.mr * a.blocks;
        for (int b = 0; b < a.blocks; b++) sums[b * width + i] = 0;
        for (int k = 0; k < l->in_features; k++) {
          c[(size_t)(k / 4) * width * 4 + 4 * i + k % 4] = codes[(size_t)t * l->in_features + k];
          sums[k / a.block * width + i] += codes[(size_t)t * l->in_features + k];
        }
        for (int g = 0; g < a.scales_per_token; g++)
          a.scales[t * a.scales_per_token + g] = scales[t * a.scales_per_token + g];
      }
    }
  }
  /* In two ranges, as threads would. */
  const int panels = agq_panels(l->out_features), cut = panels > 2 ? panels / 2 : panels;
  agq_linear_run(&prepared, &a, x, ldx, m, y, ldy, 0, cut);
  agq_linear_run(&prepared, &a, x, ldx, m, y, ldy, cut, panels);
  free(scratch);
  free(workspace);
}

static char what[256];
static inline void describe(const char *kernel, const agq_linear *l, int m, int fill, const char *why) {
  snprintf(what, sizeof what,
           "%s: %s (%d x %d, m %d, group %d, act %d group %d sym %d, zero %d, minimum %d, scale %d, fill %d)", kernel,
           why, l->out_features, l->in_features, m, l->group_size, l->act_bits, l->act_group, l->act_symmetric,
           l->zero != 0, l->minimum != 0, l->scale_dtype, fill);
}

/* Nothing was written between the rows of y; and a token's result does not depend on its neighbours. */
static inline void check_rows(const char *kernel, const agq_linear *l, const float *x, int m, const float *y,
                              int fill) {
  const int n = l->out_features;
  const size_t ldx = (size_t)l->in_features + X_GAP, ldy = (size_t)n + Y_GAP;
  float *alone = test_alloc(ldy * 4);
  int same = 1, untouched = 1;
  for (int t = 0; t < m; t++) {
    for (int i = 0; i < Y_GAP; i++) untouched &= y[t * ldy + n + i] == UNTOUCHED;
    if (m == 1) break;
    compute(&agq_kernels_native, l, x + t * ldx, 1, alone, 0, 0);
    same &= !memcmp(alone, y + t * ldy, (size_t)n * 4);
  }
  describe(kernel, l, m, fill, "result depends on the batch");
  test_expect(same, what);
  describe(kernel, l, m, fill, "writes behind its rows");
  test_expect(untouched, what);
  free(alone);
}

/* The sum of one block of the products, and of their magnitudes. At most 4096 * 255 * 127 < 2^31. */
static inline void block_sums(const int16_t *w, const int8_t *a, int columns, int *sum, int *size) {
  *sum = *size = 0;
  for (int c = 0; c < columns; c++) {
    const int v = w[c] * a[c];
    *sum += v, *size += abs(v);
  }
}

/* Tokens, and the groups of a token, of very different size; one token of zeros. */
static inline void fill_tokens(float *x, int m, int k, int group) {
  const int zero = m > 2 ? random_int(0, m - 1) : -1;
  for (int t = 0; t < m; t++) {
    float size = 1;
    for (int c = 0; c < k + X_GAP; c++) {
      if (c % (group ? group : k) == 0)
        size = ldexpf(1 + fabsf(random_float()), random_int(-3, 3) + (t % 7 == 5 ? 20 : 0));
      x[t * (k + X_GAP) + c] = c >= k ? 1e30f : t == zero ? 0 : size * random_float();
    }
  }
}

/* Shapes: rows, columns, weight group, activation group. */
static const int shapes[][4] = {
    {16, 32, 0, 0},     {40, 64, 32, 0},    {17, 96, 96, 96},    {33, 128, 64, 32},  {64, 256, 128, 128},
    {100, 384, 128, 0}, {7, 512, 256, 128}, {80, 288, 96, 32},   {48, 384, 96, 128}, {129, 72, 0, 0},
    {31, 1000, 0, 0},   {16, 1024, 0, 128}, {16, 2048, 128, 0},  {20, 4096, 0, 0},   {24, 2048, 0, 0},
    {48, 512, 32, 128}, {24, 768, 96, 64},  {32, 1280, 32, 256},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

#endif
