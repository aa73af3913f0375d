/* avx2.h: the kernels of level avx2: those of sse41, with longer vectors.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_LEVELS_AVX2_H
#define AGQ_LEVELS_AVX2_H

#include "gemm/levels/sse41.h"

AGQ_INHERITS(avx2, sse41)

#define AGQ_KERNELS_avx2 AGQ_KERNELS_sse41

#endif
