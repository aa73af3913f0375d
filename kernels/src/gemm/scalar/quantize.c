/* quantize.c: portable quantization of activations; see quantize.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "gemm/quantize.h"

#include <string.h>

/* rint, half to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no fraction bits in the default rounding mode. */
static inline float rint_small(float x) { return (x + 12582912.0f) - 12582912.0f; }

/* The comparisons are written as the x86 min and max instructions choose: a NaN gives the bound, so codes stay
 * bounded. */
static inline int clamp_int(float v, float lo, float hi) {
  v = v < hi ? v : hi;
  v = v > lo ? v : lo;
  return (int)rint_small(v);
}
static inline int8_t clamp_rint(float v, float lo, float hi) { return (int8_t)clamp_int(v, lo, hi); }

static inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
static inline float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* Maxima are those of bits, which grow with a float's size up to infinity and, above it, NaN: no NaN is lost. */
static float quantize_symmetric(const float *x, int n, float qmax, float clip, int8_t *codes) {
  uint32_t most = 0;
  for (int i = 0; i < n; i++) {
    const uint32_t bits = bits_of(x[i]) & 0x7fffffff;
    most = bits > most ? bits : most;
  }
  const float amax = float_of(most) * clip;
  if (amax < AGQ_LEAST_RANGE) {
    memset(codes, 0, (size_t)n);
    return 0;
  }
  float inv = qmax / amax;
  for (int i = 0; i < n; i++) codes[i] = clamp_rint(x[i] * inv, -qmax, qmax);
  return amax / qmax;
}

static float quantize_asymmetric(const float *x, int n, float clip, int8_t *codes) {
  uint32_t least = 0x80000000; /* negative floats: the sign and their size */
  int32_t most = 0;
  for (int i = 0; i < n; i++) {
    const uint32_t bits = bits_of(x[i]);
    least = bits > least ? bits : least;
    most = (int32_t)bits > most ? (int32_t)bits : most;
  }
  const float lo = float_of(least) * clip, hi = float_of((uint32_t)most) * clip, range = hi - lo;
  if (range < AGQ_LEAST_RANGE) {
    memset(codes, 0, (size_t)n);
    return 0;
  }
  float inv = 15.0f / range;
  float zero = (float)clamp_rint(-lo * inv, 0.0f, 15.0f);
  /* clamp(rint(v) + zero, 0, 15) - zero, with the bounds moved by the zero point. */
  for (int i = 0; i < n; i++) codes[i] = clamp_rint(x[i] * inv, -zero, 15.0f - zero);
  return range / 15.0f;
}

void agq_quantize_row_scalar(const float *x, int k, int k_padded, int bits, int group, int symmetric, float clip,
                             int8_t *codes, float *scales) {
  if (!group) group = k;
  for (int g = 0; g * group < k; g++) {
    const float *p = x + (size_t)g * group;
    int8_t *c = codes + (size_t)g * group;
    scales[g] = symmetric ? quantize_symmetric(p, group, bits == 8 ? 127.0f : 7.0f, clip, c)
                          : quantize_asymmetric(p, group, clip, c);
  }
  memset(codes + k, 0, (size_t)(k_padded - k));
}

agq_static agq_static_of(const agq_linear *l) {
  const int top = (1 << l->act_bits) - 1, zero = l->act_zero;
  return (agq_static){.inverse = 1.0f / l->act_scale,
                      .lo = (float)-zero,
                      .hi = (float)(top - zero),
                      .offset = l->act_bits == 8 ? zero - 128 : 0,
                      .bits = l->act_bits,
                      .exponent = l->act_exponent};
}

/* v * 2^-e by the exponent bits: exact, as v is far from the subnormals (act_scale is checked). */
static inline float divided(float v, int e) {
  uint32_t u;
  memcpy(&u, &v, 4);
  u -= (uint32_t)e << 23;
  memcpy(&v, &u, 4);
  return v;
}

void agq_quantize_static_scalar(const float *x, int k, int k_padded, const agq_static *s, int8_t *codes) {
  for (int i = 0; i < k; i++) {
    const int e = s->exponent[i], code = clamp_int(x[i] * divided(s->inverse, e), s->lo, s->hi) + s->offset;
    codes[i] = (int8_t)(s->bits == 4 ? code * (1 << e) : code);
  }
  memset(codes + k, 0, (size_t)(k_padded - k));
}

void agq_sum_blocks_scalar(const int8_t *codes, int block, int blocks, int32_t *sums, int stride) {
  for (int b = 0; b < blocks; b++) {
    int32_t s = 0;
    for (int i = 0; i < block; i++) s += codes[(size_t)b * block + i];
    sums[(size_t)b * stride] = s;
  }
}
