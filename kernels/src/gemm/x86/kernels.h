/* kernels.h: the x86 kernels of the level that is being compiled.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_X86_KERNELS_H
#define AGQ_X86_KERNELS_H

#include "formats/formats.h"
#include "isa/features.h"

/* Kinds of integer products: weight format x activation bits; the last one for codes down to -128 (agq_tile.lowest). */
enum { AGQ_U4A8, AGQ_U4A4, AGQ_I8A8, AGQ_I8A4, AGQ_I8A8_LOWEST };
#define AGQ_KIND_U4(kind) ((kind) == AGQ_U4A8 || (kind) == AGQ_U4A4)
/* TRAIT(row of the weights): a choice between constants, also where the kind is not one. */
#define AGQ_OF_KIND(u4, TRAIT) ((u4) ? TRAIT(&agq_formats[AGQ_U4]) : TRAIT(&agq_formats[AGQ_I8]))
#define AGQ_BITS(format) (format)->bits

/* Rows and tokens of one register tile, of integers and of floats, and tokens of one token panel: the panel is cut into
 * tiles that share the unpacked weights. */
#if AGQ_VECTOR_BYTES == 64
#define AGQ_TILE_ROWS 32
#define AGQ_TILE_TOKENS 12
#define AGQ_X86_MR 48
#define AGQ_X86_STEP 4
#define AGQ_FLOAT_ROWS 32
#define AGQ_FLOAT_TOKENS 8
#elif defined(AGQ_HAS_DPBUSD)
#define AGQ_TILE_ROWS 16
#define AGQ_TILE_TOKENS 6
#define AGQ_X86_MR 36
#define AGQ_X86_STEP 2
#define AGQ_FLOAT_ROWS 16
#define AGQ_FLOAT_TOKENS 6
#else
#define AGQ_TILE_ROWS 16
#define AGQ_TILE_TOKENS 5
#define AGQ_X86_MR 40
#define AGQ_X86_STEP 1
#if AGQ_VECTOR_BYTES == 32
#define AGQ_FLOAT_ROWS 16
#define AGQ_FLOAT_TOKENS 6
#else
#define AGQ_FLOAT_ROWS 8
#define AGQ_FLOAT_TOKENS 3
#endif
#endif

void agq_x86_tile_u4a8(const agq_tile *t);
void agq_x86_tile_u4a4(const agq_tile *t);
void agq_x86_tile_i8a8(const agq_tile *t);
void agq_x86_tile_i8a4(const agq_tile *t);
void agq_x86_m1_u4a8(const agq_tile *t);
void agq_x86_m1_u4a4(const agq_tile *t);
void agq_x86_m1_i8a8(const agq_tile *t);
void agq_x86_m1_i8a4(const agq_tile *t);
void agq_x86_f32(const agq_float_tile *t);
void agq_x86_f16(const agq_float_tile *t);
void agq_x86_bf16(const agq_float_tile *t);
void agq_x86_u4(const agq_float_tile *t);
void agq_x86_i8(const agq_float_tile *t);
void agq_x86_quantize_row(const float *x, int k, int k_padded, int bits, int group, int symmetric, float clip,
                          int8_t *codes, float *scales);
void agq_x86_quantize_static(const float *x, int k, int k_padded, const agq_static *s, int8_t *codes);
void agq_x86_sum_blocks(const int8_t *codes, int block, int blocks, int32_t *sums, int stride);

#endif
