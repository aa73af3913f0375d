/* test_float.c: the kernels of this level with float activations against exact arithmetic and their portable twins.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "problem.h"

static void check_float(const char *kernel, problem *p, int m) {
  const agq_linear *l = &p->l;
  const int k = l->in_features, n = l->out_features, ldx = k + X_GAP, ldy = n + Y_GAP;
  float *x = test_alloc((size_t)m * ldx * 4), *y = test_alloc((size_t)m * ldy * 4),
        *z = test_alloc((size_t)m * ldy * 4);
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
        if (p->row_minimum) {
          const int groups = l->group_size ? k / l->group_size : 1;
          sum += 2 * fabs(p->row_minimum[(size_t)r * groups + c / (k / groups)] * x[(size_t)t * ldx + c]);
        }
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

static void test_float_kernels(unsigned s) {
  static const int kinds[] = {AGQ_F32, AGQ_F16, AGQ_BF16, AGQ_U4, AGQ_I8, AGQ_I6};
  static const char *const names[] = {"f32", "f16", "bf16", "u4 x f32", "i8 x f32", "i6 x f32"};
  static const int widths[] = {1, 2, 3, 5, 8, 13, 33};
  for (int i = 0; i < 6; i++)
    for (int variant = 0; variant < 2; variant++) {
      problem p;
      if (i < 3) make_float(&p, shapes[s][0], shapes[s][1] - (variant ? 3 : 0), kinds[i]);
      else
        make(&p, shapes[s][0], shapes[s][1], kinds[i], shapes[s][2], 32, 0, 0, variant, random_int(AGQ_F32, AGQ_BF16),
             FILL_RANDOM);
      if (i >= 3 && random_bits() & 1) make_minima(&p);
      for (unsigned w = 0; w < sizeof widths / sizeof widths[0]; w++)
        if (s < 4 || w == (s + variant) % 7) check_float(names[i], &p, widths[w]);
      destroy(&p);
    }
}

/* Rows whose last unit is cut, where eight columns do not fit any more. */
static void test_cut(int dtype) {
  for (int k = 74; k < 80; k += 3)
    for (int minima = 0; minima < 2; minima++) {
      problem p;
      make(&p, 20, k, dtype, 0, 32, 0, 0, 0, AGQ_F32, FILL_RANDOM);
      if (minima) make_minima(&p);
      check_float("a cut unit", &p, 1), check_float("a cut unit", &p, 7);
      destroy(&p);
    }
}

int main(void) {
  if (!test_begin()) return 0;
  for (unsigned s = 0; s < SHAPES; s++)
    if (test_takes(s)) test_float_kernels(s);
  test_cut(AGQ_U4);
  test_cut(AGQ_I8);
  return test_end("float");
}
