/* test_static.c: static activations (act_static of agq.h): the quantizer against its formula, and every integer kernel
 * with operands that reach -128 against exact arithmetic.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>

#include "gemm/linear.h"
#include "gemm/quantize.h"
#include "test.h"

static char what[200];

/* The formula of agq.h, in its own words. */
static int operand(float x, float scale, int zero, int bits, int e) {
  const float inverse = 1.0f / scale, v = rintf(fminf(fmaxf(x * ldexpf(inverse, -e), -1000.0f), 1000.0f));
  int code = (int)v + zero, top = (1 << bits) - 1;
  code = code < 0 ? 0 : code > top ? top : code;
  return bits == 4 ? (code - zero) * (1 << e) : code - 128;
}

static void test_quantizer(void) {
  static const int ks[] = {1, 3, 7, 16, 31, 33, 64, 200, 1000};
  for (unsigned i = 0; i < sizeof ks / sizeof *ks; i++)
    for (int bits = 4; bits <= 8; bits += 4)
      for (int r = 0; r < 20; r++) {
        const int k = ks[i], padded = agq_pad32(k),
                  zero = r == 0   ? 0
                         : r == 1 ? (1 << bits) - 1
                                  : random_int(0, (1 << bits) - 1);
        const float scale = r == 2 ? 1e-30f : r == 3 ? 1e30f : r == 4 ? 1.0f : 0.01f + 0.02f * fabsf(random_float());
        float *x = test_alloc((size_t)k * 4);
        uint8_t *e = test_alloc((size_t)k);
        int8_t *c = test_alloc((size_t)padded), *d = test_alloc((size_t)padded);
        for (int j = 0; j < k; j++) {
          e[j] = (uint8_t)random_int(0, 3);
          /* Ties; beyond both ends. */
          x[j] = r == 4 ? 0.5f * (float)random_int(-600, 600) : scale * 400 * random_float();
          if (r > 15) x[j] *= 1e4f;
        }
        agq_linear l = {.act_bits = bits, .act_static = 1, .act_scale = scale, .act_zero = zero, .act_exponent = e};
        const agq_static s = agq_static_of(&l);
        memset(c, 99, (size_t)padded);
        memset(d, 98, (size_t)padded);
        agq_kernels_native.quantize_static(x, k, padded, &s, c);
        agq_kernels_scalar.quantize_static(x, k, padded, &s, d);
        int right = 1;
        for (int j = 0; j < padded; j++) right &= d[j] == (j < k ? operand(x[j], scale, zero, bits, e[j]) : 0);
        snprintf(what, sizeof what, "quantize_static: k %d, %d bits, round %d", k, bits, r);
        test_expect(right, what);
        test_expect(!memcmp(c, d, (size_t)padded), what);
        for (int j = 0; j < k; j++) x[j] = j % 3 ? NAN : -INFINITY;
        agq_kernels_native.quantize_static(x, k, padded, &s, c);
        agq_kernels_scalar.quantize_static(x, k, padded, &s, d);
        test_expect(!memcmp(c, d, (size_t)padded), "quantize_static: not finite");
        free(x), free(e), free(c), free(d);
      }
}

static int code_at(const agq_linear *l, int row, int c) {
  const uint8_t *w = l->weight;
  const size_t panel = (size_t)(row / 16) * (size_t)agq_pad32(l->in_features), r = (size_t)row % 16;
  if (l->weight_dtype == AGQ_U4) return w[panel * 8 + (size_t)(c / 8) * 64 + 4 * r + (size_t)c % 4] >> (c & 4) & 15;
  return (int8_t)w[panel * 16 + (size_t)(c / 4) * 64 + 4 * r + (size_t)c % 4];
}

/* One linear with unit scales: y is an integer, exact below 2^24; `fill`: 0 random, 1 all codes at their lower ends, 2
 * at mixed ends. */
