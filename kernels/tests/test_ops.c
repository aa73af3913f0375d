/* The operations beside the matrix products against double precision.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>

#include "model.h"
#include "ops/attention.h"
#include "ops/ops.h"
#include "problem.h"

static void report(const char *what, double error, double bound) {
  printf("  %-36s error %.2g (bound %.2g)\n", what, error, bound);
  if (!test_expect(error <= bound, what)) fprintf(stderr, "  error %g, bound %g\n", error, bound);
}

static double norm_error(int kind, const float *x, const float *w, const float *b, const float *y, int n) {
  double mean = 0, variance = 0, worst = 0;
  for (int i = 0; i < n; i++) mean += (double)x[i] / n;
  if (kind == AGQ_NORM_RMS) mean = 0;
  for (int i = 0; i < n; i++) variance += ((double)x[i] - mean) * ((double)x[i] - mean) / n;
  for (int i = 0; i < n; i++) {
    double expected = ((double)x[i] - mean) / sqrt(variance + 1e-5);
    if (w) expected *= (double)w[i];
    if (b) expected += (double)b[i];
    if (kind == AGQ_NORM_NONE) expected = (double)x[i];
    const double error = fabs((double)y[i] - expected) / (1 + fabs(expected));
    if (error > worst) worst = error;
  }
  return worst;
}

static void norms(void) {
  double worst = 0;
  for (int n = 1; n <= 200; n += n < 40 ? 1 : 13)
    for (int kind = AGQ_NORM_NONE; kind <= AGQ_NORM_LAYER; kind++)
      for (int bare = 0; bare < 2; bare++) {
        float x[200], w[200], b[200], y[200];
        /* Rows of three sizes: in the smallest one eps is most of the variance. */
        const float size = n % 3 == 0 ? 3e-3f : n % 3 == 1 ? 3 : 300;
        for (int i = 0; i < n; i++) x[i] = size * (random_float() + 0.3f), w[i] = random_float(), b[i] = random_float();
        const agq_norm norm = {bare ? NULL : w, bare ? NULL : b};
        agq_norm_row(kind, &norm, 1e-5f, x, y, n);
        /* One feature alone: the layer norm's difference from the mean is all rounding. */
        if (n > 1 || kind != AGQ_NORM_LAYER) worst = fmax(worst, norm_error(kind, x, norm.weight, norm.bias, y, n));
        agq_norm_row(kind, &norm, 1e-5f, x, x, n);
        test_expect(!memcmp(x, y, (size_t)n * 4), "norm in place");
      }
  report("norms, 1..200 features", worst, 3e-6);
  float a[37], b[37], c[37];
  for (int i = 0; i < 37; i++) a[i] = random_float(), b[i] = random_float();
  agq_add_row(a, b, c, 37);
  for (int i = 0; i < 37; i++) test_expect(c[i] == a[i] + b[i], "addition");
  for (int n = 1; n <= 37; n++) { /* each part of a vector alone, in place */
    memcpy(c, b, sizeof c);
    agq_add_scaled_row(a, c, 0.3f, c, n);
    int right = 1;
    for (int i = 0; i < 37; i++) right &= c[i] == (i < n ? a[i] + b[i] * 0.3f : b[i]);
    test_expect(right, "addition of scaled rows");
  }
}

