/* SPDX-License-Identifier: Apache-2.0 */
#include "attention.h"
#include "ops.h"

#include <string.h>

static int multiply(size_t a, size_t b, size_t *result) { return !__builtin_mul_overflow(a, b, result); }

/* Sizes of the 4-bit cache. A group is 128 channels where that divides the head, else the whole head. */
static agq_kv_layout layout4(agq_kv_layout kv) {
  kv.hadamard = kv.head_dim & -kv.head_dim;
  kv.group = kv.head_dim % 128 == 0 ? 128 : kv.head_dim;
  kv.groups = kv.head_dim / kv.group;
  kv.key_pairs = ((size_t)kv.head_dim + 1) / 2;
  kv.value_stride = ((size_t)kv.width + 31) / 32 * 16;
  const size_t positions = (size_t)kv.positions, groups = (size_t)kv.groups; /* head_dim <= 2^14: nothing overflows */
  kv.value_offset = positions * kv.key_pairs;
  kv.key_scale_offset = kv.value_offset + positions * kv.value_stride;
  kv.value_scale_offset = kv.key_scale_offset + positions * groups * sizeof(float);
  kv.key_zero_offset = kv.value_scale_offset + positions * groups * sizeof(float);
  kv.value_zero_offset = kv.key_zero_offset + positions * groups;
  kv.region_bytes = kv.value_zero_offset + positions * groups;
  return kv;
}

agq_kv_layout agq_kv_layout_make(int bits, int head_dim, int context) {
  agq_kv_layout kv = {.bits = bits, .head_dim = head_dim};
  if (context > INT32_MAX - AGQ_KEY_BLOCK || head_dim > INT32_MAX - 16) return kv;
  kv.width = (head_dim + 15) / 16 * 16;
  kv.positions = (context + AGQ_KEY_BLOCK - 1) / AGQ_KEY_BLOCK * AGQ_KEY_BLOCK;
  if (bits == 4) return layout4(kv);
  const size_t element = bits == 8 ? 1 : sizeof(float);
  size_t keys, values, scales = bits == 8 ? (size_t)kv.positions * sizeof(float) : 0, total;
  if (!multiply((size_t)kv.positions * element, (size_t)head_dim, &keys)) return kv;
  if (!multiply((size_t)kv.positions * element, (size_t)kv.width, &values)) return kv;
  kv.value_offset = keys; /* positions is a multiple of 64: every part starts at one */
  if (__builtin_add_overflow(keys, values, &kv.key_scale_offset)) return kv;
  if (__builtin_add_overflow(kv.key_scale_offset, scales, &kv.value_scale_offset)) return kv;
  if (__builtin_add_overflow(kv.value_scale_offset, scales, &total)) return kv;
  kv.region_bytes = total;
  return kv;
}

void agq_kv_store(const agq_kv_layout *kv, char *region, int position, const float *key, const float *value) {
  if (kv->bits == 4) {
    agq_kv4_store(kv, region, position, key, value);
    return;
  }
  const size_t n = (size_t)kv->head_dim, block = (size_t)(position / AGQ_KEY_BLOCK),
               in_block = (size_t)(position % AGQ_KEY_BLOCK);
  const size_t k_at = block * n * AGQ_KEY_BLOCK + in_block, v_at = (size_t)position * (size_t)kv->width;
  if (kv->bits == 8) {
    float *key_scales = (float *)(region + kv->key_scale_offset),
          *value_scales = (float *)(region + kv->value_scale_offset);
    key_scales[position] = agq_quantize_head(key, (int8_t *)region + k_at, kv->head_dim, AGQ_KEY_BLOCK);
    value_scales[position] = agq_quantize_head(value, (int8_t *)(region + kv->value_offset) + v_at, kv->head_dim, 1);
    return;
  }
  float *k = (float *)region + k_at;
  for (size_t i = 0; i < n; i++)
    k[i * AGQ_KEY_BLOCK] = key[i] + 0 * key[i]; /* infinity is NaN: no score of -infinity hides it */
  memcpy((float *)(region + kv->value_offset) + v_at, value, n * sizeof(float));
}
