/* What is done to activations, keys and values on the way: the Walsh-Hadamard transform, clipped codes, the 4-bit
 * cache. Bit for bit against plain loops with the same roundings.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>

#include "gemm/linear.h"
#include "ops/attention.h"
#include "ops/ops.h"
#include "test.h"

enum { MOST = 4096 };

/* Butterflies from neighbours to halves, one product at the end: the definition (docs/arithmetic.md). */
static void plain_hadamard(const float *x, float *y, int n, int block) {
  const float f = (float)(1.0 / sqrt((double)block));
  memcpy(y, x, (size_t)n * sizeof *y);
  for (int half = 1; half < block; half *= 2)
    for (int i = 0; i < n; i++)
      if (!(i & half)) {
        const float a = y[i], b = y[i + half];
        y[i] = a + b, y[i + half] = a - b;
      }
  for (int i = 0; i < n; i++) y[i] *= f;
}

static void fill(float *x, int n, int content) {
  for (int i = 0; i < n; i++) {
    const float r = random_float();
    x[i] = content == 0   ? r
           : content == 1 ? 0
           : content == 2 ? (i == n / 2 ? 1e30f : r)
           : content == 3 ? fabsf(r) + 5
           : content == 4 ? -fabsf(r) - 5
           : content == 5 ? (float)random_int(-30, 30) * 0.5f /* ties */
           : content == 6 ? r * 1e-42f                        /* subnormal */
                          : (i % 2 ? 3.0e38f : -3.0e38f);     /* sums overflow */
  }
}
enum { CONTENTS = 8 };

static int same(const float *x, const float *y, int n) {
  for (int i = 0; i < n; i++)
    if (!(x[i] == y[i] || (isnan(x[i]) && isnan(y[i])))) return 0;
  return 1;
}

static void hadamard(void) {
  static const int lengths[] = {1, 2, 4, 6, 12, 20, 40, 72, 80, 96, 128, 256, 344, 688, 1024, 4096};
  static float x[MOST], y[MOST + 16], z[MOST];
  for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
    for (int block = 1; lengths[l] % block == 0; block *= 2)
      for (int content = 0; content < CONTENTS; content++) {
        const int n = lengths[l];
        fill(x, n, content);
        plain_hadamard(x, z, n, block);
        for (int i = n; i < n + 16; i++) y[i] = 77;
        agq_hadamard_row(x, y, n, block);
        int beyond = 0;
        for (int i = n; i < n + 16; i++) beyond |= y[i] != 77;
        char what[80];
        snprintf(what, sizeof what, "hadamard: %d channels, block %d, content %d", n, block, content);
        test_expect(same(y, z, n), what);
        test_expect(!beyond, "hadamard writes nothing else");
        agq_hadamard_row(x, x, n, block);
        test_expect(same(x, z, n), "hadamard in place");
      }
}

/* Codes of the whole path (transform, then quantizer) equal those of transformed rows without it; native and scalar;
 * and they follow the formulas. */
static void activations(void) {
  static const int lengths[] = {32, 40, 96, 128, 688, 1000};
  static float x[3 * MOST], z[MOST], s[2][3 * 64];
  static int8_t c[2][3 * MOST];
  enum { M = 3 };
  for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
    for (int mode = 0; mode < 3; mode++)
      for (int content = 0; content < CONTENTS - 1; content++)
        for (int transform = 0; transform < 2; transform++) {
          const int k = lengths[l], block = transform ? k & -k : 0, group = k % 32 == 0 && content % 2 ? 32 : 0;
          const float clip = content == 3 ? 0 : 0.55f + 0.15f * (float)(content % 4);
          agq_linear lin = {.out_features = 16,
                            .in_features = k,
                            .weight_dtype = AGQ_U4,
                            .scale_dtype = AGQ_F32,
                            .act_bits = mode ? 4 : 8,
                            .act_symmetric = mode < 2,
                            .act_group = group,
                            .hadamard = block,
                            .act_clip = clip};
          for (int t = 0; t < M; t++) fill(x + t * k, k, t == 1 ? 1 : content);
          for (int scalar = 0; scalar < 2; scalar++)
            test_expect(agq_quantize_activations(&lin, x, M, c[scalar], s[scalar], scalar) == AGQ_OK, "activations");
          const int groups = group ? k / group : 1, length = k / groups;
          test_expect(!memcmp(c[0], c[1], (size_t)(M * k)) && same(s[0], s[1], M * groups), "native equals scalar");
          const float used = clip == 0 ? 1 : clip, qmax = mode == 0 ? 127 : mode == 1 ? 7 : 15;
          int right = 1;
          for (int t = 0; t < M; t++) {
            if (block) plain_hadamard(x + t * k, z, k, block);
            else memcpy(z, x + t * k, (size_t)k * sizeof *z);
            for (int g = 0; g < groups; g++) {
              float lo = 0, hi = 0;
              for (int i = g * length; i < (g + 1) * length; i++) lo = fminf(lo, z[i]), hi = fmaxf(hi, z[i]);
              const float span = mode < 2 ? fmaxf(-lo, hi) * used : hi * used - lo * used;
              const int counts = span >= 0x1p-120f;
              const float inverse = counts ? qmax / span : 0, scale = counts ? span / qmax : 0;
              const float zero = mode < 2 ? 0 : rintf(-(lo * used) * inverse);
              right &= s[0][t * groups + g] == scale;
              for (int i = g * length; i < (g + 1) * length; i++) {
                float q = rintf(fminf(fmaxf(z[i] * inverse, -1000), 1000)) + zero;
                q = fminf(fmaxf(q, mode < 2 ? -qmax : 0), qmax) - zero;
                right &= c[0][t * k + i] == (int8_t)q || span < 1e-37f; /* 1 / span may overflow */
              }
            }
          }
          char what[100];
          snprintf(what, sizeof what, "codes: k %d, mode %d, content %d, block %d, group %d, clip %g", k, mode, content,
                   block, group, (double)clip);
          test_expect(right, what);
        }
}