/* cap tanh(factor x / cap) in rows of all lengths, and nothing behind them. */
static void caps(void) {
  double worst = 0;
  for (int n = 1; n <= 70; n++)
    for (int k = 0; k < 4; k++) {
      static const float sizes[] = {1e-4f, 1, 30, 1e4f};
      const float cap = k == 3 ? 0 : 0.5f + 50 * (float)n / 70, factor = 1 + 0.5f * random_float();
      float x[80], y[80];
      for (int i = 0; i < 80; i++) x[i] = y[i] = i % 9 == 4 ? 0 : sizes[(i + n) % 4] * random_float();
      agq_cap_row(y, factor, cap, n);
      for (int i = 0; i < n; i++) {
        const double v = (double)(x[i] * factor), expected = cap > 0 ? (double)cap * tanh(v / (double)cap) : v;
        worst = fmax(worst, fabs((double)y[i] - expected) / (fabs(expected) + 1e-30));
        if (cap > 0) test_expect(fabsf(y[i]) <= cap, "a cap is not exceeded");
      }
      for (int i = n; i < 80; i++) test_expect(y[i] == x[i], "a cap's row ends");
    }
  report("caps, 1..70 values", worst, 6e-7);
  float none[3] = {0, -0.0f, INFINITY};
  agq_cap_row(none, 1, 30, 3);
  test_expect(none[0] == 0 && none[1] == 0 && none[2] == 30, "caps of nothing and of everything");
}

/* Relative where the function is not about 0, absolute (1e-30) far out. */
static double function_error(int kind, float from, float to) {
  enum { N = 4099 };
  static float x[N], y[N];
  double worst = 0;
  for (int i = 0; i < N; i++) x[i] = y[i] = from + (to - from) * (float)i / (N - 1);
  if (agq_gated(kind)) {
    float one[N]; /* a factor that shows whether it is multiplied with */
    for (int i = 0; i < N; i++) one[i] = i % 2 ? 1 : 0.5f;
    agq_gate_row(kind, y, one, y, N);
  } else {
    agq_activate_row(kind, y, N);
  }
  for (int i = 0; agq_gated(kind) && i < N; i += 2) y[i] *= 2;
  for (int i = 0; i < N; i++) {
    const double v = (double)x[i], z = 0.79788456 * v * (1 + 0.044715 * v * v);
    double expected = v / (1 + exp(-v));
    if (kind == AGQ_ACTIVATION_RELU) expected = v > 0 ? v : 0;
    if (kind == AGQ_ACTIVATION_GELU_TANH || kind == AGQ_ACTIVATION_GELU_TANH_GATED) expected = v / (1 + exp(-2 * z));
    if (kind == AGQ_ACTIVATION_GELU_ERF || kind == AGQ_ACTIVATION_GELU_ERF_GATED) expected = v / 2 * erfc(-v / sqrt(2));
    worst = fmax(worst, fabs((double)y[i] - expected) / (fabs(expected) + 1e-30));
  }
  return worst;
}

static void activations(void) {
  report("relu", function_error(AGQ_ACTIVATION_RELU, -5, 5), 0);
  report("silu, -80..80", function_error(AGQ_ACTIVATION_SILU_GATED, -80, 80), 4e-7);
  report("gelu (tanh), -1..8", function_error(AGQ_ACTIVATION_GELU_TANH, -1, 8), 5e-7);
  report("gelu (tanh), -5..-1", function_error(AGQ_ACTIVATION_GELU_TANH, -5, -1), 5e-6);
  report("gelu (erf), -1..8", function_error(AGQ_ACTIVATION_GELU_ERF, -1, 8), 6e-7);
  report("gelu (erf), -5..-1", function_error(AGQ_ACTIVATION_GELU_ERF, -5, -1), 5e-6);
  report("gelu gate (tanh), -1..8", function_error(AGQ_ACTIVATION_GELU_TANH_GATED, -1, 8), 5e-7);
  report("gelu gate (erf), -1..8", function_error(AGQ_ACTIVATION_GELU_ERF_GATED, -1, 8), 6e-7);
  float far[3] = {-1000, 1000, 0}, one[3] = {1, 1, 1};
  agq_gate_row(AGQ_ACTIVATION_SILU_GATED, far, one, far, 3);
  test_expect(fabsf(far[0]) < 1e-30f && far[1] == 1000 && far[2] == 0, "silu far out");
}

