/* test_gemm.c: the integer kernels of this level against exact arithmetic and their portable twins.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "problem.h"

/* Scales of 1: y is the integer itself while it is below 2^24. With several weight groups all but one have scales of
 * 0. */
static void check_exact(const char *kernel, const problem *p, int m, int fill, const float *x) {
  const agq_linear *l = &p->l;
  const int k = l->in_features, n = l->out_features, groups = l->act_group ? k / l->act_group : 1,
            type = l->scale_dtype;
  const int weight_group = l->group_size ? l->group_size : k, weight_groups = k / weight_group;
  const int bound = l->act_bits == 8 ? 127 : l->act_symmetric ? 7 : 15, only = random_int(0, weight_groups - 1);
  int8_t *codes = test_alloc((size_t)m * k);
  float *scales = test_alloc((size_t)m * groups * 4), *y = test_alloc((size_t)m * (n + Y_GAP) * 4);
  for (int i = 0; i < m * k; i++)
    codes[i] = (int8_t)(fill == FILL_RANDOM ? random_int(-bound, bound)
                        : fill == FILL_MAX  ? bound
                        : fill == FILL_MIN  ? -bound
                        : random_bits() & 1 ? bound
                                            : -bound);
  if (m > 1 && fill == FILL_RANDOM) memset(codes, 0, (size_t)k); /* a token of zeros */
  for (int i = 0; i < m * groups; i++) scales[i] = 1;
  agq_linear unit = *l;
  unit.bias = 0;
  unit.scale = test_alloc(l->scale_bytes);
  for (int i = 0; i < (int)(l->scale_bytes / (type == AGQ_F32 ? 4 : 2)); i++) {
    const float s = i / 16 % weight_groups == only;
    if (type == AGQ_BF16) ((uint16_t *)unit.scale)[i] = test_bf16(s);
    else if (type == AGQ_F16) ((uint16_t *)unit.scale)[i] = s ? 0x3c00 : 0;
    else ((float *)unit.scale)[i] = s;
  }
  if (l->minimum) {
    unit.minimum = test_alloc(l->scale_bytes);
    memset((void *)unit.minimum, 0, l->scale_bytes);
  }
  agq_act a;
  agq_prepared prepared;
  test_expect(agq_linear_prepare(&prepared, &agq_kernels_native, l, 0) == AGQ_OK, "agq_linear_prepare");
  char *workspace = test_alloc(agq_act_workspace(&prepared, m));
  agq_act_init(&a, &prepared, m, workspace);
  compute(&agq_kernels_native, &unit, x, m, y, codes, scales);
  int exact = 1;
  for (int t = 0; t < m; t++)
    for (int r = 0; r < n; r++) {
      float f = 0;
      for (int c = only * weight_group; c < (only + 1) * weight_group; c += a.block) {
        int sum, size;
        block_sums(p->code + (size_t)r * k + c, codes + (size_t)t * k + c, k - c < a.block ? k - c : a.block, &sum,
                   &size);
        f += (float)sum;
      }
      exact &= y[(size_t)t * (n + Y_GAP) + r] == f;
    }
  describe(kernel, l, m, fill, "integer part differs");
  test_expect(exact, what);
  if (l->minimum) free((void *)unit.minimum);
  free((void *)unit.scale), free(workspace), free(codes), free(scales), free(y);
}

/* One integer problem: exact integers; the whole against exact arithmetic and the twin; rows. */
static void check_integer(const char *kernel, problem *p, int m, int fill) {
  const agq_linear *l = &p->l;
  const int k = l->in_features, n = l->out_features, groups = l->act_group ? k / l->act_group : 1, ldy = n + Y_GAP;
  const int weight_group = l->group_size ? l->group_size : k, weight_groups = k / weight_group;
  float *x = test_alloc((size_t)m * (k + X_GAP) * 4), *y = test_alloc((size_t)m * ldy * 4),
        *z = test_alloc((size_t)m * ldy * 4);
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
        int inputs = 0;
        for (int i = c; i < c + length; i++) inputs += codes[i];
        const double least =
            p->row_minimum[(size_t)r * weight_groups + c / weight_group] * inputs * scales[c / act_group];
        exactly += least, size += fabs(least);
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

static const int widths[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 16, 17, 21, 24, 25, 32, 37, 49, 64, 70};

/* All kernels of this level on one shape: weights of 4 and 8 bits, activations of 8 and 4. */
static void test_integer(unsigned s, int dtype, int act_bits) {
  const agq_kernel_table *kt = &agq_kernels_native;
  const unsigned count = sizeof widths / sizeof widths[0];
  const int big = shapes[s][0] * shapes[s][1] > 20000;
  for (int asymmetric = 0; asymmetric < 2; asymmetric++)
    for (int fill = 0; fill < FILLS; fill++)
      for (int decode = 1; decode >= 0; decode--) {
        const int symmetric = act_bits == 8 || random_bits() & 1;
        problem p;
        make(&p, shapes[s][0], shapes[s][1], dtype, shapes[s][2], act_bits, shapes[s][3],
             fill == FILL_RANDOM ? symmetric : act_bits == 8, asymmetric, random_int(AGQ_F32, AGQ_BF16), fill);
        if (random_bits() & 1) make_minima(&p);
        if (decode) {
          check_integer(agq_linear_kernel(&p.l, 1), &p, 1, fill);
        } else {
          /* Every width on the small shapes, one of them on the large ones. */
          for (unsigned w = 1; w < count; w++)
            if ((!big && fill == FILL_RANDOM && s < 6) || w == 1 + (s * 7 + fill * 3 + asymmetric) % (count - 1))
              check_integer(agq_linear_kernel(&p.l, widths[w]), &p, widths[w], fill);
          /* Around the largest token panel, and around two. */
          const int around[] = {kt->mr - 1, kt->mr, kt->mr + 1, 2 * kt->mr - 1, 2 * kt->mr, 2 * kt->mr + 1};
          for (int i = 0; i < 6 && s == 1 && fill == FILL_RANDOM; i++)
            check_integer(agq_linear_kernel(&p.l, around[i]), &p, around[i], fill);
        }
        destroy(&p);
      }
}

/* More than is worked on at once: tokens of several chunks (linear.c); rows of which few or only one fit the buffer
 * that interleaves them. */
static void test_long(int dtype, int act_bits) {
  static const int problems[][4] = {{20, 4096, 0, 230}, {5, 10240, 128, 9}, {5, 69632, 128, 3}};
  for (unsigned i = 0; i < sizeof problems / sizeof *problems; i++) {
    problem p;
    if (!test_takes(i)) continue;
    make(&p, problems[i][0], problems[i][1], dtype, problems[i][2], act_bits, 0, act_bits == 8, (int)i & 1, AGQ_BF16,
         FILL_RANDOM);
    if (i) make_minima(&p);
    check_integer(agq_linear_kernel(&p.l, problems[i][3]), &p, problems[i][3], FILL_RANDOM);
    destroy(&p);
  }
}

int main(void) {
  if (!test_begin()) return 0;
  for (unsigned s = 0; s < SHAPES; s++)
    for (int dtype = AGQ_I8; dtype <= AGQ_I6 && test_takes(s); dtype++)
      for (int bits = 8; bits >= 4; bits -= 4) test_integer(s, dtype, bits);
  test_long(AGQ_U4, 8);
  test_long(AGQ_I8, 4);
  test_long(AGQ_I6, 8);
  return test_end("gemm");
}
