/* kernels.h: the Arm kernels.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_ARM_KERNELS_H
#define AGQ_ARM_KERNELS_H

#include "gemm/gemm.h"

/* Float activations and quantization: Armv8.0 (float.c, quantize.c). */
void agq_arm_f32(const agq_float_tile *t);
void agq_arm_f16(const agq_float_tile *t);
void agq_arm_bf16(const agq_float_tile *t);
void agq_arm_u4(const agq_float_tile *t);
void agq_arm_i8(const agq_float_tile *t);
void agq_arm_quantize_row(const float *x, int k, int k_padded, int bits, int group, int symmetric, float clip,
                          int8_t *codes, float *scales);
void agq_arm_quantize_static(const float *x, int k, int k_padded, const agq_static *s, int8_t *codes);
void agq_arm_sum_blocks(const int8_t *codes, int block, int blocks, int32_t *sums, int stride);

/* Integers with SMLAL (neon.c, neon_m1.c). */
void agq_neon_u4a8(const agq_tile *t);
void agq_neon_u4a4(const agq_tile *t);
void agq_neon_i8(const agq_tile *t);
void agq_neon_u4a8_m1(const agq_tile *t);
void agq_neon_u4a4_m1(const agq_tile *t);
void agq_neon_i8_m1(const agq_tile *t);

/* SDOT kernels (dotprod.c): both 4-bit and 8-bit activations. */
void agq_dot_u4(const agq_tile *t);
void agq_dot_i8(const agq_tile *t);
void agq_dot_u4_m1(const agq_tile *t);
void agq_dot_i8_m1(const agq_tile *t);

/* SMMLA (i8mm.c): two tokens and more. */
void agq_i8mm_u4(const agq_tile *t);
void agq_i8mm_i8(const agq_tile *t);

/* SDOT for 4-bit weights and 8, 12 or more tokens (dotprod_wide.c). */
#define AGQ_DOT_PANELS 4             /* weight panels that share what is prepared for the tokens */
int agq_dot_wide(const agq_tile *t); /* it can, and is faster */
void agq_dot_u4_wide(const agq_tile *t);

#endif
