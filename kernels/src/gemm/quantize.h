/* quantize.h: one token of activations to codes and scales. The formulas stand in docs/arithmetic.md ("Activations").
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_QUANTIZE_H
#define AGQ_QUANTIZE_H

#include <stdint.h>

#include "gemm.h"

/* Ranges below it count as 0: the inverses of smaller ones need not be finite. */
#define AGQ_LEAST_RANGE 0x1p-120f

/* x[k] -> codes[k_padded] (plain order, padding 0; code - zero when asymmetric) and scales[k/group] (group 0: one
 * scale). bits: 4 or 8; symmetric = 0 with 4 bits only. clip: share of the range that the codes cover, 0 < clip <=
 * 1. Where a value is not finite the scale of its group is not either, and codes say nothing but stay in their range: what is
 * made of them is not finite. */
void agq_quantize_row_scalar(const float *x, int k, int k_padded, int bits, int group, int symmetric, float clip,
                             int8_t *codes, float *scales);

/* The static quantizer of a linear (act_static of agq.h), and one token through it: codes[k_padded], padding 0. */
agq_static agq_static_of(const agq_linear *l);
void agq_quantize_static_scalar(const float *x, int k, int k_padded, const agq_static *s, int8_t *codes);

/* Sums of `block` consecutive codes: sums[b * stride] for b < blocks. */
void agq_sum_blocks_scalar(const int8_t *codes, int block, int blocks, int32_t *sums, int stride);

#endif
