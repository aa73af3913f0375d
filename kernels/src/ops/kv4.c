/* kv4.c: the 4-bit KV cache: codes of keys and values, and blocks of them as floats. Layout: attention.h; formulas:
 * docs/arithmetic.md ("KV cache").
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "attention.h"
#include "gemm/quantize.h"
#include "ops.h"
#include "vec.h"

/* The comparisons choose the bound where the other operand is a NaN: codes stay in 0..15. */
static inline float clamp_rint(float x, float lo, float hi) {
  x = x < hi ? x : hi;
  x = x > lo ? x : lo;
  return (x + AGQ_ROUND_MAGIC) - AGQ_ROUND_MAGIC;
}

/* Scale and zero point of x[n], and 15 / range; 0 for a row of zeros. A scale that is not finite where a value is not. */
static float range4(const float *x, int n, uint8_t *zero, float *inverse) {
  vf lo = vset(0), hi = vset(0);
  int i = 0;
  for (; i + VW <= n; i += VW) lo = vmin(vload(x + i), lo), hi = vmax(vload(x + i), hi);
  if (i < n) lo = vmin(vload_n(x + i, n - i), lo), hi = vmax(vload_n(x + i, n - i), hi);
  const float least = -vmax_lane(-lo), range = vmax_lane(hi) - least;
  *zero = 0, *inverse = 0;
  if (!agq_finite_row(x, n)) return NAN;
  if (range < AGQ_LEAST_RANGE) return 0;
  *inverse = 15.0f / range;
  *zero = (uint8_t)clamp_rint(-least * *inverse, 0, 15);
  return range / 15.0f;
}

/* Codes of x[n], which starts at channel `first` of its head. Keys: channels 2i and 2i + 1 share a byte; values:
 * channels 32u + i and 32u + 16 + i. The low half holds the first. */
static void encode4(const float *x, int n, int first, float inverse, uint8_t zero, int keys, uint8_t *to) {
  const float z = (float)zero;
  for (int i = 0; i < n; i++) {
    const int c = first + i, high = keys ? c & 1 : c / 16 & 1;
    uint8_t *byte = to + (keys ? (size_t)(c / 2) * AGQ_KEY_BLOCK : (size_t)(c / 32) * 16 + (size_t)(c % 16));
    const int code = (int)clamp_rint(x[i] * inverse, -z, 15.0f - z) + zero;
    *byte = (uint8_t)(high ? (*byte & 0x0f) | code << 4 : (*byte & 0xf0) | code);
  }
}

void agq_kv4_store(const agq_kv_layout *kv, char *region, int position, const float *key, const float *value) {
  const size_t block = (size_t)(position / AGQ_KEY_BLOCK), in_block = (size_t)(position % AGQ_KEY_BLOCK);
  uint8_t *keys = (uint8_t *)region + block * kv->key_pairs * AGQ_KEY_BLOCK + in_block;
  uint8_t *values = (uint8_t *)(region + kv->value_offset) + (size_t)position * kv->value_stride;
  for (int g = 0; g < kv->groups; g++) {
    const int first = g * kv->group;
    const size_t at = (size_t)g * (size_t)kv->positions + (size_t)position;
    uint8_t *zeros = (uint8_t *)(region + kv->key_zero_offset) + at;
    float inverse;
    ((float *)(region + kv->key_scale_offset))[at] = range4(key + first, kv->group, zeros, &inverse);
    encode4(key + first, kv->group, first, inverse, *zeros, 1, keys);
    zeros = (uint8_t *)(region + kv->value_zero_offset) + at;
    ((float *)(region + kv->value_scale_offset))[at] = range4(value + first, kv->group, zeros, &inverse);
    encode4(value + first, kv->group, first, inverse, *zeros, 0, values);
  }
}

