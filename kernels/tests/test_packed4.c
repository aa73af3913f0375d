/* test_packed4.c: the packed 4-bit multiplier: its arithmetic for every operand, the length of its sums, and this
 * level's kernel against the portable one and against exact arithmetic.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "experiments/packed4/packed4.h"
#include "problem.h"

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

/* Inputs whose codes are known: integers with 15 and 0 (or 0 and -15) among each group have the scale 1 and are their
 * own codes. */
static void fill_inputs(float *x, int m, int k, int act_group, int fill) {
  const int group = act_group ? act_group : k;
  for (int t = 0; t < m; t++)
    for (int g = 0; g < k; g += group) {
      const int sign = random_bits() & 1 ? 1 : -1;
      for (int c = g; c < g + group; c++)
        x[t * k + c] = fill == 1   ? 15
                       : fill == 2 ? 0
                       : fill == 0 ? (float)(sign * random_int(0, 15))
                                   : (float)(random_bits() & 1 ? 15 : 0);
      if (fill == 0) x[t * k + g + random_int(0, group - 1)] = (float)(15 * sign);
    }
}

/* `fill`: 0 random, 1 all operands at their upper end, 2 zeros, 3 mixed ends. */
static void check(int n, int k, int group, int act_group, int asymmetric, int m, int fill) {
  const int bf16 = (n + k + m) & 1;
  problem p;
  make(&p, n, k, AGQ_U4, group, 4, act_group, 0, asymmetric, bf16 ? AGQ_BF16 : AGQ_F32,
       fill == 0 ? FILL_RANDOM : FILL_MIXED);
  agq_linear *l = &p.l;
  l->multiplier = AGQ_MULTIPLIER_PACKED;
  if (fill == 1 || fill == 2) {
    memset(p.weight, fill == 1 ? 0xff : 0, l->weight_bytes);
    free(p.code), free(p.row_scale), free(p.row_minimum);
    read_back(&p);
  }
  float *x = test_alloc((size_t)m * (size_t)k * 4), *y[3];
  int8_t *codes = test_alloc((size_t)m * (size_t)k);
  fill_inputs(x, m, k, act_group, fill);
  for (int i = 0; i < m * k; i++) codes[i] = (int8_t)x[i];
  for (int i = 0; i < 3; i++) y[i] = test_alloc((size_t)m * (size_t)n * 4);
  snprintf(what, sizeof what, "packed multiplier: %d x %d, group %d, act %d, zero %d, m %d, fill %d", n, k, group,
           act_group, asymmetric, m, fill);
  test_expect(agq_linear_forward(l, x, m, y[0], 1, 0) == AGQ_OK, what);
  test_expect(agq_linear_forward(l, x, m, y[1], 1, 1) == AGQ_OK, what);
  l->multiplier = AGQ_MULTIPLIER_DEFAULT;
  test_expect(agq_linear_forward(l, x, m, y[2], 1, 0) == AGQ_OK, what);
  /* The same integers and the same order of float operations as the level's other kernels. */
  test_expect(!memcmp(y[0], y[2], (size_t)m * (size_t)n * 4), what);
  const int weight_group = group ? group : k, groups = k / weight_group;
  int close = 1;
  for (int t = 0; t < m; t++)
    for (int r = 0; r < n; r++) {
      double exactly = p.bias ? p.bias[r] : 0, size = fabs(exactly);
      for (int c = 0; c < k; c += weight_group) {
        int sum, magnitude;
        block_sums(p.code + (size_t)r * k + c, codes + (size_t)t * k + c, weight_group, &sum, &magnitude);
        const double scale = p.row_scale[(size_t)r * groups + c / weight_group];
        exactly += sum * scale, size += magnitude * scale;
      }
      for (int i = 0; i < 2; i++) close &= fabs(y[i][(size_t)t * n + r] - exactly) <= size * 2e-6;
    }
  test_expect(close, what);
  for (int i = 0; i < 3; i++) free(y[i]);
  free(x), free(codes);
  destroy(&p);
}

static void test_kernel(void) {
  static const int shapes[][4] = {{16, 32, 0, 0},      {40, 64, 32, 32},   {33, 384, 128, 128},
                                  {17, 256, 256, 256}, {64, 512, 128, 64}, {20, 1000, 0, 0},
                                  {16, 2080, 0, 0},    {31, 72, 0, 0},     {48, 4096, 0, 128}};
  static const int widths[] = {1, 2, 3, 5, 8, 13, 16, 17, 49};
  for (unsigned s = 0; s < sizeof shapes / sizeof *shapes; s++)
    for (int asymmetric = 0; asymmetric < 2 && test_takes(s); asymmetric++)
      for (unsigned fill = 0; fill < 4; fill++)
        for (unsigned i = fill ? (s + fill) % 3 : 0; i < sizeof widths / sizeof *widths; i += fill ? 3 : 1)
          check(shapes[s][0], shapes[s][1], shapes[s][2], shapes[s][3], asymmetric, widths[i], (int)fill);
}

static void test_choice(void) {
  agq_linear l = {.out_features = 16,
                  .in_features = 64,
                  .weight_dtype = AGQ_U4,
                  .scale_dtype = AGQ_F32,
                  .act_bits = 4,
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
