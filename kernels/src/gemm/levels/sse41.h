/* sse41.h: the kernels of level sse41, which are those of every x86 level: gemm/x86 is written for vectors of any
 * length.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_LEVELS_SSE41_H
#define AGQ_LEVELS_SSE41_H

#include "gemm/levels/scalar.h"
#include "gemm/x86/kernels.h"

AGQ_INHERITS(sse41, scalar)

#if defined(AGQ_HAS_DPBUSD)
#define AGQ_X86_SUMS(depth) "int32"
#define AGQ_X86_PAIRS "int32"
#else
#define AGQ_X86_SUMS(depth) "int16 over " depth " columns, then int32"
#define AGQ_X86_PAIRS "int16 pairs, then int32"
#endif
#define AGQ_X86_TILE(weights, activations, run, accumulator)                                                     \
  {AGQ_NAME(weights, activations, AGQ_TEXT(AGQ_TILE_ROWS) "x" AGQ_TEXT(AGQ_TILE_TOKENS), AGQ_VECTOR_LEVEL), run, \
   AGQ_X86_MR, AGQ_X86_STEP, accumulator}
/* Four vectors of rows: as many rows as a vector has bytes. */
#define AGQ_X86_M1(weights, activations, run, accumulator)                                                           \
  {AGQ_NAME(weights, activations, AGQ_TEXT(AGQ_VECTOR_BYTES) "x1", AGQ_VECTOR_LEVEL), run, 1, AGQ_VECTOR_BYTES / 16, \
   accumulator}
#define AGQ_X86_FLOAT(weights, run) \
  {AGQ_NAME(weights, "f32", AGQ_TEXT(AGQ_FLOAT_ROWS) "x" AGQ_TEXT(AGQ_FLOAT_TOKENS), AGQ_VECTOR_LEVEL), run}

/* clang-format off */
#define AGQ_KERNELS_sse41                                                                \
  AGQ_KERNELS_scalar,                                                                    \
  .mr = AGQ_X86_MR,                                                                      \
  .u4a8 = AGQ_X86_TILE("u4", "s8", agq_x86_tile_u4a8, AGQ_X86_SUMS("32")),               \
  .u4a4 = AGQ_X86_TILE("u4", "s4", agq_x86_tile_u4a4, AGQ_X86_SUMS("256")),              \
  .i8a8 = AGQ_X86_TILE("i8", "s8", agq_x86_tile_i8a8, AGQ_X86_PAIRS),                    \
  .i8a4 = AGQ_X86_TILE("i8", "s4", agq_x86_tile_i8a4, AGQ_X86_SUMS("16")),               \
  .u4a8_m1 = AGQ_X86_M1("u4", "s8", agq_x86_m1_u4a8, AGQ_X86_SUMS("32")),                \
  .u4a4_m1 = AGQ_X86_M1("u4", "s4", agq_x86_m1_u4a4, AGQ_X86_SUMS("32 or 256")),         \
  .i8a8_m1 = AGQ_X86_M1("i8", "s8", agq_x86_m1_i8a8, AGQ_X86_PAIRS),                     \
  .i8a4_m1 = AGQ_X86_M1("i8", "s4", agq_x86_m1_i8a4, AGQ_X86_SUMS("16")),                \
  .packed4 = {AGQ_NAME("u4", "u4", "16x2", AGQ_VECTOR_LEVEL), agq_packed4_native, AGQ_MAX_MR, 8, AGQ_PACKED4_SUMS}, \
  .bytes = AGQ_X86_TILE("bytes", "s8", agq_bytes_native, AGQ_X86_PAIRS),                 \
  .f32 = AGQ_X86_FLOAT("f32", agq_x86_f32),                                              \
  .f16 = AGQ_X86_FLOAT("f16", agq_x86_f16),                                              \
  .bf16 = AGQ_X86_FLOAT("bf16", agq_x86_bf16),                                           \
  .u4 = AGQ_X86_FLOAT("u4", agq_x86_u4),                                                 \
  .i8 = AGQ_X86_FLOAT("i8", agq_x86_i8),                                                 \
  .quantize_row = agq_x86_quantize_row,                                                  \
  .quantize_static = agq_x86_quantize_static,                                            \
  .sum_blocks = agq_x86_sum_blocks
/* clang-format on */

#endif
