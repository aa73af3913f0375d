/* shape.h: derived sizes of a linear, and its validation.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_SHAPE_H
#define AGQ_SHAPE_H

#include <stddef.h>

#include "agq.h"

/* Longest block whose int32 accumulator cannot overflow: |code - zero| <= 255, |activation| <= 128, and
 * 255 * 128 * 65536 < 2^31. */
#define AGQ_MAX_BLOCK 65536
/* Most binary exponent of a column of static activations: 15 << 3 = 120 is still an int8 operand. */
#define AGQ_MAX_EXPONENT 3

typedef struct {
  int integer;                                /* 1: integer activations */
  int groups;                                 /* weight scales, and minima, per row (0 for float weights) */
  int block, blocks;                          /* see gemm.h (integer activations) */
  int group_blocks;                           /* blocks per weight group */
  int act_blocks;                             /* blocks per activation scale, 0: per token */
  int act_scales;                             /* activation scales per token */
  size_t panel_bytes;                         /* weight bytes of a panel */
  size_t scale_panel_bytes, zero_panel_bytes; /* the first of minima, too */
} agq_shape;

/* Fills `s`. AGQ_OK, AGQ_ERR_ARGUMENT for a descriptor that is wrong in itself, AGQ_ERR_UNSUPPORTED for one that no
 * kernel computes. */
int agq_linear_shape(const agq_linear *l, agq_shape *s);

/* 1: each number below n occurs once in order[n]. Allocates nothing. */
int agq_permutation(const uint32_t *order, uint32_t n);

#endif
