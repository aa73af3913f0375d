/* kernels.h: the portable kernels; see kernels.c.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_SCALAR_KERNELS_H
#define AGQ_SCALAR_KERNELS_H

#include "gemm/gemm.h"

void agq_scalar_u4(const agq_tile *t);
void agq_scalar_i8(const agq_tile *t);
void agq_scalar_float_f32(const agq_float_tile *t);
void agq_scalar_float_f16(const agq_float_tile *t);
void agq_scalar_float_bf16(const agq_float_tile *t);
void agq_scalar_float_u4(const agq_float_tile *t);
void agq_scalar_float_i8(const agq_float_tile *t);
/* Any integer format (any.c). */
void agq_any_tile(const agq_tile *t);
void agq_any_float(const agq_float_tile *t);
/* Any integer format whose codes are those of AGQ_I8, by the level's kernels for it (bytes.c). */
void agq_bytes_scalar(const agq_tile *t);
void agq_bytes_native(const agq_tile *t);

#endif
