/* formats.h: the weight formats, one row each. Who wants to know how many bits, whether there are zero points, which
 * kernels compute it, asks the row.
 *
 * A new integer format is a number in agq.h, a row here and its `unpack`: gemm/scalar/any.c computes from the unpacked
 * bytes on every level, and the row names those kernels (SLOT(any), SLOT(any_float)); with codes of -127..127,
 * SLOT(bytes) gives them to the level's kernels of AGQ_I8 (gemm/scalar/bytes.c). Kernels of its own come afterwards: a
 * slot in agq_kernel_table, set by the levels that have one. The seam in gemm/x86/tile.c and gemm/arm/dotprod_wide.c is
 * their `unpack`, which turns a chunk of columns into bytes in L1 in this same order before the products.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_FORMATS_H
#define AGQ_FORMATS_H

#include <stddef.h>

#include "gemm/gemm.h"

#define AGQ_UNPACK_COLUMNS 32 /* `columns` of an unpack are a multiple: integer weights are padded up to it */

/* `columns` of a panel, from the start of a unit on, to codes[column / 4][16 rows][4 columns]: the order of AGQ_I8. */
void agq_unpack_u4(const uint8_t *w, int columns, int8_t *codes);
void agq_unpack_i8(const uint8_t *w, int columns, int8_t *codes);
void agq_unpack_i6(const uint8_t *w, int columns, int8_t *codes);

typedef struct agq_format {
  const char *name;
  int bits;                  /* of a weight */
  int integer;               /* 1: codes with scales; 0: floats, which take float activations only */
  int least, most;           /* codes */
  int symmetric_zero;        /* the zero point of all rows where there is no tensor of zero points, nor of minima */
  int least_zero, most_zero; /* zero points */
  int static8;               /* 1: takes static 8-bit activations (act_static of agq.h) */
  void (*unpack)(const uint8_t *w, int columns, int8_t *codes);
  /* Its kernels, as offsets into agq_kernel_table: for 8-bit and 4-bit activations, several tokens and one; for float
   * activations; the packed multiplier (0: it has none). */
  size_t many[2], one[2], floats, packed;
} agq_format;

#define SLOT(name) offsetof(agq_kernel_table, name)
static const agq_format agq_formats[] = {
    [AGQ_F32] = {.name = "f32", .bits = 32, .floats = SLOT(f32)},
    [AGQ_F16] = {.name = "f16", .bits = 16, .floats = SLOT(f16)},
    [AGQ_BF16] = {.name = "bf16", .bits = 16, .floats = SLOT(bf16)},
    /* clang-format off */
    [AGQ_I8] = {.name = "i8", .bits = 8, .integer = 1, .least = -128, .most = 127, .least_zero = -128, .most_zero = 127,
                .static8 = 1, .unpack = agq_unpack_i8,
                .many = {SLOT(i8a8), SLOT(i8a4)}, .one = {SLOT(i8a8_m1), SLOT(i8a4_m1)}, .floats = SLOT(i8)},
    [AGQ_U4] = {.name = "u4", .bits = 4, .integer = 1, .least = 0, .most = 15, .symmetric_zero = 8, .least_zero = 0,
                .most_zero = 15, .unpack = agq_unpack_u4,
                .many = {SLOT(u4a8), SLOT(u4a4)}, .one = {SLOT(u4a8_m1), SLOT(u4a4_m1)}, .floats = SLOT(u4),
                .packed = SLOT(packed4)},
    [AGQ_I6] = {.name = "i6", .bits = 6, .integer = 1, .least = -32, .most = 31, .least_zero = -32, .most_zero = 31,
                .unpack = agq_unpack_i6,
                .many = {SLOT(bytes), SLOT(bytes)}, .one = {SLOT(bytes), SLOT(bytes)}, .floats = SLOT(any_float)},
    /* clang-format on */
};
#undef SLOT

/* The row of AGQ_F32 .. AGQ_I6; NULL for any other number. */
static inline const agq_format *agq_format_of(int dtype) {
  const int count = (int)(sizeof agq_formats / sizeof *agq_formats);
  return dtype >= 0 && dtype < count ? &agq_formats[dtype] : NULL;
}
/* The zero point of all rows of a linear that has no tensor of zero points. */
static inline int agq_symmetric_zero(const agq_linear *l) {
  return l->minimum ? 0 : agq_formats[l->weight_dtype].symmetric_zero;
}
/* Bytes of `columns` columns of a panel. */
static inline size_t agq_format_bytes(const agq_format *f, size_t columns) {
  return columns * AGQ_PANEL * (size_t)f->bits / 8;
}
/* Columns of a unit of 64 bytes: the 16 rows side by side. */
static inline int agq_format_unit(const agq_format *f) { return 64 * 8 / (AGQ_PANEL * f->bits); }

static inline const agq_kernel *agq_format_kernel(const agq_kernel_table *kt, size_t slot) {
  return (const agq_kernel *)((const char *)kt + slot);
}
static inline const agq_float_kernel *agq_format_floats(const agq_kernel_table *kt, size_t slot) {
  return (const agq_float_kernel *)((const char *)kt + slot);
}

#endif
