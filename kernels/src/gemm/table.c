/* table.c: the kernels that run here: those of gemm/levels/<level>.h, which begin with those of the level's parent.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "gemm.h"
#include "isa/features.h"

/* Spaces around the slashes would be a part of the name. */
/* clang-format off */
#include AGQ_TEXT(gemm/levels/AGQ_ISA.h)
/* clang-format on */

/* A level's kernel stands after the one of its parent that it replaces, in the same initializer. */
#if defined(__clang__)
#pragma clang diagnostic ignored "-Winitializer-overrides"
#else
#pragma GCC diagnostic ignored "-Woverride-init"
#endif

const agq_kernel_table agq_kernels_scalar = {.isa = "scalar", AGQ_KERNELS_scalar};
const agq_kernel_table agq_kernels_native = {.isa = AGQ_ISA_NAME, AGQ_JOIN(AGQ_KERNELS_, AGQ_ISA)};
