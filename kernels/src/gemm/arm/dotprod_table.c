/* dotprod_table.c: the kernels of the level "dotprod". 4-bit activations use those for 8: SDOT has no narrower form, and its
 * accumulator never needs widening.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(AGQ_ISA_DOTPROD)

#include "kernels.h"

const agq_kernel_table agq_kernels_native = {
    .isa = "dotprod",
    .mr = 64,
    .grain = 4,
    .u4a8 = {"u4s8_4x12_dotprod", agq_dot_u4, 64, AGQ_DOT_PANELS, "int32"},
    .u4a4 = {"u4s8_4x12_dotprod", agq_dot_u4, 64, AGQ_DOT_PANELS, "int32"},
    .i8a8 = {"i8s8_8x8_dotprod", agq_dot_i8, 64, 1, "int32"},
    .i8a4 = {"i8s8_8x8_dotprod", agq_dot_i8, 64, 1, "int32"},
    .u4a8_m1 = {"u4s8_16x1_dotprod", agq_dot_u4_m1, 1, 1, "int32"},
    .u4a4_m1 = {"u4s8_16x1_dotprod", agq_dot_u4_m1, 1, 1, "int32"},
    .i8a8_m1 = {"i8s8_16x1_dotprod", agq_dot_i8_m1, 1, 1, "int32"},
    .i8a4_m1 = {"i8s8_16x1_dotprod", agq_dot_i8_m1, 1, 1, "int32"},
    AGQ_ARM_FLOAT_KERNELS,
};

#endif
