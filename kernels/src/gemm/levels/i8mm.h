/* i8mm.h: the kernels of level i8mm (Armv8.6, or 8.2 with the extension: Neoverse-V1, N2, Cortex-A510 and later). One
 * token has nothing to pair for SMMLA: those kernels are dotprod's.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_LEVELS_I8MM_H
#define AGQ_LEVELS_I8MM_H

#include "gemm/levels/dotprod.h"

AGQ_INHERITS(i8mm, dotprod)

/* clang-format off */
#define AGQ_KERNELS_i8mm                                                                \
  AGQ_KERNELS_dotprod,                                                                  \
  .mr = 16, .grain = 0,                                                                 \
  .u4a8 = {AGQ_NAME("u4", "s8", "8x8", "i8mm"), agq_i8mm_u4, 16, 1, "int32"},           \
  .u4a4 = {AGQ_NAME("u4", "s4", "8x8", "i8mm"), agq_i8mm_u4, 16, 1, "int32"},           \
  .bytes = {AGQ_NAME("bytes", "s8", "8x8", "i8mm"), agq_bytes_native, 16, 1, "int32"},  \
  .i8a8 = {AGQ_NAME("i8", "s8", "8x8", "i8mm"), agq_i8mm_i8, 16, 1, "int32"},           \
  .i8a4 = {AGQ_NAME("i8", "s4", "8x8", "i8mm"), agq_i8mm_i8, 16, 1, "int32"}
/* clang-format on */

#endif