static void rope(void) {
  double worst = 0;
  for (int half = 1; half <= 40; half += 3) {
    float inv_freq[40], c[40], s[40], x[80], y[80];
    for (int i = 0; i < half; i++) inv_freq[i] = (float)pow(10000, -(double)i / half);
    for (int i = 0; i < 2 * half; i++) x[i] = random_float();
    const int position = random_int(0, 100000);
    agq_rope_table(inv_freq, 1.25f, position, c, s, half);
    agq_rope_row(x, c, s, y, half, 2 * half);
    for (int i = 0; i < half; i++) {
      const double angle = (double)(inv_freq[i] * (float)position), a = (double)x[i], b = (double)x[i + half];
      worst = fmax(worst, fabs((double)y[i] - 1.25 * (a * cos(angle) - b * sin(angle))));
      worst = fmax(worst, fabs((double)y[i + half] - 1.25 * (b * cos(angle) + a * sin(angle))));
    }
    agq_rope_row(x, c, s, x, half, 2 * half);
    test_expect(!memcmp(x, y, (size_t)half * 8), "rope in place");
    /* Some of a head's channels turned: the others are copied, or stay. */
    const int n = 2 * half + random_int(0, 40);
    float head[121], turned[121];
    for (int i = 0; i < 121; i++) head[i] = random_float(), turned[i] = 99;
    agq_rope_row(head, c, s, y, half, 2 * half);
    agq_rope_row(head, c, s, turned, half, n);
    test_expect(!memcmp(turned, y, (size_t)half * 8), "the first channels of a head");
    test_expect(!memcmp(turned + 2 * half, head + 2 * half, (size_t)(n - 2 * half) * 4) && turned[n] == 99,
                "channels that do not turn");
    agq_rope_row(head, c, s, head, half, n);
    test_expect(!memcmp(turned, head, (size_t)n * 4), "the first channels of a head, in place");
  }
  report("rope", worst, 3e-7);
}

static void rows(void) {
  const uint16_t halves[] = {0x0000, 0x8000, 0x3c00, 0xc000, 0x7bff, 0x0001, 0x83ff, 0x0400, 0x3555};
  const float values[] = {0.0f,          -0.0f,          1.0f,          -2.0f,      65504.0f,
                          5.9604645e-8f, -6.0975552e-5f, 6.1035156e-5f, 0.33325195f};
  float y[64];
  agq_to_float_row(AGQ_F16, halves, y, 9);
  test_expect(!memcmp(y, values, sizeof values), "f16 to float");
  const uint16_t brains[] = {0x3f80, 0xc000, 0x0001};
  agq_to_float_row(AGQ_BF16, brains, y, 3);
  test_expect(y[0] == 1 && y[1] == -2 && y[2] == 9.18354962e-41f, "bf16 to float");
  int8_t bytes[50];
  for (int i = 0; i < 50; i++) bytes[i] = (int8_t)random_int(-128, 127);
  const float scales[] = {9, 9, 0.37f, 0.5f};
  int equal = 1;
  for (int group = 0; group <= 25; group += 25) {
    agq_scaled_row(bytes, scales, group ? 1 : 2, group, y, 50);
    for (int i = 0; i < 50; i++) equal &= y[i] == (float)bytes[i] * (group && i >= 25 ? 0.5f : 0.37f);
  }
  test_expect(equal, "8-bit rows to float");
  test_expect(agq_float_bytes(AGQ_F32) == 4 && agq_float_bytes(AGQ_F16) == 2 && agq_float_bytes(AGQ_BF16) == 2 &&
                  agq_float_bytes(AGQ_I8) == 0,
              "bytes of a float");
}