void agq_kv4_keys(const agq_kv_layout *kv, const char *region, int key, int cols, float *to) {
  const uint8_t *codes = (const uint8_t *)region + (size_t)(key / AGQ_KEY_BLOCK) * kv->key_pairs * AGQ_KEY_BLOCK;
  for (int g = 0; g < kv->groups; g++) {
    const int begin = g * kv->group, end = begin + kv->group;
    const size_t at = (size_t)g * (size_t)kv->positions + (size_t)key;
    const float *scales = (const float *)(region + kv->key_scale_offset) + at;
    const uint8_t *zeros = (const uint8_t *)(region + kv->key_zero_offset) + at;
    for (int j = 0; j < cols; j += VW) {
      const vf s = vload(scales + j);
      const vi z = vload_u8(zeros + j);
      for (int c = begin; c < end; c += 2) {
        const vi pair = vload_u8(codes + (size_t)(c / 2) * AGQ_KEY_BLOCK + j);
        float *y = to + (size_t)c * AGQ_KEY_BLOCK + j;
        vstore(y, __builtin_convertvector((pair & viset(15)) - z, vf) * s);
        if (c + 1 < end) vstore(y + AGQ_KEY_BLOCK, __builtin_convertvector((pair >> 4) - z, vf) * s);
      }
    }
  }
}

void agq_kv4_values(const agq_kv_layout *kv, const char *region, int key, int keys, float *to) {
  const uint8_t *codes = (const uint8_t *)(region + kv->value_offset) + (size_t)key * kv->value_stride;
  const float *scales = (const float *)(region + kv->value_scale_offset) + key;
  const uint8_t *zeros = (const uint8_t *)(region + kv->value_zero_offset) + key;
  for (int j = 0; j < keys; j++, codes += kv->value_stride, to += kv->width)
    for (int c = 0; c < kv->width; c += 32) { /* groups are whole runs of 32 channels, or the head */
      const size_t at = (size_t)(c / kv->group) * (size_t)kv->positions;
      const vf s = vset(scales[at + (size_t)j]);
      const vi z = viset(zeros[at + (size_t)j]);
      for (int i = 0; i < 16; i += VW) {
        const vi pair = vload_u8(codes + c / 2 + i);
        vstore(to + c + i, __builtin_convertvector((pair & viset(15)) - z, vf) * s);
        if (c + 16 < kv->width) vstore(to + c + 16 + i, __builtin_convertvector((pair >> 4) - z, vf) * s);
      }
    }
}

/* Sixteen bytes at a time at every level. */
typedef uint8_t vbytes __attribute__((vector_size(16)));
VINLINE vbytes bytes16(const uint8_t *p) {
  vbytes v;
  memcpy(&v, p, 16);
  return v;
}
VINLINE vbytes fill16(uint8_t x) { return (vbytes){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
VINLINE void store16(int8_t *p, vbytes v) { memcpy(p, &v, 16); }

void agq_kv4_key_codes(const agq_kv_layout *kv, const char *region, int key, int8_t *to) {
  const uint8_t *codes = (const uint8_t *)region + (size_t)(key / AGQ_KEY_BLOCK) * kv->key_pairs * AGQ_KEY_BLOCK;
  const uint8_t *zeros = (const uint8_t *)(region + kv->key_zero_offset) + key;
  for (int c = 0; c < kv->head_dim; c += 2, codes += AGQ_KEY_BLOCK, to += 2 * AGQ_KEY_BLOCK)
    for (int j = 0; j < AGQ_KEY_BLOCK; j += 16) {
      const vbytes pair = bytes16(codes + j), z = bytes16(zeros + j);
      store16(to + j, (pair & fill16(15)) - z);
      if (c + 1 < kv->head_dim) store16(to + AGQ_KEY_BLOCK + j, (pair >> 4) - z);
    }
}

void agq_kv4_value_codes(const agq_kv_layout *kv, const char *region, int key, int keys, int8_t *to) {
  const uint8_t *codes = (const uint8_t *)(region + kv->value_offset) + (size_t)key * kv->value_stride;
  const uint8_t *zeros = (const uint8_t *)(region + kv->value_zero_offset) + key;
  for (int j = 0; j < keys; j++, codes += kv->value_stride, to += kv->width)
    for (int c = 0; c < kv->width; c += 32) {
      const vbytes pair = bytes16(codes + c / 2), z = fill16(zeros[j]);
      store16(to + c, (pair & fill16(15)) - z);
      if (c + 16 < kv->width) store16(to + c + 16, (pair >> 4) - z);
    }
}
