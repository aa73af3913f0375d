/* avxvnni.h: the kernels of level avxvnni: those of avx2, with products of bytes summed in 32 bits (vpdpbusd).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_LEVELS_AVXVNNI_H
#define AGQ_LEVELS_AVXVNNI_H

#include "gemm/levels/avx2.h"

AGQ_INHERITS(avxvnni, avx2)

#define AGQ_KERNELS_avxvnni AGQ_KERNELS_avx2

#endif
