/* attention_log2.h: attention in integers: q, k, v on static scales, probabilities that are powers of two, so that
 * their product with the values is shifts and additions. See attention_log2.c and docs/arithmetic.md.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_ATTENTION_LOG2_H
#define AGQ_ATTENTION_LOG2_H

#include "ops/attention.h"

/* Largest head: scores of int8 codes are exact in float32. */
enum { AGQ_LOG2_HEAD_DIM = 1024, AGQ_LOG2_ROWS = 6, AGQ_LOG2_FRACTION = 15 };

typedef struct agq_log2_scales {
  const float *q_scale, *k_scale; /* [heads], [kv_heads] */
  float v_scale;
  int v_zero;
  const uint8_t *v_exponent; /* [kv_heads][head_dim] */
} agq_log2_scales;

/* Codes alone: keys [position/64][head_dim][64], values [position][width], code - 128. */
agq_kv_layout agq_kv_layout_log2(int head_dim, int context);
void agq_kv_store_log2(const agq_kv_layout *kv, const agq_log2_scales *s, char *region, int kv_head, int position,
                       const float *key, const float *value);
/* As agq_attention_tile, at most AGQ_LOG2_ROWS rows. */
void agq_attention_log2_tile(const agq_attention *a, const char *region, int kv_head, int first, int begin, int end,
                             float *scratch);
size_t agq_attention_log2_scratch(const agq_kv_layout *kv);

#endif