/* Products with a transform equal those of transformed inputs, for integer and float activations, for any cut. */
static void products(void) {
  enum { N = 40, K = 96, M = 21 };
  static float x[M * K], z[M * K], y[M * N], w[M * N], weight[48 * K], bias[N];
  for (int i = 0; i < 48 * K; i++) weight[i] = random_float();
  for (int i = 0; i < M * K; i++) x[i] = random_float();
  for (int i = 0; i < N; i++) bias[i] = random_float();
  uint8_t codes[48 * K / 2];
  float scales[48];
  for (size_t i = 0; i < sizeof codes; i++) codes[i] = (uint8_t)random_int(0, 255);
  for (int i = 0; i < 48; i++) scales[i] = 0.1f;
  for (int bits = 4; bits <= 32; bits *= bits == 4 ? 2 : 4) {
    agq_linear l = {.out_features = N,
                    .in_features = K,
                    .weight_dtype = bits == 32 ? AGQ_F32 : AGQ_U4,
                    .scale_dtype = AGQ_F32,
                    .act_bits = bits,
                    .act_symmetric = bits == 8,
                    .weight = bits == 32 ? (void *)weight : codes,
                    .weight_bytes = bits == 32 ? sizeof weight : sizeof codes,
                    .bias = bias};
    if (bits != 32) l.scale = scales, l.scale_bytes = sizeof scales;
    for (int t = 0; t < M; t++) plain_hadamard(x + t * K, z + t * K, K, 32);
    test_expect(agq_linear_forward(&l, z, M, y, 1, 0) == AGQ_OK, "product of transformed inputs");
    l.hadamard = 32;
    for (int threads = 1; threads <= 3; threads += 2) {
      memset(w, 0, sizeof w);
      test_expect(agq_linear_forward(&l, x, M, w, threads, 0) == AGQ_OK, "product with a transform");
      test_expect(same(y, w, M * N), "a product with a transform is the product of transformed inputs");
    }
    test_expect(agq_linear_forward(&l, x, 1, w, 1, 0) == AGQ_OK && same(y, w, N), "one token alone");
  }
}

/* (q - zero) * scale of x[n] by the formulas. */
static void plain_quantize4(const float *x, float *y, int n) {
  float lo = 0, hi = 0;
  for (int i = 0; i < n; i++) lo = fminf(lo, x[i]), hi = fmaxf(hi, x[i]);
  const float span = hi - lo, inverse = span > 0 ? 15.0f / span : 0, scale = span / 15.0f, zero = rintf(-lo * inverse);
  for (int i = 0; i < n; i++) y[i] = (fminf(fmaxf(rintf(x[i] * inverse) + zero, 0), 15) - zero) * scale;
}

/* Products of columns in another order equal those of inputs that were put into it before; with a transform, whose
 * blocks are those of the order; integer and float activations. */
