/* test_packed4.c: the packed 4-bit multiplier: its arithmetic for every operand, the length of its sums, and this level's kernel
 * against the portable one and against exact arithmetic.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>

#include "gemm/linear.h"
#include "gemm/packed4.h"
#include "test.h"

static char what[200];

static void test_every_operand(void) {
  int right = 1;
  for (int high = 0; high < 16; high++)
    for (int low = 0; low < 16; low++)
      for (int a = 0; a < 16; a++) {
        const uint32_t sums = agq_packed4_add(0, agq_packed4_pair(high, low), a);
        if (sums >> 16 != (uint32_t)(high * a) || (sums & 0xffff) != (uint32_t)(low * a)) right = 0;
      }
  test_expect(right, "one of the 4096 products is wrong");
  const uint32_t pair = agq_packed4_pair(13, 7);
  test_expect(pair == 3335 && pair * 11 == 36685 && agq_packed4_add(0, pair, 11) == 0x008f004d, "the worked example");
}

/* Sums of n equal terms of the largest operands: right up to 291 of them. */
static void test_length(void) {
  for (int n = 1; n <= 292; n++) {
    uint32_t sums = 0;
    for (int i = 0; i < n; i++) sums = agq_packed4_add(sums, agq_packed4_pair(15, 15), 15);
    const int right = sums >> 16 == 225u * (uint32_t)n && (sums & 0xffff) == 225u * (uint32_t)n;
    snprintf(what, sizeof what, "sums of %d products", n);
    test_expect(right == (n <= 291), what);
  }
  test_expect(AGQ_PACKED4_TERMS <= 256, "fields are widened in time");
}

/* `fill`: 0 random, 1 all operands at their upper end, 2 zeros, 3 mixed ends. */
static void check(int n, int k, int group, int act_group, int asymmetric, int m, int fill) {
  agq_linear l = {.out_features = n, .in_features = k, .weight_dtype = AGQ_U4, .scale_dtype = AGQ_F32, .group_size = group,
                  .act_bits = 4, .act_group = act_group, .multiplier = AGQ_MULTIPLIER_PACKED,
                  .zero = asymmetric ? (int8_t *)what : 0};
  l.weight_bytes = (size_t)agq_linear_weight_bytes(&l);
  l.scale_bytes = (size_t)agq_linear_scale_bytes(&l);
  l.zero_bytes = (size_t)agq_linear_zero_bytes(&l);
  uint8_t *w = test_alloc(l.weight_bytes);
  float *scale = test_alloc(l.scale_bytes), *x = test_alloc((size_t)m * (size_t)k * 4);
  int8_t *zero = asymmetric ? test_alloc(l.zero_bytes) : 0;
  float *y[3];
  for (int i = 0; i < 3; i++) y[i] = test_alloc((size_t)m * (size_t)n * 4);
  for (size_t i = 0; i < l.weight_bytes; i++)
    w[i] = (uint8_t)(fill == 0 ? random_bits() : fill == 1 ? 0xff : fill == 2 ? 0 : random_bits() & 1 ? 0xff : 0);
  for (size_t i = 0; i < l.scale_bytes / 4; i++) scale[i] = fill == 0 ? 0.01f + 0.02f * fabsf(random_float()) : 1;
  for (size_t i = 0; asymmetric && i < l.zero_bytes; i++) zero[i] = (int8_t)(fill == 1 ? 0 : random_int(0, 15));
  /* Integers from 0 to 15 and from -15 to 0 have the scale 1 and are their own codes. */
  for (int i = 0; i < m * k; i++)
    x[i] = fill == 0 ? random_float() : fill == 1 ? 15 : fill == 2 ? 0 : (float)(random_bits() & 1 ? 15 : 0);
  l.weight = w, l.scale = scale, l.zero = zero;
  snprintf(what, sizeof what, "packed multiplier: %d x %d, group %d, act %d, zero %d, m %d, fill %d", n, k, group, act_group,
           asymmetric, m, fill);
  test_expect(agq_linear_forward(&l, x, m, y[0], 1, 0) == AGQ_OK, what);
  test_expect(agq_linear_forward(&l, x, m, y[1], 1, 1) == AGQ_OK, what);
  l.multiplier = AGQ_MULTIPLIER_DEFAULT;
  test_expect(agq_linear_forward(&l, x, m, y[2], 1, 0) == AGQ_OK, what);
  /* The same integers and the same order of float operations as the level's other kernels. */
  test_expect(!memcmp(y[0], y[2], (size_t)m * (size_t)n * 4), what);
  int close = 1;
  for (int t = 0; t < m; t++) {
    double size = 0; /* mean magnitude of the outputs */
    for (int r = 0; r < n; r++) size += fabs((double)y[1][(size_t)t * n + r]);
    for (int r = 0; r < n; r++)
      if (fabs((double)y[0][(size_t)t * n + r] - y[1][(size_t)t * n + r]) > 1e-5 * size / n + 1e-30) close = 0;
  }
  test_expect(close, what);
  if (fill == 1 && (size_t)k * 225 < 1u << 24) { /* every sum is known */
    int right = 1;
    for (int i = 0; i < m * n; i++)
      if (y[0][i] != (float)(15 * (15 - (asymmetric ? 0 : 8)) * k)) right = 0;
    test_expect(right, what);
  }
  free(w), free(scale), free(zero), free(x);
  for (int i = 0; i < 3; i++) free(y[i]);
}

static void test_kernel(void) {
  static const int shapes[][4] = {{16, 32, 0, 0},       {40, 64, 32, 32},  {33, 384, 128, 128}, {17, 256, 256, 256},
                                  {64, 512, 128, 64},   {20, 1000, 0, 0},  {16, 2080, 0, 0},    {31, 72, 0, 0},
                                  {48, 4096, 0, 128}};
  static const int widths[] = {1, 2, 3, 5, 8, 13, 16, 17, 49};
  for (unsigned s = 0; s < sizeof shapes / sizeof *shapes; s++)
    for (int asymmetric = 0; asymmetric < 2; asymmetric++)
      for (int fill = 0; fill < 4; fill++)
        for (unsigned i = 0; i < sizeof widths / sizeof *widths; i++)
          check(shapes[s][0], shapes[s][1], shapes[s][2], shapes[s][3], asymmetric, widths[i], fill);
}

static void test_choice(void) {
  agq_linear l = {.out_features = 16, .in_features = 64, .weight_dtype = AGQ_U4, .scale_dtype = AGQ_F32, .act_bits = 4,
                  .multiplier = AGQ_MULTIPLIER_PACKED};
  test_expect(agq_linear_kernel(&l, 1) == agq_kernels_native.packed4.name, "the packed multiplier is named");
  test_expect(agq_linear_weight_bytes(&l) > 0, "the packed multiplier takes u4 x 4 bits");
  l.act_bits = 8;
  l.act_symmetric = 1;
  test_expect(agq_linear_weight_bytes(&l) < 0, "the packed multiplier refuses 8-bit activations");
  l.act_bits = 4;
  l.weight_dtype = AGQ_I8;
  test_expect(agq_linear_weight_bytes(&l) < 0, "the packed multiplier refuses 8-bit weights");
  l.weight_dtype = AGQ_U4;
  l.multiplier = 2;
  test_expect(agq_linear_weight_bytes(&l) < 0, "an unknown multiplier is refused");
}

int main(void) {
  if (!test_begin()) return 0;
  test_every_operand();
  test_length();
  test_kernel();
  test_choice();
  return test_end("packed4");
}
