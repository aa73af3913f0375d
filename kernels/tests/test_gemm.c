/* test_gemm.c: every kernel of this level against its portable twin and against exact arithmetic.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>

#include "gemm/convert.h"
#include "gemm/linear.h"
#include "gemm/quantize.h"
#include "test.h"

/* A random linear, everything it points to, and what that means row by row, read by the definition of the layout (agq.h). */
typedef struct {
  agq_linear l;
  uint8_t *weight;
  void *scale;
  int8_t *zero;
  float *bias;
  int16_t *code;    /* [n][k]: code - zero point */
  double *row_scale; /* [n][groups] */
  double *dense;    /* [n][k], with float activations */
} problem;

/* Rows of inputs and outputs lie further apart than they are long; what is between them must stay as it is. */
enum { X_GAP = 5, Y_GAP = 3 };
static const float UNTOUCHED = 12345.5f;

enum { FILL_RANDOM, FILL_MAX, FILL_MIN, FILL_MIXED, FILLS };

static int code_at(const agq_linear *l, int row, int c) {
  const uint8_t *w = l->weight;
  const size_t panel = (size_t)(row / 16) * agq_pad32(l->in_features), r = row % 16;
  if (l->weight_dtype == AGQ_U4) return w[panel * 8 + (size_t)(c / 8) * 64 + 4 * r + c % 4] >> (c & 4) & 15;
  return (int8_t)w[panel * 16 + (size_t)(c / 4) * 64 + 4 * r + c % 4];
}

static double float_at(const agq_linear *l, int row, int c) {
  const size_t at = (size_t)(row / 16) * l->in_features * 16 + (size_t)c * 16 + row % 16;
  switch (l->weight_dtype) {
    case AGQ_F32: return ((const float *)l->weight)[at];
    case AGQ_F16: return agq_f16_float(((const uint16_t *)l->weight)[at]);
    default: return agq_bf16_float(((const uint16_t *)l->weight)[at]);
  }
}

static void read_back(problem *p) {
  const agq_linear *l = &p->l;
  const int n = l->out_features, k = l->in_features, group = l->group_size ? l->group_size : k, groups = k / group;
  const int coded = l->weight_dtype == AGQ_U4 || l->weight_dtype == AGQ_I8;
  if (coded) {
    p->code = test_alloc((size_t)n * k * sizeof *p->code);
    p->row_scale = test_alloc((size_t)n * groups * sizeof *p->row_scale);
  }
  if (l->act_bits == 32) p->dense = test_alloc((size_t)n * k * sizeof *p->dense);
  for (int r = 0; r < n; r++)
    for (int c = 0; c < k; c++) {
      const size_t at = (size_t)r * k + c, s = ((size_t)(r / 16) * groups + c / group) * 16 + r % 16;
      double scale = 1;
      if (coded) {
        const double stored =
            l->scale_dtype == AGQ_BF16 ? agq_bf16_float(((const uint16_t *)l->scale)[s]) : ((const float *)l->scale)[s];
        p->row_scale[(size_t)r * groups + c / group] = scale = stored;
        p->code[at] = (int16_t)(code_at(l, r, c) - (l->zero ? l->zero[s] : l->weight_dtype == AGQ_U4 ? 8 : 0));
      }
      if (p->dense) p->dense[at] = coded ? p->code[at] * scale : float_at(l, r, c);
    }
}

