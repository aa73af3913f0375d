/* table.c: the kernels of this x86 level.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "vec.h"

#if defined(AGQ_X86)
#include "experiments/packed4/packed4.h"
#include "kernels.h"

#define STRING(x) #x
#define TEXT(x) STRING(x)
#if defined(AGQ_ISA_AVX512VNNI)
#define SHAPE "32x"
#else
#define SHAPE "16x"
#endif
#if defined(AGQ_MADDUBS)
#define ACCUMULATOR(depth) "int16 over " depth " columns, then int32"
#define I8A8_ACCUMULATOR "int16 pairs, then int32"
#else
#define ACCUMULATOR(depth) "int32"
#define I8A8_ACCUMULATOR "int32"
#endif
#define TILE_KERNEL(name, fn, acc) \
  {name "_" SHAPE TEXT(AGQ_TILE_TOKENS) "_" AGQ_ISA_NAME, fn, AGQ_X86_MR, AGQ_X86_STEP, acc}
#define M1_KERNEL(name, fn, acc) {name "_m1_" AGQ_ISA_NAME, fn, 1, 4 / AGQ_NV, acc}

const agq_kernel_table agq_kernels_native = {
    .isa = AGQ_ISA_NAME,
    .mr = AGQ_X86_MR,
    .u4a8 = TILE_KERNEL("u4s8", agq_x86_tile_u4a8, ACCUMULATOR("32")),
    .u4a4 = TILE_KERNEL("u4s4", agq_x86_tile_u4a4, ACCUMULATOR("256")),
    .i8a8 = TILE_KERNEL("s8s8", agq_x86_tile_i8a8, I8A8_ACCUMULATOR),
    .i8a4 = TILE_KERNEL("s8s4", agq_x86_tile_i8a4, ACCUMULATOR("16")),
    .u4a8_m1 = M1_KERNEL("u4s8", agq_x86_m1_u4a8, ACCUMULATOR("32")),
    .u4a4_m1 = M1_KERNEL("u4s4", agq_x86_m1_u4a4, ACCUMULATOR("32 or 256")),
    .i8a8_m1 = M1_KERNEL("s8s8", agq_x86_m1_i8a8, I8A8_ACCUMULATOR),
    .i8a4_m1 = M1_KERNEL("s8s4", agq_x86_m1_i8a4, ACCUMULATOR("16")),
    .packed4 = {"u4u4_packed_" AGQ_ISA_NAME, agq_packed4_native, AGQ_MAX_MR, 8, "16-bit fields over 512 columns, then int32"},
    .f32 = agq_x86_f32, .f16 = agq_x86_f16, .bf16 = agq_x86_bf16, .u4 = agq_x86_u4, .i8 = agq_x86_i8,
    .float_name = "f32_" AGQ_ISA_NAME,
    .quantize_row = agq_x86_quantize_row,
    .quantize_static = agq_x86_quantize_static,
    .sum_blocks = agq_x86_sum_blocks,
};
#endif
