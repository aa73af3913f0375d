/* convert.h: number formats in portable C, and the multiply-add of this level.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_CONVERT_H
#define AGQ_CONVERT_H

#include <stdint.h>
#include <string.h>

#include "agq.h"

static inline float agq_bits_float(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
static inline uint32_t agq_float_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}
static inline float agq_bf16_float(uint16_t h) { return agq_bits_float((uint32_t)h << 16); }

static inline float agq_f16_float(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
  if (exponent == 31) return agq_bits_float(sign | 0x7f800000 | mantissa << 13);
  if (exponent) return agq_bits_float(sign | (exponent + 112) << 23 | mantissa << 13);
  /* Subnormal: mantissa * 2^-24, exact in float32. */
  float f = (float)mantissa * 5.9604644775390625e-08f;
  return agq_bits_float(sign | agq_float_bits(f));
}

/* Element i of scales of type AGQ_F32, AGQ_F16 or AGQ_BF16. */
static inline float agq_scale_at(const void *scales, size_t i, int type) {
  if (type == AGQ_BF16) return agq_bf16_float(((const uint16_t *)scales)[i]);
  if (type == AGQ_F16) return agq_f16_float(((const uint16_t *)scales)[i]);
  return ((const float *)scales)[i];
}

/* a*b + c: fused where the level has the instruction, else the product is rounded first (gemm.h). */
static inline float agq_madd(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

#endif