static void make(problem *p, int n, int k, int dtype, int group, int act_bits, int act_group, int act_symmetric,
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
  const int u4 = dtype == AGQ_U4, lowest = asymmetric ? -128 : -127;
  for (size_t i = 0; i < l->weight_bytes; i++) {
    int high = fill == FILL_MAX || (fill == FILL_MIXED && random_bits() & 1), extreme = fill != FILL_RANDOM;
    if (u4) p->weight[i] = extreme ? (high ? 0xff : 0x00) : (uint8_t)random_bits();
    else p->weight[i] = (uint8_t)(extreme ? (high ? 127 : lowest) : random_int(lowest, 127));
  }
  for (size_t i = 0; i < l->scale_bytes / (scale_dtype == AGQ_BF16 ? 2 : 4); i++) {
    float s = 0.01f + 0.02f * fabsf(random_float());
    if (scale_dtype == AGQ_BF16) ((uint16_t *)p->scale)[i] = test_bf16(s);
    else ((float *)p->scale)[i] = s;
  }
  for (size_t i = 0; i < l->zero_bytes; i++) {
    int extreme = fill != FILL_RANDOM;
    p->zero[i] = (int8_t)(u4        ? (extreme ? (int)(random_bits() & 1) * 15 : random_int(0, 15))
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

/* Floats of type f32, f16 or bf16 with small values. */
static void make_float(problem *p, int n, int k, int dtype) {
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

static void destroy(problem *p) {
  free(p->weight);
  free(p->scale);
  free(p->zero);
  free(p->bias);
  free(p->code);
  free(p->row_scale);
  free(p->dense);
}

/* y[m][n + Y_GAP] by a kernel table, from x[m][k + X_GAP] or from the given codes[m][k] and scales. */
static void compute(const agq_kernel_table *kt, const agq_linear *l, const float *x, int m, float *y,
                    const int8_t *codes, const float *scales) {
  agq_act a;
  const size_t bytes = agq_act_workspace(l, m), ldx = (size_t)l->in_features + X_GAP, ldy = (size_t)l->out_features + Y_GAP;
  char *workspace = test_alloc(bytes);
  void *scratch = test_alloc(agq_act_scratch(l));
  for (size_t i = 0; i < (size_t)m * ldy; i++) y[i] = UNTOUCHED;
  if (l->act_bits != 32) {
    agq_act_init(&a, kt, l, m, workspace);
    agq_act_quantize(&a, kt, l, x, ldx, 0, agq_act_token_panels(&a), scratch);
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
  agq_linear_run(kt, l, &a, x, ldx, m, y, ldy, 0, cut);
  agq_linear_run(kt, l, &a, x, ldx, m, y, ldy, cut, panels);
  free(scratch);
  free(workspace);
}

static char what[256];
static void describe(const char *kernel, const agq_linear *l, int m, int fill, const char *why) {
  snprintf(what, sizeof what, "%s: %s (%d x %d, m %d, group %d, act %d group %d sym %d, zero %d, fill %d)", kernel, why,
           l->out_features, l->in_features, m, l->group_size, l->act_bits, l->act_group, l->act_symmetric, l->zero != 0,
           fill);
}

/* Nothing was written between the rows of y; and a token's result does not depend on its neighbours. */
static void check_rows(const char *kernel, const agq_linear *l, const float *x, int m, const float *y, int fill) {
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
static void block_sums(const int16_t *w, const int8_t *a, int columns, int *sum, int *size) {
  *sum = *size = 0;
  for (int c = 0; c < columns; c++) {
    const int v = w[c] * a[c];
    *sum += v, *size += abs(v);
  }
}

/* Scales of 1: y is the integer itself while it is below 2^24. With several weight groups all but one have scales of 0. */
static void check_exact(const char *kernel, const problem *p, int m, int fill, const float *x) {
  const agq_linear *l = &p->l;
  const int k = l->in_features, n = l->out_features, groups = l->act_group ? k / l->act_group : 1, bf16 = l->scale_dtype == AGQ_BF16;
  const int weight_group = l->group_size ? l->group_size : k, weight_groups = k / weight_group;
  const int bound = l->act_bits == 8 ? 127 : l->act_symmetric ? 7 : 15, only = random_int(0, weight_groups - 1);
  int8_t *codes = test_alloc((size_t)m * k);
  float *scales = test_alloc((size_t)m * groups * 4), *y = test_alloc((size_t)m * (n + Y_GAP) * 4);
  for (int i = 0; i < m * k; i++)
    codes[i] = (int8_t)(fill == FILL_RANDOM  ? random_int(-bound, bound)
                        : fill == FILL_MAX   ? bound
                        : fill == FILL_MIN   ? -bound
                        : random_bits() & 1 ? bound
                                            : -bound);
  if (m > 1 && fill == FILL_RANDOM) memset(codes, 0, (size_t)k); /* a token of zeros */
  for (int i = 0; i < m * groups; i++) scales[i] = 1;
  agq_linear unit = *l;
  unit.bias = 0;
  unit.scale = test_alloc(l->scale_bytes);
  for (int i = 0; i < (int)(l->scale_bytes / (bf16 ? 2 : 4)); i++) {
    const float s = i / 16 % weight_groups == only;
    if (bf16) ((uint16_t *)unit.scale)[i] = test_bf16(s);
    else ((float *)unit.scale)[i] = s;
  }
  agq_act a;
  char *workspace = test_alloc(agq_act_workspace(l, m));
  agq_act_init(&a, &agq_kernels_native, l, m, workspace);
  compute(&agq_kernels_native, &unit, x, m, y, codes, scales);
  int exact = 1;
  for (int t = 0; t < m; t++)
    for (int r = 0; r < n; r++) {
      float f = 0;
      for (int c = only * weight_group; c < (only + 1) * weight_group; c += a.block) {
        int sum, size;
        block_sums(p->code + (size_t)r * k + c, codes + (size_t)t * k + c, k - c < a.block ? k - c : a.block, &sum, &size);
        f += (float)sum;
      }
      exact &= y[(size_t)t * (n + Y_GAP) + r] == f;
    }
  describe(kernel, l, m, fill, "integer part differs");
  test_expect(exact, what);
  free((void *)unit.scale), free(workspace), free(codes), free(scales), free(y);
}

/* Tokens, and the groups of a token, of very different size; one token of zeros. */
static void fill_tokens(float *x, int m, int k, int group) {
  const int zero = m > 2 ? random_int(0, m - 1) : -1;
  for (int t = 0; t < m; t++) {
    float size = 1;
    for (int c = 0; c < k + X_GAP; c++) {
      if (c % (group ? group : k) == 0) size = ldexpf(1 + fabsf(random_float()), random_int(-3, 3) + (t % 7 == 5 ? 20 : 0));
      x[t * (k + X_GAP) + c] = c >= k ? 1e30f : t == zero ? 0 : size * random_float();
    }
  }
}

/* One integer problem: exact integers; the whole against exact arithmetic and the twin; rows. */
static void check_integer(const char *kernel, problem *p, int m, int fill) {
  const agq_linear *l = &p->l;
  const int k = l->in_features, n = l->out_features, groups = l->act_group ? k / l->act_group : 1, ldy = n + Y_GAP;
  const int weight_group = l->group_size ? l->group_size : k, weight_groups = k / weight_group;
  float *x = test_alloc((size_t)m * (k + X_GAP) * 4), *y = test_alloc((size_t)m * ldy * 4), *z = test_alloc((size_t)m * ldy * 4);
  int8_t *codes = test_alloc((size_t)k);
  float *scales = test_alloc((size_t)groups * 4);
  fill_tokens(x, m, k, l->act_group);
  check_exact(kernel, p, m, fill, x);

  /* Within 2 ulp of the sum of the blocks' magnitudes of the twin (exactly, where both have a fused multiply-add). */
  compute(&agq_kernels_native, l, x, m, y, 0, 0);
  compute(&agq_kernels_scalar, l, x, m, z, 0, 0);
  const int act_group = l->act_group ? l->act_group : k;
  int close = 1;
  for (int t = 0; t < m; t++) {
    agq_quantize_activations(l, x + (size_t)t * (k + X_GAP), 1, codes, scales, 1);
    for (int r = 0; r < n; r++) {
      double size = l->bias ? fabs(l->bias[r]) : 0, exactly = l->bias ? l->bias[r] : 0;
      for (int c = 0, length; c < k; c += length) { /* runs of columns of one weight scale and one activation scale */
        const int weight_left = weight_group - c % weight_group, act_left = act_group - c % act_group;
        int sum, magnitude;
        length = weight_left < act_left ? weight_left : act_left;
        block_sums(p->code + (size_t)r * k + c, codes + c, length, &sum, &magnitude);
        const double scale = p->row_scale[(size_t)r * weight_groups + c / weight_group] * scales[c / act_group];
        exactly += sum * scale, size += magnitude * scale;
      }
      const double native = y[(size_t)t * ldy + r], twin = z[(size_t)t * ldy + r];
      if (!(fabs(native - twin) <= size * 2.4e-7 && fabs(native - exactly) <= size * 2e-6)) close = 0;
    }
  }
  describe(kernel, l, m, fill, "result differs from exact arithmetic or from the twin");
  test_expect(close, what);
  check_rows(kernel, l, x, m, y, fill);
  free(x), free(y), free(z), free(codes), free(scales);
}

static void check_float(const char *kernel, problem *p, int m) {
  const agq_linear *l = &p->l;
  const int k = l->in_features, n = l->out_features, ldx = k + X_GAP, ldy = n + Y_GAP;
  float *x = test_alloc((size_t)m * ldx * 4), *y = test_alloc((size_t)m * ldy * 4), *z = test_alloc((size_t)m * ldy * 4);
  fill_tokens(x, m, k, 0);
  compute(&agq_kernels_native, l, x, m, y, 0, 0);
  compute(&agq_kernels_scalar, l, x, m, z, 0, 0);
  int close = 1;
  for (int t = 0; t < m; t++)
    for (int r = 0; r < n; r++) {
      double sum = l->bias ? fabs(l->bias[r]) : 0, exactly = l->bias ? l->bias[r] : 0;
      for (int c = 0; c < k; c++) {
        const double v = p->dense[(size_t)r * k + c] * x[(size_t)t * ldx + c];
        sum += fabs(v);
        exactly += v;
      }
      const double native = y[(size_t)t * ldy + r], twin = z[(size_t)t * ldy + r];
      if (!(fabs(native - twin) <= sum * 2.4e-7 * 4 && fabs(native - exactly) <= sum * 1e-5)) close = 0;
    }
  describe(kernel, l, m, 0, "result differs from exact arithmetic or from the twin");
  test_expect(close, what);
  check_rows(kernel, l, x, m, y, 0);
  free(x), free(y), free(z);
}

static void summary(const char *name) {
  static long checks, failures;
  printf("  %-28s %5ld checks, %ld failed\n", name, test_checks - checks, test_failures - failures);
  checks = test_checks;
  failures = test_failures;
}

/* Shapes: rows, columns, weight group, activation group. */
static const int shapes[][4] = {
    {16, 32, 0, 0},     {40, 64, 32, 0},    {17, 96, 96, 96},   {33, 128, 64, 32},  {64, 256, 128, 128},
    {100, 384, 128, 0}, {7, 512, 256, 128}, {80, 288, 96, 32},  {48, 384, 96, 128}, {129, 72, 0, 0},
    {31, 1000, 0, 0},   {16, 1024, 0, 128}, {16, 2048, 128, 0}, {20, 4096, 0, 0},
    {24, 2048, 0, 0},   {48, 512, 32, 128}, {24, 768, 96, 64},  {32, 1280, 32, 256},
};
static const int widths[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 16, 17, 21, 24, 25, 32, 37, 49, 64, 70};

static void test_integer(int dtype, int act_bits) {
  const agq_kernel_table *kt = &agq_kernels_native;
  const agq_kernel *tile = dtype == AGQ_U4 ? (act_bits == 8 ? &kt->u4a8 : &kt->u4a4)
                           : act_bits == 8 ? &kt->i8a8
                                           : &kt->i8a4;
  const agq_kernel *m1 = dtype == AGQ_U4 ? (act_bits == 8 ? &kt->u4a8_m1 : &kt->u4a4_m1)
                         : act_bits == 8 ? &kt->i8a8_m1
                                         : &kt->i8a4_m1;
  for (int decode = 1; decode >= 0; decode--) {
    const char *name = decode ? m1->name : tile->name;
    for (unsigned s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
      for (int asymmetric = 0; asymmetric < 2; asymmetric++)
        for (int fill = 0; fill < FILLS; fill++) {
          const int symmetric = act_bits == 8 || random_bits() & 1;
          const int big = shapes[s][0] * shapes[s][1] > 20000;
          problem p;
          make(&p, shapes[s][0], shapes[s][1], dtype, shapes[s][2], act_bits, shapes[s][3],
               fill == FILL_RANDOM ? symmetric : act_bits == 8, asymmetric, random_bits() & 1 ? AGQ_BF16 : AGQ_F32, fill);
          if (decode) {
            check_integer(name, &p, 1, fill);
          } else {
            /* Every width on the small shapes, one of them on the large ones. */
            const unsigned count = sizeof widths / sizeof widths[0];
            for (unsigned w = 1; w < count; w++)
              if ((!big && fill == FILL_RANDOM && s < 6) || w == 1 + (s * 7 + fill * 3 + asymmetric) % (count - 1))
                check_integer(name, &p, widths[w], fill);
            /* Around the largest token panel, and around two. */
            const int around[] = {kt->mr - 1, kt->mr, kt->mr + 1, 2 * kt->mr - 1, 2 * kt->mr, 2 * kt->mr + 1};
            for (int i = 0; i < 6 && s == 1 && fill == FILL_RANDOM; i++) check_integer(name, &p, around[i], fill);
          }
          destroy(&p);
        }
    summary(name);
  }
}

static void test_float_kernels(void) {
  static const int kinds[] = {AGQ_F32, AGQ_F16, AGQ_BF16, AGQ_U4, AGQ_I8};
  static const char *const names[] = {"f32", "f16", "bf16", "u4 x f32", "i8 x f32"};
  static const int float_widths[] = {1, 2, 3, 5, 8, 13, 33};
  for (int i = 0; i < 5; i++) {
    for (unsigned s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
      for (int variant = 0; variant < 2; variant++) {
        problem p;
        if (i < 3) make_float(&p, shapes[s][0], shapes[s][1] - (variant ? 3 : 0), kinds[i]);
        else
          make(&p, shapes[s][0], shapes[s][1], kinds[i], shapes[s][2], 32, 0, 0, variant, variant ? AGQ_F32 : AGQ_BF16,
               FILL_RANDOM);
        for (unsigned w = 0; w < sizeof float_widths / sizeof float_widths[0]; w++)
          if (s < 4 || w == (s + variant) % 7) check_float(names[i], &p, float_widths[w]);
        destroy(&p);
      }
    summary(names[i]);
  }
}

static void test_quantize(void) {
  static const int ks[] = {1, 7, 32, 33, 64, 100, 128, 256, 384, 1000};
  for (unsigned i = 0; i < sizeof ks / sizeof ks[0]; i++)
    for (int mode = 0; mode < 3; mode++) /* 8 bits, 4 bits symmetric, 4 bits asymmetric */
      for (int content = 0; content < 10; content++)
        for (int grouped = 0; grouped < 2; grouped++) {
          const int k = ks[i], padded = agq_pad32(k), group = grouped ? (k % 128 == 0 ? 128 : k % 32 == 0 ? 32 : 0) : 0;
          float *x = test_alloc((size_t)k * 4), s[2][64] = {{0}};
          int8_t *c[2] = {test_alloc((size_t)padded), test_alloc((size_t)padded)};
          memset(c[0], 99, (size_t)padded);
          memset(c[1], 98, (size_t)padded);
          for (int j = 0; j < k; j++) {
            const float r = random_float();
            switch (content) {
              case 0: x[j] = r; break;
              case 1: x[j] = 0; break;
              case 2: x[j] = j == k / 2 ? 1e30f : r; break;
              case 3: x[j] = fabsf(r) + 5; break;
              case 4: x[j] = -fabsf(r) - 5; break;
              case 5: x[j] = (float)random_int(-254, 254) * 0.5f; break; /* ties */
              case 6: x[j] = r * 1e-42f; break;                         /* subnormal */
              case 7: x[j] = random_int(0, 9) ? r : NAN; break;
              case 8: x[j] = random_int(0, 9) ? r : -INFINITY; break;
              default: x[j] = -0.0f; break;
            }
          }
          const int bits = mode ? 4 : 8, symmetric = mode < 2, bound = mode == 0 ? 127 : mode == 1 ? 7 : 15;
          const float clip = (i + (unsigned)content) % 3 ? 1.0f : 0.7f;
          agq_kernels_native.quantize_row(x, k, padded, bits, group, symmetric, clip, c[0], s[0]);
          agq_kernels_scalar.quantize_row(x, k, padded, bits, group, symmetric, clip, c[1], s[1]);
          int ok = !memcmp(c[0], c[1], (size_t)padded), bounded = 1;
          const int scales = group ? k / group : 1;
          for (int g = 0; g < scales; g++) ok &= s[0][g] == s[1][g] || (isnan(s[0][g]) && isnan(s[1][g]));
          for (int j = 0; j < padded; j++) bounded &= c[0][j] >= -bound && c[0][j] <= bound;
          snprintf(what, sizeof what, "quantize_row: k %d, mode %d, content %d, group %d", k, mode, content, group);
          test_expect(ok, what);
          test_expect(bounded, what);
          if (clip == 1 && content < 6 &&
              content !=
                  2) { /* half a step of error; the clamp of an asymmetric range may add the zero point's rounding */
            int near = 1;
            for (int j = 0; j < k; j++) {
              const float step = s[0][group ? j / group : 0];
              near &= fabsf(c[0][j] * step - x[j]) <= step * (symmetric ? 0.5001f : 1.0001f);
            }
            test_expect(near, what);
          }
          free(x);
          free(c[0]);
          free(c[1]);
        }
  summary("quantize_row");
}

/* Random codes, and the lowest and the highest ones, whose pairs and fours are the largest sums. */
static void test_sum_blocks(void) {
  static const int sizes[] = {32, 64, 96, 128, 288, 1024, 2048};
  for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
    for (int fill = 0; fill < 3; fill++)
      for (int stride = 1; stride <= 5; stride += 4) {
        const int block = sizes[i], blocks = 3;
        int8_t *codes = test_alloc((size_t)block * blocks);
        int32_t sums[2][15];
        memset(sums, 0, sizeof sums);
        for (int j = 0; j < block * blocks; j++) codes[j] = (int8_t)(fill == 0 ? random_int(-128, 127) : fill == 1 ? -128 : 127);
        agq_kernels_native.sum_blocks(codes, block, blocks, sums[0], stride);
        agq_kernels_scalar.sum_blocks(codes, block, blocks, sums[1], stride);
        snprintf(what, sizeof what, "sum_blocks: block %d, fill %d, stride %d", block, fill, stride);
        test_expect(!memcmp(sums[0], sums[1], sizeof sums[0]), what);
        free(codes);
      }
  summary("sum_blocks");
}

static void test_validation(void) {
  problem p;
  make(&p, 40, 256, AGQ_U4, 128, 8, 0, 1, 1, AGQ_BF16, FILL_RANDOM);
#define REJECT(code, ...)                                   \
  do {                                                      \
    agq_linear l = p.l;                                     \
    __VA_ARGS__;                                            \
    test_expect(agq_linear_check(&l) == (code), #__VA_ARGS__); \
  } while (0)
  REJECT(AGQ_OK, (void)0);
  REJECT(AGQ_ERR_ARGUMENT, l.out_features = 0);
  REJECT(AGQ_ERR_ARGUMENT, l.in_features = -256);
  REJECT(AGQ_ERR_ARGUMENT, l.group_size = 100);
  REJECT(AGQ_ERR_ARGUMENT, l.group_size = 96);
  REJECT(AGQ_ERR_ARGUMENT, l.act_group = -32);
  REJECT(AGQ_ERR_ARGUMENT, l.weight_dtype = 9);
  REJECT(AGQ_ERR_ARGUMENT, l.scale_dtype = AGQ_F16);
  REJECT(AGQ_ERR_ARGUMENT, l.weight = 0);
  REJECT(AGQ_ERR_ARGUMENT, l.weight_bytes--);
  REJECT(AGQ_ERR_ARGUMENT, l.scale_bytes = 0);
  REJECT(AGQ_ERR_ARGUMENT, l.zero_bytes = 1);
  REJECT(AGQ_ERR_ARGUMENT, l.out_features = 2000000000);
  REJECT(AGQ_ERR_UNSUPPORTED, l.out_features = 1 << 30; l.in_features = 1 << 30; l.group_size = 0); /* accumulator */
  REJECT(AGQ_OK, l.hadamard = 256; l.act_clip = 0.5f);
  REJECT(AGQ_ERR_ARGUMENT, l.hadamard = 512);
  REJECT(AGQ_ERR_ARGUMENT, l.hadamard = 96);
  REJECT(AGQ_ERR_ARGUMENT, l.hadamard = -2);
  REJECT(AGQ_ERR_ARGUMENT, l.act_clip = 1.5f);
  REJECT(AGQ_ERR_ARGUMENT, l.act_clip = -0.5f);
  REJECT(AGQ_ERR_ARGUMENT, l.act_clip = NAN);
  REJECT(AGQ_ERR_UNSUPPORTED, l.act_bits = 5);
  REJECT(AGQ_ERR_UNSUPPORTED, l.act_symmetric = 0);
  REJECT(AGQ_ERR_UNSUPPORTED, l.weight_dtype = AGQ_F32);
  REJECT(AGQ_ERR_UNSUPPORTED, l.in_features = 1 << 20; l.group_size = 0);
  /* One column in a million: no overflow in the sizes of the largest shape. */
  agq_linear l = p.l;
  l.out_features = 1 << 30;
  l.in_features = 1 << 16;
  l.group_size = 0;
  test_expect(agq_linear_weight_bytes(&l) == (int64_t)1 << 45, "weight bytes of a large linear");
  destroy(&p);
  summary("validation");
}

/* The public functions: threads and levels agree with the pieces. */
static void test_forward(void) {
  static const int bits[] = {8, 4, 32};
  enum { M = 30, N = 200, K = 256 };
  static float x[M * (K + X_GAP)], plain[M * K], y[M * (N + Y_GAP)], z[M * N];
  for (int i = 0; i < 3; i++) {
    problem p;
    make(&p, N, K, AGQ_U4, 128, bits[i], bits[i] == 4 ? 32 : 0, bits[i] == 8, i == 2, AGQ_BF16, FILL_RANDOM);
    fill_tokens(x, M, K, 0);
    for (int t = 0; t < M; t++) memcpy(plain + t * K, x + t * (K + X_GAP), K * sizeof *x);
    for (int m = 1; m <= M; m += 29) {
      compute(&agq_kernels_native, &p.l, x, m, y, 0, 0);
      for (int threads = 1; threads <= 3; threads++) {
        memset(z, 0, sizeof z);
        test_expect(agq_linear_forward(&p.l, plain, m, z, threads, 0) == AGQ_OK, "agq_linear_forward");
        int equal = 1;
        for (int t = 0; t < m; t++) equal &= !memcmp(y + t * (N + Y_GAP), z + t * N, N * sizeof *z);
        test_expect(equal, "agq_linear_forward: result depends on the threads");
      }
    }
    test_expect(agq_linear_forward(&p.l, plain, 0, z, 1, 0) == AGQ_ERR_ARGUMENT, "agq_linear_forward: m = 0");
    test_expect(agq_linear_forward(&p.l, plain, 1, z, 0, 0) == AGQ_ERR_ARGUMENT, "agq_linear_forward: no threads");
    if (i == 0) test_expect(agq_linear_kernel(&p.l, 1) == agq_kernels_native.u4a8_m1.name, "agq_linear_kernel");
    destroy(&p);
  }
  summary("agq_linear_forward");
}

/* Sink tokens among others: each token's rows are those that it gets alone, from the linear or from its 8-bit form. */
static void test_sinks(void) {
  static const int problems[][5] = {{40, 64, AGQ_U4, 32, 32}, {33, 128, AGQ_U4, 64, 32}, {17, 96, AGQ_I8, 0, 96},
                                    {48, 512, AGQ_U4, 32, 128}, {20, 256, AGQ_I8, 128, 64}, {31, 72, AGQ_U4, 0, 0}};
  enum { M = 90 };
  for (unsigned i = 0; i < sizeof problems / sizeof *problems; i++)
    for (int m = 1; m <= M; m += m < 4 ? 1 : 43)
      for (int pattern = 0; pattern < 4; pattern++) {
        const int n = problems[i][0], k = problems[i][1], sinks = 5, ldy = n + Y_GAP;
        problem p;
        make(&p, n, k, problems[i][2], problems[i][3], 4, problems[i][4], pattern & 1, i & 1, AGQ_BF16, FILL_RANDOM);
        p.l.act_clip = 0.9f;
        const agq_linear eight = agq_eight_bits(&p.l);
        test_expect(eight.act_bits == 8 && eight.act_symmetric && !eight.act_group && eight.act_clip == 1, "the 8-bit form");
        float *x = test_alloc((size_t)m * (k + X_GAP) * 4), *y = test_alloc((size_t)m * ldy * 4), *alone = test_alloc((size_t)ldy * 4);
        fill_tokens(x, m, k, 32);
        int32_t position[M];
        agq_token_panel panels[M];
        for (int t = 0; t < m; t++) /* a prompt; several prompts in one pass; any; none below */
          position[t] = pattern == 0 ? t : pattern == 1 ? t % 9 : pattern == 2 ? random_int(3, 6) : sinks + t;
        agq_act a;
        void *workspace = test_alloc(agq_act_workspace(&p.l, m)), *scratch = test_alloc(agq_act_scratch(&p.l));
        agq_act_init(&a, &agq_kernels_native, &p.l, m, workspace);
        agq_act_sinks(&a, &agq_kernels_native, position, sinks, panels);
        const int count = agq_act_token_panels(&a);
        int covered = 0;
        for (int q = 0; q < count; q++) {
          const agq_token_panel panel = agq_act_panel(&a, q);
          test_expect(panel.first == covered && panel.width >= 1 && panel.width <= agq_kernels_native.mr, "panels cover all tokens");
          for (int t = covered; t < covered + panel.width && t < m; t++)
            test_expect(panel.eight == (position[t] < sinks), "the format of a panel");
          covered += panel.width;
        }
        test_expect(covered == m, "panels cover all tokens");
        agq_act_quantize(&a, &agq_kernels_native, &p.l, x, (size_t)k + X_GAP, 0, count / 2, scratch);
        agq_act_quantize(&a, &agq_kernels_native, &p.l, x, (size_t)k + X_GAP, count / 2, count, scratch);
        agq_linear_run(&agq_kernels_native, &p.l, &a, NULL, 0, m, y, (size_t)ldy, 0, agq_panels(n));
        int right = 1;
        for (int t = 0; t < m; t++) {
          compute(&agq_kernels_native, position[t] < sinks ? &eight : &p.l, x + (size_t)t * (k + X_GAP), 1, alone, 0, 0);
          right &= !memcmp(alone, y + (size_t)t * ldy, (size_t)n * 4);
        }
        describe("sinks", &p.l, m, pattern, "a token is not computed in its format");
        test_expect(right, what);
        free(x), free(y), free(alone), free(workspace), free(scratch);
        destroy(&p);
      }
  summary("sink tokens");
}

int main(void) {
  if (!test_begin()) return 0;
  test_quantize();
  test_sum_blocks();
  for (int dtype = AGQ_I8; dtype <= AGQ_U4; dtype++)
    for (int bits = 8; bits >= 4; bits -= 4) test_integer(dtype, bits);
  test_float_kernels();
  test_validation();
  test_forward();
  test_sinks();
  return test_end("gemm");
}
