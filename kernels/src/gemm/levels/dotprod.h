/* dotprod.h: the kernels of level dotprod (Armv8.2 with SDOT: Cortex-A76, Neoverse-N1). Those for 4-bit activations are
 * those for 8: SDOT has no narrower form, and its accumulator never needs widening.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_LEVELS_DOTPROD_H
#define AGQ_LEVELS_DOTPROD_H

#include "gemm/levels/neon.h"

AGQ_INHERITS(dotprod, neon)

/* clang-format off */
#define AGQ_KERNELS_dotprod                                                                              \
  AGQ_KERNELS_neon,                                                                                      \
  .mr = 64,                                                                                              \
  .u4a8 = {AGQ_NAME("u4", "s8", "4x12", "dotprod"), agq_dot_u4, 64, AGQ_DOT_PANELS, "int32"},            \
  .u4a4 = {AGQ_NAME("u4", "s4", "4x12", "dotprod"), agq_dot_u4, 64, AGQ_DOT_PANELS, "int32"},            \
  .i8a8 = {AGQ_NAME("i8", "s8", "8x8", "dotprod"), agq_dot_i8, 64, 1, "int32"},                          \
  .i8a4 = {AGQ_NAME("i8", "s4", "8x8", "dotprod"), agq_dot_i8, 64, 1, "int32"},                          \
  .bytes = {AGQ_NAME("bytes", "s8", "8x8", "dotprod"), agq_bytes_native, 64, 1, "int32"},                \
  .u4a8_m1 = {AGQ_NAME("u4", "s8", "16x1", "dotprod"), agq_dot_u4_m1, 1, 1, "int32"},                    \
  .u4a4_m1 = {AGQ_NAME("u4", "s4", "16x1", "dotprod"), agq_dot_u4_m1, 1, 1, "int32"},                    \
  .i8a8_m1 = {AGQ_NAME("i8", "s8", "16x1", "dotprod"), agq_dot_i8_m1, 1, 1, "int32"},                    \
  .i8a4_m1 = {AGQ_NAME("i8", "s4", "16x1", "dotprod"), agq_dot_i8_m1, 1, 1, "int32"}
/* clang-format on */

#endif
