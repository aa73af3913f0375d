/* scalar.h: the kernels of level scalar: portable C, and the definition of what every other kernel computes.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_LEVELS_SCALAR_H
#define AGQ_LEVELS_SCALAR_H

#include "experiments/packed4/packed4.h"
#include "gemm/quantize.h"
#include "gemm/scalar/kernels.h"
#include "isa/levels.h"

AGQ_INHERITS(scalar, none)

/* clang-format off */
#define AGQ_KERNELS_scalar                                                                                       \
  .mr = 4, .grain = 0,                                                                                           \
  .u4a8 = {AGQ_NAME("u4", "s8", "16x1", "scalar"), agq_scalar_u4, AGQ_MAX_MR, 1, "int32"},                        \
  .u4a4 = {AGQ_NAME("u4", "s4", "16x1", "scalar"), agq_scalar_u4, AGQ_MAX_MR, 1, "int32"},                        \
  .i8a8 = {AGQ_NAME("i8", "s8", "16x1", "scalar"), agq_scalar_i8, AGQ_MAX_MR, 1, "int32"},                        \
  .i8a4 = {AGQ_NAME("i8", "s4", "16x1", "scalar"), agq_scalar_i8, AGQ_MAX_MR, 1, "int32"},                        \
  .u4a8_m1 = {AGQ_NAME("u4", "s8", "16x1", "scalar"), agq_scalar_u4, 1, 1, "int32"},                              \
  .u4a4_m1 = {AGQ_NAME("u4", "s4", "16x1", "scalar"), agq_scalar_u4, 1, 1, "int32"},                              \
  .i8a8_m1 = {AGQ_NAME("i8", "s8", "16x1", "scalar"), agq_scalar_i8, 1, 1, "int32"},                              \
  .i8a4_m1 = {AGQ_NAME("i8", "s4", "16x1", "scalar"), agq_scalar_i8, 1, 1, "int32"},                              \
  .packed4 = {AGQ_NAME("u4", "u4", "16x1", "scalar"), agq_packed4_scalar, AGQ_MAX_MR, 1,                          \
              "16-bit fields over 128 columns, then int32"},                                                     \
  .f32 = {AGQ_NAME("f32", "f32", "16x1", "scalar"), agq_scalar_float_f32},                                        \
  .f16 = {AGQ_NAME("f16", "f32", "16x1", "scalar"), agq_scalar_float_f16},                                        \
  .bf16 = {AGQ_NAME("bf16", "f32", "16x1", "scalar"), agq_scalar_float_bf16},                                     \
  .u4 = {AGQ_NAME("u4", "f32", "16x1", "scalar"), agq_scalar_float_u4},                                           \
  .i8 = {AGQ_NAME("i8", "f32", "16x1", "scalar"), agq_scalar_float_i8},                                           \
  .any = {AGQ_NAME("any", "s8", "16x1", "scalar"), agq_any_tile, AGQ_MAX_MR, 1, "int32"},                         \
  .any_float = {AGQ_NAME("any", "f32", "16x1", "scalar"), agq_any_float},                                         \
  .bytes = {AGQ_NAME("bytes", "s8", "16x1", "scalar"), agq_bytes_scalar, AGQ_MAX_MR, 1, "int32"},                 \
  .quantize_row = agq_quantize_row_scalar,                                                                       \
  .quantize_static = agq_quantize_static_scalar,                                                                 \
  .sum_blocks = agq_sum_blocks_scalar
/* clang-format on */

#endif