static void orders(void) {
  enum { N = 40, K = 96, M = 21 };
  static float x[M * K], z[M * K], y[M * N], w[M * N], weight[48 * K];
  uint32_t order[K];
  uint8_t codes[48 * K / 2];
  float scales[48];
  int8_t c[2][M * K];
  float s[2][M];
  for (int i = 0; i < 48 * K; i++) weight[i] = random_float();
  for (int i = 0; i < M * K; i++) x[i] = random_float();
  for (size_t i = 0; i < sizeof codes; i++) codes[i] = (uint8_t)random_int(0, 255);
  for (int i = 0; i < 48; i++) scales[i] = 0.1f;
  random_order(order, K);
  for (int t = 0; t < M; t++)
    for (int i = 0; i < K; i++) z[t * K + i] = x[t * K + (int)order[i]];
  for (int bits = 4; bits <= 32; bits *= bits == 4 ? 2 : 4)
    for (int weights = 0; weights < (bits == 32 ? 2 : 1); weights++)
      for (int block = 0; block <= 32; block += 32) {
        const int floats = bits == 32 && !weights;
        agq_linear l = {.out_features = N,
                        .in_features = K,
                        .weight_dtype = floats ? AGQ_F32 : AGQ_U4,
                        .scale_dtype = AGQ_F32,
                        .act_bits = bits,
                        .act_symmetric = bits == 8,
                        .hadamard = block,
                        .weight = floats ? (void *)weight : codes,
                        .weight_bytes = floats ? sizeof weight : sizeof codes};
        if (!floats) l.scale = scales, l.scale_bytes = sizeof scales;
        agq_linear ordered = l;
        ordered.input_order = order, ordered.input_order_bytes = sizeof order;
        test_expect(agq_linear_forward(&l, z, M, y, 1, 0) == AGQ_OK, "product of ordered inputs");
        for (int threads = 1; threads <= 3; threads += 2) {
          memset(w, 0, sizeof w);
          test_expect(agq_linear_forward(&ordered, x, M, w, threads, 0) == AGQ_OK, "product in another order");
          test_expect(same(y, w, M * N), "a product in another order is that of ordered inputs");
        }
        test_expect(agq_linear_forward(&ordered, x, 1, w, 1, 0) == AGQ_OK && same(y, w, N), "one token in order");
        if (bits == 32) continue;
        agq_quantize_activations(&l, z, M, c[0], s[0], 0);
        for (int scalar = 0; scalar < 2; scalar++) {
          agq_quantize_activations(&ordered, x, M, c[1], s[1], scalar);
          test_expect(!memcmp(c[0], c[1], sizeof c[0]) && same(s[0], s[1], M), "codes in another order");
        }
      }
}

static void cache(void) {
  static const int heads[] = {1, 2, 12, 16, 20, 33, 40, 64, 80, 96, 112, 128, 256, 384};
  enum { POSITIONS = 130 };
  for (size_t h = 0; h < sizeof heads / sizeof *heads; h++) {
    const int n = heads[h], group = n % 128 == 0 ? 128 : n;
    const agq_kv_layout kv = agq_kv_layout_make(4, n, POSITIONS);
    const size_t w = (size_t)kv.width;
    test_expect(kv.region_bytes % 64 == 0 && kv.groups * kv.group == n, "layout of the 4-bit cache");
    char *region = test_alloc(kv.region_bytes);
    memset(region, 0x55, kv.region_bytes);
    float *keys = test_alloc((size_t)POSITIONS * (size_t)n * 4),
          *values = test_alloc((size_t)POSITIONS * (size_t)n * 4);
    for (int p = 0; p < POSITIONS; p++) fill(keys + p * n, n, p % 6 == 2 ? 7 : p % 6), fill(values + p * n, n, p % 5);
    for (int i = 0; i < POSITIONS; i++) { /* in any order */
      const int p = i * 77 % POSITIONS;
      for (int c = 0; p % 6 == 2 && c < n; c++) keys[p * n + c] *= 1e-10f; /* the range itself must not overflow */
      agq_kv_store(&kv, region, p, keys + p * n, values + p * n);
    }
    float *k = test_alloc((size_t)n * 64 * 4), *v = test_alloc(64 * w * 4), expected[384];
    int right = 1;
    for (int key = 0; key < POSITIONS; key += 64) {
      const int count = POSITIONS - key < 64 ? POSITIONS - key : 64, cols = (count + 15) / 16 * 16;
      agq_kv4_keys(&kv, region, key, cols, k);
      agq_kv4_values(&kv, region, key, count, v);
      int8_t *kc = test_alloc((size_t)n * 64), *vc = test_alloc(64 * w);
      if (kv.groups == 1) {
        agq_kv4_key_codes(&kv, region, key, kc);
        agq_kv4_value_codes(&kv, region, key, count, vc);
        for (int p = 0; p < count; p++)
          for (int c = 0; c < n; c++) {
            right &= (float)kc[c * 64 + p] * ((float *)(region + kv.key_scale_offset))[key + p] == k[c * 64 + p];
            right &= (float)vc[(size_t)p * w + (size_t)c] * ((float *)(region + kv.value_scale_offset))[key + p] ==
                     v[(size_t)p * w + (size_t)c];
          }
      }
      free(kc), free(vc);
      for (int p = key; p < key + count; p++) {
        for (int g = 0; g < n; g += group) plain_quantize4(keys + p * n + g, expected + g, group);
        for (int c = 0; c < n; c++) right &= k[c * 64 + p - key] == expected[c];
        for (int g = 0; g < n; g += group) plain_quantize4(values + p * n + g, expected + g, group);
        right &= same(v + (size_t)(p - key) * w, expected, n);
      }
    }
    char what[60];
    snprintf(what, sizeof what, "4-bit cache, heads of %d", n);
    test_expect(right, what);
    free(region), free(keys), free(values), free(k), free(v);
  }
  const size_t eight = agq_kv_layout_make(8, 128, 4096).region_bytes,
               four = agq_kv_layout_make(4, 128, 4096).region_bytes;
  test_expect(four == 4096 * 2 * (64 + 4 + 1) && eight == 4096 * 2 * (128 + 4), "bytes per position");
}

int main(void) {
  if (!test_begin()) return 0;
  hadamard();
  activations();
  products();
  orders();
  cache();
  return test_end("online");
}
