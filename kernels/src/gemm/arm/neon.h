/* neon.h: what the SMLAL kernels for several tokens (neon.c) and for one (neon_m1.c) share.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_ARM_NEON_H
#define AGQ_ARM_NEON_H

#include "common.h"

#define RUN_A8 128 /* columns that are summed in 16 bits */
#define RUN_A4 1024

/* 2 rows x 4 columns in each half. */
AGQ_INLINE int16x8_t mlal_low(int16x8_t acc, int8x16_t w, int8x16_t x) {
  return vmlal_s8(acc, vget_low_s8(w), vget_low_s8(x));
}

/* Two accumulators of 2 rows x 4 partial sums -> one of 4 rows. */
AGQ_INLINE int32x4_t rows4(int16x8_t a, int16x8_t b) { return vpaddq_s32(vpaddlq_s16(a), vpaddlq_s16(b)); }

#endif