/* Rows of a matrix in panels: all formats, groups, zero points, widths that are no multiple of anything. */
static void panel_rows(void) {
  static const int widths[][2] = {{30, 0}, {33, 0}, {34, 0}, {96, 32}, {128, 64}};
  float y[128];
  for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
    for (int dtype = AGQ_F32; dtype <= AGQ_I6; dtype++)
      for (int variant = 0; variant < 6; variant++) {
        const int k = widths[w][0], n = 21;
        problem p;
        if (dtype >= AGQ_I8) make(&p, n, k, dtype, widths[w][1], 32, 0, 0, variant & 1, variant / 2, FILL_RANDOM);
        else make_float(&p, n, k, dtype);
        const int minima = dtype >= AGQ_I8 && random_bits() & 1, group = widths[w][1] ? widths[w][1] : k;
        if (minima) make_minima(&p);
        int right = 1;
        for (int r = 0; r < n; r++) {
          agq_panel_row(&p.l, r, y);
          for (int c = 0; c < k; c++) {
            const int at = r * (k / group) + c / group; /* with minima: the product rounded, then the sum */
            const double exact =
                minima ? (double)(float)(p.code[r * k + c] * p.row_scale[at]) + p.row_minimum[at] : p.dense[r * k + c];
            right &= y[c] == (float)exact;
          }
        }
        test_expect(right, "rows of a matrix in panels");
        destroy(&p);
      }
}

static void heads(void) {
  int8_t codes[301];
  float x[100];
  for (int n = 1; n <= 100; n++)
    for (int stride = 1; stride <= 3; stride += 2) {
      float amax = 0;
      for (int i = 0; i < n; i++) x[i] = random_float(), amax = fmaxf(amax, fabsf(x[i]));
      memset(codes, 99, sizeof codes);
      const float scale = agq_quantize_head(x, codes, n, stride), inverse = 127.0f / amax;
      int right = scale == amax / 127.0f;
      for (int i = 0; i < n; i++) right &= codes[i * stride] == (int8_t)rintf(x[i] * inverse);
      for (int i = 0; stride > 1 && i < n; i++) right &= codes[i * stride + 1] == 99;
      test_expect(right && codes[n * stride] == 99, "quantization of a head");
    }
  memset(x, 0, sizeof x);
  test_expect(agq_quantize_head(x, codes, 50, 1) == 0 && codes[49] == 0, "a head of zeros");
}

static void block_products(void) {
  double worst = 0;
  for (int rows_ = 1; rows_ <= 20; rows_++)
    for (int cols = 16; cols <= 128; cols += 16)
      for (int i8 = 0; i8 < 2; i8++) {
        const int depth = random_int(1, 40), lda = depth + 3, ldb = cols + 16 * (cols % 32 == 0), ldc = cols + 5;
        float a[20 * 43], b[40 * 144], c[20 * 133], before[20 * 133], carry[20];
        int8_t codes[40 * 144];
        for (int i = 0; i < 20 * 43; i++) a[i] = random_float();
        for (int i = 0; i < 40 * 144; i++)
          codes[i] = (int8_t)random_int(-127, 127), b[i] = i8 ? (float)codes[i] : random_float();
        for (int i = 0; i < 20 * 133; i++) c[i] = before[i] = random_float();
        for (int i = 0; i < 20; i++) carry[i] = random_float();
        const int carried = random_int(0, 1);
        agq_block_product(a, (size_t)lda, i8 ? (const void *)codes : b, i8, (size_t)ldb, rows_, cols, depth, c,
                          (size_t)ldc, carried ? carry : NULL);
        for (int r = 0; r < 20; r++)
          for (int j = 0; j < ldc && r * ldc + j < 20 * 133; j++) {
            const int at = r * ldc + j;
            if (r >= rows_ || j >= cols) {
              test_expect(c[at] == before[at], "a block product writes nothing else");
              continue;
            }
            double expected = carried ? (double)before[at] * (double)carry[r] : 0, size = 1;
            for (int k = 0; k < depth; k++) {
              const double p = (double)a[r * lda + k] * (double)b[k * ldb + j];
              expected += p, size += fabs(p);
            }
            worst = fmax(worst, fabs((double)c[at] - expected) / size);
          }
      }
  report("block products", worst, 1e-6);
}

int main(void) {
  if (!test_begin()) return 0;
  norms();
  caps();
  activations();
  rope();
  rows();
  panel_rows();
  heads();
  block_products();
  return test_end("ops");
}
