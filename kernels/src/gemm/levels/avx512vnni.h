/* avx512vnni.h: the kernels of level avx512vnni: those of avx2, with vpdpbusd, vectors of 64 bytes and 32 registers.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_LEVELS_AVX512VNNI_H
#define AGQ_LEVELS_AVX512VNNI_H

#include "gemm/levels/avx2.h"

AGQ_INHERITS(avx512vnni, avx2)

#define AGQ_KERNELS_avx512vnni AGQ_KERNELS_avx2

#endif