static void check_product(int n, int k, int group, int bits, int dtype, int m, int fill) {
  const int u4 = dtype == AGQ_U4, zero = fill == 1 ? (bits == 4 ? 15 : 128) : random_int(0, (1 << bits) - 1);
  uint8_t *e = test_alloc((size_t)k);
  agq_linear l = {.out_features = n,
                  .in_features = k,
                  .weight_dtype = dtype,
                  .scale_dtype = AGQ_F32,
                  .group_size = group,
                  .act_bits = bits,
                  .act_static = 1,
                  .act_scale = 1,
                  .act_zero = zero,
                  .act_exponent = e,
                  .act_exponent_bytes = (size_t)k,
                  .zero = u4 ? (int8_t *)e : 0};
  l.weight_bytes = (size_t)agq_linear_weight_bytes(&l);
  l.scale_bytes = (size_t)agq_linear_scale_bytes(&l);
  l.zero_bytes = (size_t)agq_linear_zero_bytes(&l);
  uint8_t *w = test_alloc(l.weight_bytes);
  float *scale = test_alloc(l.scale_bytes), *x = test_alloc((size_t)m * (size_t)k * 4);
  int8_t *zeros = u4 ? test_alloc(l.zero_bytes) : 0;
  const int groups = group ? k / group : 1, only = random_int(0, groups - 1); /* one group at a time stays below 2^24 */
  for (int c = 0; c < k; c++) e[c] = (uint8_t)(fill == 1 ? 3 : random_int(0, 3));
  for (size_t i = 0; i < l.weight_bytes; i++) {
    const int random = (int)random_bits();
    if (u4) w[i] = (uint8_t)(fill == 0 ? random : fill == 1 ? 0 : random & 1 ? 0xff : 0);
    else w[i] = (uint8_t)(fill == 0 ? random_int(-127, 127) : fill == 1 ? -127 : random & 1 ? 127 : -127);
  }
  for (size_t i = 0; i < l.scale_bytes / 4; i++) scale[i] = (int)(i / 16) % groups == only;
  for (size_t i = 0; u4 && i < l.zero_bytes; i++) zeros[i] = (int8_t)(fill == 1 ? 15 : random_int(0, 15));
  for (int i = 0; i < m * k; i++)
    x[i] = fill == 0 ? 200 * random_float() : fill == 1 ? -1e6f : random_bits() & 1 ? -1e6f : 1e6f;
  l.weight = w;
  l.scale = scale;
  l.zero = zeros;
  snprintf(what, sizeof what, "static %s x A%d: %d x %d, group %d, m %d, fill %d", u4 ? "u4" : "i8", bits, n, k, group,
           m, fill);
  float *y = test_alloc((size_t)m * (size_t)n * 4), *z = test_alloc((size_t)m * (size_t)n * 4);
  test_expect(agq_linear_forward(&l, x, m, y, 1, 0) == AGQ_OK, what);
  test_expect(agq_linear_forward(&l, x, m, z, 1, 1) == AGQ_OK, what);
  int exact = 1;
  for (int t = 0; t < m; t++)
    for (int r = 0; r < n; r++) {
      int64_t sum = 0;
      for (int c = 0; c < k; c++) {
        const int g = group ? c / group : 0;
        const size_t at = ((size_t)(r / 16) * (size_t)groups + (size_t)g) * 16 + (size_t)r % 16;
        if (g == only)
          sum += (code_at(&l, r, c) - (u4 ? zeros[at] : 0)) * operand(x[(size_t)t * k + c], 1, zero, bits, e[c]);
      }
      exact &= y[(size_t)t * n + r] == (float)sum && z[(size_t)t * n + r] == (float)sum;
    }
  test_expect(exact, what);
  free(e), free(w), free(scale), free(zeros), free(x), free(y), free(z);
}

static void test_products(void) {
  static const int shapes[][3] = {{16, 32, 0},    {40, 64, 32},  {33, 384, 128},
                                  {64, 512, 256}, {20, 1000, 0}, {18, 1024, 128}};
  static const int widths[] = {1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 16, 17, 25, 41};
  for (unsigned s = 0; s < sizeof shapes / sizeof *shapes; s++)
    for (int fill = 0; fill < 3 && test_takes(s); fill++)
      for (unsigned i = 0; i < sizeof widths / sizeof *widths; i++) {
        check_product(shapes[s][0], shapes[s][1], shapes[s][2], 8, AGQ_I8, widths[i], fill);
        check_product(shapes[s][0], shapes[s][1], shapes[s][2], 4, AGQ_U4, widths[i], fill);
      }
}

static void test_validation(void) {
  static uint8_t e[64];
  static char memory[64 * 64];
  agq_linear good = {.out_features = 16,
                     .in_features = 64,
                     .weight_dtype = AGQ_I8,
                     .scale_dtype = AGQ_F32,
                     .act_bits = 8,
                     .act_static = 1,
                     .act_scale = 0.5f,
                     .act_zero = 128,
                     .act_exponent = e,
                     .act_exponent_bytes = 64,
                     .weight = memory,
                     .weight_bytes = sizeof memory,
                     .scale = memory,
                     .scale_bytes = 64};
  test_expect(agq_linear_check(&good) == AGQ_OK, "static: a good descriptor");
#define REJECT(...)                                            \
  do {                                                         \
    agq_linear l = good;                                       \
    __VA_ARGS__;                                               \
    test_expect(agq_linear_check(&l) != AGQ_OK, #__VA_ARGS__); \
  } while (0)
  REJECT(l.act_static = 2);
  REJECT(l.act_symmetric = 1);
  REJECT(l.act_scale = 0);
  REJECT(l.act_scale = NAN);
  REJECT(l.act_scale = INFINITY);
  REJECT(l.act_zero = 256);
  REJECT(l.act_zero = -1);
  REJECT(l.act_bits = 4); /* the zero point no longer fits */
  REJECT(l.act_bits = 32);
  REJECT(l.act_group = 32);
  REJECT(l.act_exponent = 0);
  REJECT(l.act_exponent_bytes = 63);
  REJECT(l.weight_dtype = AGQ_U4);
  REJECT(l.zero = (int8_t *)memory; l.zero_bytes = 64);
  e[63] = 4;
  REJECT((void)0);
}

int main(void) {
  if (!test_begin()) return 0;
  test_quantizer();
  test_products();
  test_validation();
  return test_end("static");
}
