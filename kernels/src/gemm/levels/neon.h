/* neon.h: the kernels of level neon (Armv8.0: Cortex-A53, A72).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_LEVELS_NEON_H
#define AGQ_LEVELS_NEON_H

#include "gemm/arm/kernels.h"
#include "gemm/levels/scalar.h"

AGQ_INHERITS(neon, scalar)

#define AGQ_NEON_SUMS(depth) "int16 over " depth ", then int32"

/* clang-format off */
#define AGQ_KERNELS_neon                                                                                          \
  AGQ_KERNELS_scalar,                                                                                             \
  .mr = 16, .grain = 4,                                                                                           \
  .u4a8 = {AGQ_NAME("u4", "s8", "8x4", "neon"), agq_neon_u4a8, 16, 1, AGQ_NEON_SUMS("128 columns")},              \
  .u4a4 = {AGQ_NAME("u4", "s4", "8x4", "neon"), agq_neon_u4a4, 16, 1, AGQ_NEON_SUMS("1024 columns")},             \
  .i8a8 = {AGQ_NAME("i8", "s8", "8x4", "neon"), agq_neon_i8, 16, 1, AGQ_NEON_SUMS("2 products")},                 \
  .i8a4 = {AGQ_NAME("i8", "s4", "8x4", "neon"), agq_neon_i8, 16, 1, AGQ_NEON_SUMS("2 products")},                 \
  .u4a8_m1 = {AGQ_NAME("u4", "s8", "16x1", "neon"), agq_neon_u4a8_m1, 1, 1, AGQ_NEON_SUMS("128 columns")},        \
  .u4a4_m1 = {AGQ_NAME("u4", "s4", "16x1", "neon"), agq_neon_u4a4_m1, 1, 1, AGQ_NEON_SUMS("1024 columns")},       \
  .i8a8_m1 = {AGQ_NAME("i8", "s8", "16x1", "neon"), agq_neon_i8_m1, 1, 1, AGQ_NEON_SUMS("2 products")},           \
  .i8a4_m1 = {AGQ_NAME("i8", "s4", "16x1", "neon"), agq_neon_i8_m1, 1, 1, AGQ_NEON_SUMS("2 products")},           \
  .packed4 = {AGQ_NAME("u4", "u4", "16x2", "neon"), agq_packed4_native, AGQ_MAX_MR, 8, AGQ_PACKED4_SUMS},         \
  .bytes = {AGQ_NAME("bytes", "s8", "8x4", "neon"), agq_bytes_native, 16, 1, AGQ_NEON_SUMS("2 products")},        \
  .f32 = {AGQ_NAME("f32", "f32", "16x4", "neon"), agq_arm_f32},                                                   \
  .f16 = {AGQ_NAME("f16", "f32", "16x4", "neon"), agq_arm_f16},                                                   \
  .bf16 = {AGQ_NAME("bf16", "f32", "16x4", "neon"), agq_arm_bf16},                                                \
  .u4 = {AGQ_NAME("u4", "f32", "16x4", "neon"), agq_arm_u4},                                                      \
  .i8 = {AGQ_NAME("i8", "f32", "16x4", "neon"), agq_arm_i8},                                                      \
  .quantize_row = agq_arm_quantize_row,                                                                           \
  .quantize_static = agq_arm_quantize_static,                                                                     \
  .sum_blocks = agq_arm_sum_blocks
/* clang-format on */

#endif
